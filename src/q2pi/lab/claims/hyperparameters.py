"""Hyperparameters: defaults against values found by a search, on seeds that the search has not seen.

The searches are stored in results/tuning; their winners are presets: REINFORCE and DQN on CartPole
(`training/presets`). This experiment trains both the preset `classic` and the winner with seeds above 5000, which the
searches did not use, and compares the mean return of the last 20 training episodes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from q2pi.lab.claim import Claim, Data, Rule, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HELD_OUT = 5_000
"""Added to the seed."""
TUNED = {"reinforce": "CartPole-v1", "dqn": "CartPole-v1-short"}
"""Algorithm -> preset that a search found."""
PARTS = 10


def experiment(seed: int, settings: Settings) -> Data:
    from q2pi.lab.training import train

    data: Data = {"settings": dict(settings), "last": {}, "curves": {}}
    for algorithm, tuned in TUNED.items():
        steps = settings[algorithm]
        ends = [steps * (part + 1) // PARTS for part in range(PARTS)]
        for name, preset in (("defaults", "classic"), ("tuned", tuned)):
            starts = {"learning_starts": min(500, steps // 4)} if algorithm == "dqn" and steps < 4_000 else {}
            training = train(
                algorithm, "CartPole-v1", HELD_OUT + seed, preset=preset, total_timesteps=steps, num_envs=1, **starts
            )
            data["last"][f"{algorithm} {name}"] = training.last(20)
            data["curves"][f"{algorithm} {name}"] = training.curve(ends)
    return data


def _difference(data: Data, algorithm: str) -> float:
    return float(data["last"][f"{algorithm} tuned"]) - float(data["last"][f"{algorithm} defaults"])


def figure(data: Sequence[Data]) -> "Figure":
    from q2pi.lab import figures

    drawn, axes = figures.panels(3, width=4.2)
    for panel, algorithm in zip(axes, TUNED, strict=False):
        steps = [data[0]["settings"][algorithm] * (part + 1) // PARTS for part in range(PARTS)]
        for style, name in enumerate(("defaults", "tuned")):
            figures.curve(panel, steps, [one["curves"][f"{algorithm} {name}"] for one in data], name, style)
        figures.label(panel, "agent steps", "return of training episodes", f"{algorithm} on CartPole", legend=True)
    names = list(data[0]["last"])
    figures.bars(
        axes[2], [name.replace(" ", "\n") for name in names], [[one["last"][n] for n in names] for one in data]
    )
    figures.label(axes[2], "", "return", "last 20 training episodes")
    figures.footnote(drawn, f"held-out seeds; {figures.interval_words(len(data))}")
    return drawn


CLAIM = Claim(
    name="hyperparameters",
    sentence="Hyperparameters decide: values found by a search beat the defaults on held-out seeds.",
    rules=tuple(
        Rule(
            f"return of {algorithm} with tuned hyperparameters minus that with the defaults",
            "reward",
            lambda data, algorithm=algorithm: _difference(data, algorithm),  # type: ignore[misc]
            50.0,
        )
        for algorithm in TUNED
    ),
    experiment=experiment,
    figure=figure,
    quick={"reinforce": 600, "dqn": 600},
    full={"reinforce": 20_000, "dqn": 30_000},
)
