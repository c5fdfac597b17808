"""Bias and variance of Monte Carlo, n-step and TD targets against exact values.

A random walk over nine states that terminates at both ends, with reward -1 at the left end and +1 at the right end;
gamma is 1. The exact value of the start state is a linear solve. The values that a target bootstraps from are wrong on
purpose: the exact ones plus a normal error per state, drawn by the seed. Each target is computed from the same sampled
episodes by `equations.returns`. Source: Sutton and Barto 2018, sections 6.2 and 7.1.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from q2pi.equations import exact
from q2pi.equations.exact import MDP, Array
from q2pi.lab.claim import Claim, Data, Rule, Settings
from q2pi.lab.sampling import Episodes, sample
from q2pi.rng import stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STATES = 9
STEPS = (1, 2, 4, 8, 16, 32)


def random_walk() -> MDP:
    """Return the walk: one action, which goes left or right with probability 1/2 each."""
    transition, reward = np.zeros((STATES, 1, STATES)), np.zeros((STATES, 1))
    for state in range(STATES):
        for next_state in (state - 1, state + 1):
            if 0 <= next_state < STATES:
                transition[state, 0, next_state] = 0.5
    reward[0], reward[-1] = -0.5, 0.5  # expected: half of the steps from an end state leave the walk
    return MDP(transition, reward, 1.0, np.eye(STATES)[STATES // 2])


def with_true_rewards(episodes: Episodes) -> Episodes:
    """Return the episodes with reward -1 or +1 at their last step, in place of the expected rewards of the MDP."""
    sign = np.where(episodes.state == 0, -1.0, 1.0)
    reward = np.where(episodes.ended, sign, 0.0)
    return Episodes(episodes.state, episodes.action, reward, episodes.valid, episodes.ended)


def targets(episodes: Episodes, value: Array, n: int | None) -> Array:
    """Return the n-step target [M] of the first state of each episode; n None is the whole return (Monte Carlo)."""
    import torch

    from q2pi.equations.returns import discounted_returns, n_step_returns

    next_state = np.concatenate([episodes.state[1:], episodes.state[-1:]])
    next_value = torch.from_numpy(value[next_state])
    discount = torch.from_numpy((episodes.valid & ~episodes.ended).astype(np.float64))
    ended = torch.from_numpy(episodes.ended | ~episodes.valid)
    arguments = (torch.from_numpy(episodes.reward), discount, next_value, ended)
    found = discounted_returns(*arguments) if n is None else n_step_returns(*arguments, n)
    result: Array = found[0].numpy()
    return result


def experiment(seed: int, settings: Settings) -> Data:
    noise = stream(seed, "targets")
    mdp = random_walk()
    value = exact.policy_value(mdp, np.ones((STATES, 1)))[0]
    wrong = value + noise.normal(0, settings["value_error"], size=STATES)
    episodes = with_true_rewards(sample(mdp, np.ones((STATES, 1)), settings["episodes"], noise))
    found = [targets(episodes, wrong, n) for n in (*STEPS, None)]
    start = STATES // 2
    return {
        "bias": [float(target.mean() - value[start]) for target in found],
        "variance": [float(target.var()) for target in found],
    }


def _bias(data: Data, place: int) -> float:
    return abs(float(data["bias"][place]))


def figure(data: Sequence[Data]) -> "Figure":
    from q2pi.lab import figures

    drawn, (bias, variance) = figures.panels(2)
    names = ["TD\n(1)", *map(str, STEPS[1:]), "Monte\nCarlo"]
    figures.bars(bias, names, np.abs([one["bias"] for one in data]))
    figures.label(bias, "steps n of the target", "|bias| (return)", "bias: mean target minus exact value")
    figures.bars(variance, names, [one["variance"] for one in data])
    figures.label(variance, "steps n of the target", "variance (return squared)", "variance of the target")
    figures.footnote(
        drawn, f"random walk over {STATES} states, bootstrapping from wrong values; {figures.interval_words(len(data))}"
    )
    return drawn


CLAIM = Claim(
    name="bias_and_variance",
    sentence="An episode's return is an unbiased but noisy estimate of a value; bootstrapping is biased but calm.",
    rules=(
        Rule("absolute bias of the Monte Carlo target", "return", lambda data: _bias(data, -1), 0.02, "below"),
        Rule(
            "absolute bias of the TD target minus that of Monte Carlo",
            "return",
            lambda data: _bias(data, 0) - _bias(data, -1),
            0.0,
        ),
        Rule(
            "variance of the Monte Carlo target over that of the TD target",
            "powers of ten",
            lambda data: float(np.log10(data["variance"][-1] / data["variance"][0])),
            0.3,
        ),
    ),
    experiment=experiment,
    figure=figure,
    quick={"episodes": 500, "value_error": 0.3},
    full={"episodes": 20_000, "value_error": 0.3},
)
