"""Baird's counterexample with and without each part of the deadly triad.

Seven states, eight weights, all rewards 0, so every true value is 0 (Baird 1995; Sutton and Barto 2018, section 11.2).
The behaviour policy takes `solid`, which leads to the last state, with probability 1/7, and `dashed`, which leads to
one of the other six states, with probability 6/7. Three switches give eight combinations:

    bootstrapping   TD(0) target, or the return (Monte Carlo): 0, since all rewards are 0
    off-policy      the target policy always takes `solid`, with importance ratios; or it is the behaviour policy
    approximation   Baird's features, or one weight per state (a table)

Each combination runs semi-gradient updates on the same kind of sampled stream. The number is the logarithm of the
largest |v| at the end over the largest |v| at the start.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from q2pi.lab.claim import Claim, Data, Rule, Settings
from q2pi.rng import stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STATES = 7
SOLID = 1 / 7
COMBINATIONS = tuple(
    (bootstrapping, off_policy, approximation)
    for bootstrapping in (False, True)
    for off_policy in (False, True)
    for approximation in (False, True)
)
FLOOR = 1e-12
Array = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


def name_of(combination: tuple[bool, bool, bool]) -> str:
    """Return the name of a combination, such as "TD, off-policy, features"."""
    bootstrapping, off_policy, approximation = combination
    parts = ("TD" if bootstrapping else "MC", "off" if off_policy else "on", "features" if approximation else "table")
    return ", ".join(parts)


def features() -> Array:
    """Return Baird's features [7, 8]: v_i = 2 w_i + w_8 for the first six states, v_7 = w_7 + 2 w_8."""
    rows = np.zeros((STATES, STATES + 1))
    rows[np.arange(6), np.arange(6)] = 2
    rows[:6, 7] = 1
    rows[6, 6], rows[6, 7] = 1, 2
    return rows


def growth(combination: tuple[bool, bool, bool], states: Index, next_states: Index, solid: Mask, rate: float) -> Array:
    """Return log10 of max |v| over its start after each update, [T + 1].

    Args:
        combination: bootstrapping, off-policy, approximation.
        states, next_states: int [T] of the stream of the behaviour policy.
        solid: bool [T], whether the action was `solid`.
        rate: learning rate.
    """
    bootstrapping, off_policy, approximation = combination
    x = features() if approximation else np.eye(STATES)
    weights = np.ones(x.shape[1])
    if approximation:
        weights[6] = 10.0
    start = np.abs(x @ weights).max()
    ratio = np.where(solid, 1 / SOLID, 0.0) if off_policy else np.ones(len(states))
    log = np.zeros(len(states) + 1)
    gamma = 0.99
    for t, (s, next_s) in enumerate(zip(states, next_states, strict=True)):
        target = gamma * x[next_s] @ weights if bootstrapping else 0.0
        weights = weights + rate * ratio[t] * (target - x[s] @ weights) * x[s]
        log[t + 1] = np.log10(max(np.abs(x @ weights).max() / start, FLOOR))
    return log


def experiment(seed: int, settings: Settings) -> Data:
    noise, steps = stream(seed, "baird"), settings["steps"]
    solid: Mask = np.asarray(noise.random(steps) < SOLID)
    next_states = np.where(solid, 6, noise.integers(6, size=steps))
    states = np.concatenate([[noise.integers(STATES)], next_states[:-1]])
    every = max(1, steps // 40)
    curves = {
        name_of(one): growth(one, states, next_states, solid, settings["learning_rate"])[::every].tolist()
        for one in COMBINATIONS
    }
    return {"updates": list(range(0, steps + 1, every)), "growth": curves}


TRIAD = name_of((True, True, True))


def _triad(data: Data) -> float:
    return float(data["growth"][TRIAD][-1])


def _largest_other(data: Data) -> float:
    return float(max(curve[-1] for name, curve in data["growth"].items() if name != TRIAD))


def figure(data: Sequence[Data]) -> "Figure":
    from q2pi.lab import figures

    drawn, (curves, ends) = figures.panels(2)
    names = list(data[0]["growth"])
    for style, name in enumerate((TRIAD, "TD, off, table", "TD, on, features", "MC, off, features")):
        figures.curve(curves, data[0]["updates"], [one["growth"][name] for one in data], name, style)
    curves.axhline(0, color="black", linewidth=0.8)
    figures.label(curves, "updates", "log10 of max |v| / start", "all three, and without one of them", legend=True)
    figures.bars(
        ends, [name.replace(", ", "\n") for name in names], [[one["growth"][n][-1] for n in names] for one in data]
    )
    ends.axhline(0, color="black", linewidth=0.8)
    ends.tick_params(axis="x", labelsize=7)
    figures.label(ends, "target, policy, values", "log10 of max |v| / start", "after the last update, all eight")
    ends.tick_params(axis="x", labelsize=7)
    figures.footnote(drawn, f"Baird's counterexample; {figures.interval_words(len(data))}")
    return drawn


CLAIM = Claim(
    name="deadly_triad",
    sentence="Values diverge with bootstrapping, off-policy learning and function approximation together, and with no "
    "two of them alone.",
    rules=(
        Rule("growth of the values with all three", "powers of ten", _triad, 1.0),
        Rule(
            "largest growth of the values without one of them",
            "powers of ten",
            _largest_other,
            0.0,
            "below",
        ),
    ),
    experiment=experiment,
    figure=figure,
    quick={"steps": 2_000, "learning_rate": 0.01},
    full={"steps": 20_000, "learning_rate": 0.01},
)
