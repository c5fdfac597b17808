"""Runs of the library's own algorithms for experiments: `runs.execute` without a folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from q2pi.algorithms.base import Agent
from q2pi.config import override, resolve
from q2pi.lab import environments  # noqa: F401 (registers the lab's environments)
from q2pi.runs.execute import execute
from q2pi.runs.sinks import Sink
from q2pi.training.events import EpisodeEnded, Event, Progress, Started
from q2pi.training.presets import configure

COMMON: dict[str, Any] = {
    "device": "cpu",
    "threads": 1,
    "num_envs": 1,
    "evaluation_episodes": 0,
    "checkpoint_frequency": 0,
}


@dataclass
class Training:
    """A sink: the agent of a run and the episodes of its training."""

    agent: Agent = field(init=False)
    steps: list[int] = field(default_factory=list)
    """Agent step at which each episode ended."""
    returns: list[float] = field(default_factory=list)
    """Raw return of each episode."""
    lengths: list[int] = field(default_factory=list)

    def write(self, event: Event) -> None:
        if isinstance(event, Started):
            self.agent = event.agent
        if isinstance(event, EpisodeEnded):
            self.steps.append(event.step)
            self.returns.append(event.episode.episode_return)
            self.lengths.append(event.episode.length)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def curve(self, ends: Sequence[int]) -> list[float]:
        """Return the mean return of the episodes that ended in each part of training; parts end at agent steps `ends`.

        A part in which no episode ended has the mean of the part before, or of the first episode.
        """
        steps, returns = np.array(self.steps), np.array(self.returns)
        found: list[float] = []
        begin = 0
        for end in ends:
            inside = returns[(steps > begin) & (steps <= end)]
            before = found[-1] if found else float(returns[0]) if len(returns) else 0.0
            found.append(float(inside.mean()) if len(inside) else before)
            begin = end
        return found

    def last(self, count: int) -> float:
        """Return the mean return of the last `count` episodes."""
        return float(np.mean(self.returns[-count:]))


@dataclass
class EachProgress:
    """A sink that calls a function with (agent step, agent) at each `Progress`."""

    call: Callable[[int, Any], None]
    agent: Any = None

    def write(self, event: Event) -> None:
        if isinstance(event, Started):
            self.agent = event.agent
        if isinstance(event, Progress):
            self.call(event.step, self.agent)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass
class AtStart:
    """A sink that calls a function with the agent before training."""

    call: Callable[[Any], None]

    def write(self, event: Event) -> None:
        if isinstance(event, Started):
            self.call(event.agent)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def train(
    algorithm: str,
    env_id: str,
    seed: int,
    *,
    preset: str | None = None,
    sinks: Sequence[Sink] = (),
    **options: Any,
) -> Training:
    """Train an agent without a run folder or an evaluation, one thread.

    Args:
        algorithm: name of the algorithm.
        env_id: a Gymnasium id.
        seed: of the run.
        preset: name of a preset; None uses the default for the environment.
        sinks: receive the run's events.
        options: fields of the run, its environment or its hyperparameters.
    """
    config, _ = configure(algorithm, env_id, preset)
    training = Training()
    resolved = resolve(override(config, COMMON | options | {"seed": seed}))
    execute(resolved, None, sinks=[training, *sinks])
    return training
