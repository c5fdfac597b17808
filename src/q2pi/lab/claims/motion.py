"""One frame cannot show motion, four can: a probe for the ball's velocity, and CartPole without velocities.

Pong: a linear probe (`lab.screens.probe`) predicts the ball's movement since the last agent step, in pixels of the
screen, from stacks of 1, 2 and 4 frames of 84 x 84. CartPole without its two velocities (`lab.environments`): DQN with
stacks of 1 and 4 observations.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from q2pi.lab.claim import Claim, Data, Rule, Settings
from q2pi.types import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STACKS = (1, 2, 4)
PARTS = 15
LARGEST_STEP = 25.0
"""Pixels; a larger move of the ball in one agent step is a new serve."""


def velocities(ball: Array, episode_start: Array, deepest: int) -> tuple[Array, Array]:
    """Return (the ball's velocity [B, 2] in pixels per agent step, the indices [B] of these screens).

    An index needs the ball in this screen and in the one before, and `deepest` screens of the same episode.
    """
    moved = np.diff(ball, axis=0, prepend=np.full((1, 2), np.nan))
    starts = np.flatnonzero(episode_start)
    age = np.arange(len(ball)) - starts[np.searchsorted(starts, np.arange(len(ball)), side="right") - 1]
    with np.errstate(invalid="ignore"):
        usable = (np.abs(moved) < LARGEST_STEP).all(axis=1) & (age >= deepest - 1)
    indices = np.flatnonzero(usable)
    return moved[indices], indices


def experiment(seed: int, settings: Settings) -> Data:
    from q2pi.envs.resize import AreaResize
    from q2pi.lab.screens import probe, rally, to_gray
    from q2pi.lab.training import train

    game = rally(seed, settings["screens"])
    frames = AreaResize((210, 160), (84, 84))(to_gray(game.screens))
    velocity, indices = velocities(game.ball, game.episode_start, max(STACKS))
    fitted = len(indices) * 2 // 3
    data: Data = {"agent_steps": settings["agent_steps"], "probe": {}, "curves": {}}
    for stack in STACKS:
        stacked = np.stack([frames[indices - age] for age in reversed(range(stack))], axis=1)
        data["probe"][str(stack)] = probe(stacked, velocity, fitted)
    steps = settings["agent_steps"]
    for stack in (1, 4):
        training = train(
            "dqn",
            "q2pi/CartPoleBlind-v0",
            seed,
            preset="classic",
            total_timesteps=steps,
            stack=stack,
            learning_starts=min(1_000, steps // 4),
            exploration_steps=min(10_000, steps // 2),
            hidden=(64, 64),
        )
        data["curves"][str(stack)] = training.curve([steps * (part + 1) // PARTS for part in range(PARTS)])
    return data


def figure(data: Sequence[Data]) -> "Figure":
    from q2pi.lab import figures

    drawn, (probes, curves) = figures.panels(2)
    names = list(data[0]["probe"])
    figures.bars(probes, names, [[one["probe"][name] for name in names] for one in data])
    figures.label(probes, "frames in the stack", "R^2 on unseen screens", "Pong: linear probe of the ball's velocity")
    steps = np.arange(1, PARTS + 1) / PARTS * data[0]["agent_steps"]
    for style, name in enumerate(data[0]["curves"]):
        figures.curve(curves, steps, [one["curves"][name] for one in data], f"stack {name}", style)
    figures.label(curves, "agent steps", "return of training episodes", "CartPole without velocities, DQN", legend=True)
    figures.footnote(drawn, figures.interval_words(len(data)))
    return drawn


def _last(data: Data, stack: str) -> float:
    """Return the mean return in the last third of training."""
    return float(np.mean(data["curves"][stack][-PARTS // 3 :]))


CLAIM = Claim(
    name="motion",
    sentence="One frame cannot show motion, four can.",
    rules=(
        Rule("R^2 of the ball's velocity from one frame", "", lambda data: float(data["probe"]["1"]), 0.5, "below"),
        Rule(
            "R^2 of the ball's velocity from four frames minus that from one",
            "",
            lambda data: float(data["probe"]["4"]) - float(data["probe"]["1"]),
            0.3,
        ),
        Rule(
            "return in the last third of training, CartPole without velocities, stack 4 minus stack 1",
            "reward",
            lambda data: float(
                np.mean(data["curves"]["4"][-PARTS // 3 :]) - np.mean(data["curves"]["1"][-PARTS // 3 :])
            ),
            20.0,
        ),
    ),
    experiment=experiment,
    figure=figure,
    quick={"screens": 150, "agent_steps": 400},
    full={"screens": 3_000, "agent_steps": 20_000},
)
