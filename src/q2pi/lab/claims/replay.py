"""Replay: correlation inside a batch, learning at several rates of reuse, and forgetting.

The library's DQN on CartPole with its replay. Reuse is the number of updates that a transition takes part in on
average: batch_size / train_frequency. `newest` replaces the uniform sampler by one that returns the newest transitions
in their order, with the same number of updates: learning without replay. Correlation: `diagnostics.
correlation_of_neighbours` of the observations of a batch. Forgetting: root mean square TD error on the oldest
transitions that the run stored, after training. Sources: Lin 1992; Mnih et al. 2015.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from q2pi.lab.claim import Claim, Data, Rule, Settings
from q2pi.rng import stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH = 32
REUSE = (1, 4, 8)
NEWEST = "newest, reuse 8"
PARTS = 15
"""Points of a learning curve."""


class NewestSampler:
    """The newest transitions in their order; see `buffers.samplers.Sampler`."""

    lookahead = 1

    def __init__(self, replay: Any) -> None:
        self.replay = replay

    def added(self, indices: NDArray[np.int64]) -> None:
        pass

    def sample(self, batch_size: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the slots of the newest transitions, oldest of them first."""
        filled = int(self.replay.filled[0])
        ages = np.arange(min(filled, 4 * batch_size))
        slots = (int(self.replay.written[0]) - 1 - ages) % self.replay.rows
        kept = slots[self.replay.can_sample(slots)][:batch_size][::-1]
        return np.resize(kept, batch_size), np.ones(batch_size, np.float32)

    def update_priorities(self, indices: NDArray[np.int64], td_errors: Any) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        pass


def use_newest(agent: Any) -> None:
    """Replace the sampler of an agent."""
    agent.sampler = NewestSampler(agent.replay)


def td_error_on_oldest(agent: Any, count: int) -> float:
    """Return the root mean square TD error on the first `count` transitions that a run stored."""
    import torch

    from q2pi.buffers.samplers import batches

    slots = np.arange(min(2 * count, int(agent.replay.filled[0])))
    slots = slots[agent.replay.can_sample(slots)][:count]

    class Fixed(NewestSampler):
        def sample(self, batch_size: int, rng: np.random.Generator) -> tuple[Any, Any]:
            return slots, np.ones(len(slots), np.float32)

    (batch,) = batches(agent.replay, Fixed(agent.replay), len(slots), [stream(0, "oldest")], torch.device("cpu"))
    with torch.no_grad():
        _, td_error, _ = agent.loss(batch)
    return float(td_error.square().mean().sqrt())


def correlation(agent: Any, noise: np.random.Generator, sampler: Any) -> float:
    """Return the mean correlation of neighbours in 50 batches."""
    from q2pi.lab.diagnostics import correlation_of_neighbours

    found = []
    for _ in range(50):
        slots, _ = sampler.sample(BATCH, noise)
        found.append(correlation_of_neighbours(agent.replay.sample(slots).observation))
    return float(np.mean(found))


def run(seed: int, steps: int, reuse: int, newest: bool) -> tuple[list[float], float, Any]:
    """Return (learning curve, TD error on the oldest transitions, agent) of a run."""
    from q2pi.lab.training import AtStart, train

    training = train(
        "dqn",
        "CartPole-v1",
        seed,
        preset="classic",
        sinks=[AtStart(use_newest)] if newest else [],
        total_timesteps=steps,
        batch_size=BATCH,
        train_frequency=BATCH // reuse,
        learning_starts=min(1_000, steps // 4),
        exploration_steps=min(10_000, steps // 2),
        hidden=(64, 64),
        double=False,
    )
    ends = [steps * (part + 1) // PARTS for part in range(PARTS)]
    return training.curve(ends), td_error_on_oldest(training.agent, 1_000), training.agent


def experiment(seed: int, settings: Settings) -> Data:
    steps = settings["agent_steps"]
    curves, errors = {}, {}
    for reuse in REUSE:
        curves[f"reuse {reuse}"], errors[f"reuse {reuse}"], agent = run(seed, steps, reuse, newest=False)
    curves[NEWEST], errors[NEWEST], _ = run(seed, steps, REUSE[-1], newest=True)
    noise = stream(seed, "correlation")
    return {
        "agent_steps": steps,
        "curves": curves,
        "td_error_on_oldest": errors,
        "correlation": {
            "uniform": correlation(agent, noise, agent.sampler),
            "newest": correlation(agent, noise, NewestSampler(agent.replay)),
        },
    }


def _area(data: Data, name: str) -> float:
    return float(np.mean(data["curves"][name]))


def figure(data: Sequence[Data]) -> "Figure":
    from q2pi.lab import figures

    drawn, (correlations, curves, errors) = figures.panels(3, width=4.2)
    names = list(data[0]["curves"])
    both = ["uniform", "newest"]
    figures.bars(correlations, both, [[one["correlation"][name] for name in both] for one in data])
    figures.label(correlations, "sampler", "correlation of neighbours", "inside a batch of 32")
    steps = np.arange(1, PARTS + 1) / PARTS * data[0]["agent_steps"]
    for style, name in enumerate(names):
        figures.curve(curves, steps, [one["curves"][name] for one in data], name, style)
    figures.label(curves, "agent steps", "return of training episodes", "learning", legend=True)
    labels = [name.replace(", ", ",\n") for name in names]
    figures.bars(errors, labels, [[one["td_error_on_oldest"][name] for name in names] for one in data])
    figures.label(errors, "", "TD error (return)", "on the 1,000 oldest transitions")
    figures.footnote(drawn, f"DQN on CartPole; {figures.interval_words(len(data))}")
    return drawn


CLAIM = Claim(
    name="replay",
    sentence="Replay decorrelates the batch, uses every transition several times, and keeps old states from being "
    "forgotten.",
    rules=(
        Rule(
            "correlation of neighbours in a batch of the newest transitions minus that of uniform sampling",
            "",
            lambda data: float(data["correlation"]["newest"]) - float(data["correlation"]["uniform"]),
            0.5,
        ),
        Rule(
            "mean return of training with reuse 8 minus that with reuse 1",
            "reward",
            lambda data: _area(data, "reuse 8") - _area(data, "reuse 1"),
            0.0,
        ),
        Rule(
            "mean return of training with uniform sampling minus that with the newest transitions",
            "reward",
            lambda data: _area(data, "reuse 8") - _area(data, NEWEST),
            0.0,
        ),
        Rule(
            "TD error on the oldest transitions with the newest transitions over that with uniform sampling",
            "powers of ten",
            lambda data: float(
                np.log10(data["td_error_on_oldest"][NEWEST]) - np.log10(data["td_error_on_oldest"]["reuse 8"])
            ),
            0.0,
        ),
    ),
    experiment=experiment,
    figure=figure,
    quick={"agent_steps": 400},
    full={"agent_steps": 15_000},
)
