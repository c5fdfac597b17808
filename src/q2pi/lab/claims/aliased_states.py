"""Aliased states: deterministic, epsilon-greedy and stochastic policies in the vacuum's corridor as it grows.

Two cells on either side of the dust have the same observation and opposite optimal actions (`envs.aliased_vacuum`).
The best expected return of each kind of policy is exact: a linear solve inside a search. Beside the optima stand
learned policies: a Q-table (`q_learning`), greedy and epsilon-greedy at the best rate, and REINFORCE; their expected
returns are exact too, computed from their probabilities. Source of the idea: Singh, Jaakkola and Jordan 1994.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from q2pi.envs.aliased_vacuum import AliasedVacuum, solutions
from q2pi.equations import exact
from q2pi.equations.exact import Array
from q2pi.lab.claim import Claim, Data, Rule, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAMMA = 0.99
OPTIMA = ("fully observed", "stochastic", "epsilon-greedy", "deterministic")
LEARNED = ("REINFORCE", "Q-table, epsilon-greedy", "Q-table, greedy")


def learned_policies(env: AliasedVacuum, seed: int, settings: Settings, epsilon: float) -> dict[str, Array]:
    """Return the policy over cells [length, 4] that each method has learned."""
    from q2pi.lab.training import train

    options: dict[str, Any] = {
        "total_timesteps": settings["agent_steps"],
        "env_options": (f"length={env.length}",),
        "gamma": GAMMA,
    }
    table = train("q_learning", "q2pi/AliasedVacuumDiscrete-v0", seed, learning_rate=0.1, **options).agent
    rows: Any = table
    greedy = exact.greedy(rows.q_values(env.codes[:, None]))
    reinforce: Any = train("reinforce", "q2pi/AliasedVacuum-v0", seed, **options).agent
    return {
        LEARNED[0]: probabilities(reinforce, env.walls[: env.length].astype(np.float32)),
        LEARNED[1]: (1 - epsilon) * greedy + epsilon / 4,
        LEARNED[2]: greedy,
    }


def probabilities(agent: Any, observation: Array) -> Array:
    """Return the action probabilities [B, A] of a policy-based agent with Discrete actions."""
    import torch

    with torch.inference_mode():
        policy = agent.policy_at(observation)
        actions = range(int(agent.spec.action_space.n))
        columns = [policy.log_prob(torch.full((len(observation),), action)).exp() for action in actions]
        found = torch.stack(columns, dim=1).double()
        normalized: Array = (found / found.sum(dim=1, keepdim=True)).numpy()
    return normalized


def experiment(seed: int, settings: Settings) -> Data:
    lengths = list(settings["lengths"])
    optima, learned = [], []
    for length in lengths:
        env = AliasedVacuum(length)
        best = solutions(env, GAMMA)
        optima.append([best.fully_observed, best.stochastic, best.epsilon_greedy, best.deterministic])
        policies = learned_policies(env, seed, settings, best.epsilon)
        learned.append([exact.expected_return(env.mdp(GAMMA)[0], policies[name]) for name in LEARNED])
    return {"lengths": lengths, "optima": optima, "learned": learned}


def _exact_difference(data: Data) -> float:
    """Return the least amount, over lengths, by which the best stochastic policy beats the best epsilon-greedy one."""
    optima = np.array(data["optima"])
    return float((optima[:, 1] - optima[:, 2]).min())


def _learned_difference(data: Data, method: int) -> float:
    """Return the mean amount, over lengths, by which REINFORCE beats another method."""
    learned = np.array(data["learned"])
    return float((learned[:, 0] - learned[:, method]).mean())


def figure(data: Sequence[Data]) -> "Figure":
    from q2pi.lab import figures

    drawn, (best, learned) = figures.panels(2)
    lengths = data[0]["lengths"]
    for style, name in enumerate(OPTIMA):
        figures.curve(best, lengths, [np.array(one["optima"])[:, style] for one in data[:1]], name, style)
    figures.label(
        best, "cells of the corridor", "expected discounted return", "exact optimum of each kind", legend=True
    )
    for style, name in enumerate(LEARNED):
        figures.curve(learned, lengths, [np.array(one["learned"])[:, style] for one in data], name, style)
    figures.label(learned, "cells of the corridor", "expected discounted return", "learned", legend=True)
    for axes in (best, learned):
        axes.set_xticks(lengths)
    figures.footnote(drawn, f"aliased vacuum, gamma {GAMMA}; right: {figures.interval_words(len(data))}")
    return drawn


CLAIM = Claim(
    name="aliased_states",
    sentence="If states look the same but need different actions, a learned stochastic policy beats every "
    "deterministic and every epsilon-greedy policy.",
    rules=(
        Rule(
            "exact return of the best stochastic policy minus that of the best epsilon-greedy one, least over lengths",
            "return",
            _exact_difference,
            0.0,
            is_exact=True,
        ),
        Rule(
            "return of REINFORCE minus that of the Q-table's epsilon-greedy policy, mean over lengths",
            "return",
            lambda data: _learned_difference(data, 1),
            0.0,
        ),
        Rule(
            "return of REINFORCE minus that of the Q-table's greedy policy, mean over lengths",
            "return",
            lambda data: _learned_difference(data, 2),
            0.0,
        ),
    ),
    experiment=experiment,
    figure=figure,
    quick={"lengths": (5,), "agent_steps": 600},
    full={"lengths": (5, 7, 9), "agent_steps": 30_000},
)
