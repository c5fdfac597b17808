"""How much the policy changes in one gradient step: DQN against REINFORCE and PPO.

The library's agents on CartPole. Around each gradient step, the probabilities of actions in fixed states are computed:
the greedy policy of the Q-network for DQN, the policy itself for REINFORCE and PPO. The change is the total variation
distance in each state; a flip is a state whose likeliest action changed (`lab.diagnostics`). A greedy policy changes by
0 or by 1, however small the change of the values. Source: Schaul et al. 2022, "The Phenomenon of Policy Churn".
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from q2pi.lab.claim import Claim, Data, Rule, Settings
from q2pi.types import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "DQN": ("dqn", "update", {"preset": "classic", "double": False, "hidden": (64, 64), "train_frequency": 4}),
    "REINFORCE": ("reinforce", "update_policy", {"preset": "classic", "hidden": (64, 64)}),
    "PPO": ("ppo", "update", {"preset": "CartPole-v1", "num_envs": 8, "hidden": (64, 64)}),
}
"""Name -> (algorithm, method of the agent that makes one gradient step, options)."""
STATES = 200
EDGES = np.concatenate([[0.0], np.logspace(-4, 0, 17)])
"""Edges of the histogram of changes."""


class Change:
    """Measures the change of a policy around gradient steps."""

    def __init__(self, method: str, states: Array, every: int) -> None:
        self.method, self.states, self.every = method, states, every
        self.updates = 0
        self.flips, self.largest, self.mean = list[float](), list[float](), list[float]()
        self.histogram = np.zeros(len(EDGES) - 1)

    def attach(self, agent: Any) -> None:
        """Wrap the method of an agent that makes a gradient step."""
        step: Callable[..., Any] = getattr(agent, self.method)

        def measured(*arguments: Any) -> Any:
            self.updates += 1
            if self.updates % self.every:
                return step(*arguments)
            before = policy_of(agent, self.states)
            result = step(*arguments)
            self.add(before, policy_of(agent, self.states))
            return result

        setattr(agent, self.method, measured)

    def add(self, before: Array, after: Array) -> None:
        from q2pi.lab.diagnostics import churn, total_variation

        distance = total_variation(before, after)
        self.flips.append(churn(before, after))
        self.largest.append(float(distance.max()))
        self.mean.append(float(distance.mean()))
        self.histogram += np.histogram(distance, EDGES)[0]


def policy_of(agent: Any, states: Array) -> Array:
    """Return the probabilities [B, A] of the policy that an agent has learned: greedy, or stochastic."""
    from q2pi.equations.exact import greedy
    from q2pi.lab.claims.aliased_states import probabilities
    from q2pi.lab.claims.fixed_targets import values_of

    if "online" in agent.networks():
        return greedy(values_of(agent, states))
    return probabilities(agent, states)


def experiment(seed: int, settings: Settings) -> Data:
    from q2pi.lab.claims.fixed_targets import probe_states
    from q2pi.lab.training import AtStart, train

    states = probe_states(seed, STATES)
    data: Data = {}
    for name, (algorithm, method, options) in METHODS.items():
        change = Change(method, states, settings["every"][name])
        starts = {"learning_starts": min(1_000, settings["agent_steps"] // 4)} if algorithm == "dqn" else {}
        training = train(
            algorithm,
            "CartPole-v1",
            seed,
            sinks=[AtStart(change.attach)],
            total_timesteps=settings["agent_steps"],
            **options,
            **starts,
        )
        data[name] = {
            "updates": change.updates,
            "flips": float(np.mean(change.flips)),
            "largest": float(np.mean(change.largest)),
            "mean": float(np.mean(change.mean)),
            "histogram": (change.histogram / change.histogram.sum()).tolist(),
            "return": training.last(20),
        }
    return data


def _difference(data: Data, other: str, number: str) -> float:
    return float(data["DQN"][number]) - float(data[other][number])


def figure(data: Sequence[Data]) -> "Figure":
    from q2pi.lab import figures

    drawn, (largest, flips, distances) = figures.panels(3, width=4.2)
    names = list(METHODS)
    figures.bars(largest, names, [[one[name]["largest"] for name in names] for one in data])
    figures.label(largest, "method", "total variation distance", f"largest change among {STATES} states, per update")
    figures.bars(flips, names, [[100 * one[name]["flips"] for name in names] for one in data])
    figures.label(flips, "method", "states (%)", "likeliest action flipped, per update")
    centres = np.sqrt(EDGES[1:-1] * EDGES[2:])
    for style, name in enumerate(names):
        rows = 100 * np.array([one[name]["histogram"][1:] for one in data])
        figures.curve(distances, centres, rows, name, style)
    distances.set_xscale("log")
    figures.label(distances, "total variation distance", "states and updates (%)", "size of the changes", legend=True)
    figures.footnote(drawn, f"CartPole; {figures.interval_words(len(data))}")
    return drawn


CLAIM = Claim(
    name="policy_change",
    sentence="Value-based policies flip, policy gradients glide: one gradient step of DQN changes the action in some "
    "states completely, one of REINFORCE or PPO changes probabilities a little everywhere.",
    rules=(
        Rule(
            "largest change of the policy per update, DQN minus PPO",
            "total variation",
            lambda data: _difference(data, "PPO", "largest"),
            0.1,
        ),
        Rule(
            "largest change of the policy per update, DQN minus REINFORCE",
            "total variation",
            lambda data: _difference(data, "REINFORCE", "largest"),
            0.1,
        ),
    ),
    experiment=experiment,
    figure=figure,
    quick={"agent_steps": 1_000, "every": {"DQN": 8, "REINFORCE": 1, "PPO": 8}},
    full={"agent_steps": 20_000, "every": {"DQN": 4, "REINFORCE": 1, "PPO": 4}},
)
