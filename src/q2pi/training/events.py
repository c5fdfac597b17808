"""The one training loop, for every algorithm: a generator of events.

    for event in run(config):
        ...

Whoever consumes the events prints, records, prunes or counts; the loop itself writes nothing. It pauses while an event
is handled, so a consumer may save the state that a `Checkpoint` shows before training goes on.
"""

from dataclasses import dataclass
from typing import Any

from q2pi.algorithms.base import Agent
from q2pi.config import RunConfig
from q2pi.envs.vector import Episode
from q2pi.evaluation.evaluate import Evaluation
from q2pi.types import State


@dataclass(frozen=True)
class Started:
    """The first event: the run is about to train from agent step `step`."""

    step: int
    config: RunConfig[Any]
    agent: Agent


@dataclass(frozen=True)
class EpisodeEnded:
    """An episode of training ended at agent step `step`."""

    step: int
    episode: Episode


@dataclass(frozen=True)
class Progress:
    """Means since the last event of this kind."""

    step: int
    metrics: dict[str, float]
    """The algorithm's scalars (loss, q, ...) averaged over updates, and its counters."""
    seconds: dict[str, float]
    """Wall-clock seconds by part: act, environment, learn, observe, evaluate, other."""


@dataclass(frozen=True)
class Evaluated:
    """An evaluation during or at the end of training."""

    step: int
    """Agent steps behind the weights that were judged; training may be further."""
    evaluation: Evaluation


@dataclass(frozen=True)
class Checkpoint:
    """A moment at which the complete state may be saved; `state` refers to live arrays, valid until the next event."""

    step: int
    state: State


@dataclass(frozen=True)
class Finished:
    """The last event: the budget is spent."""

    step: int
    seconds: dict[str, float]
    """Wall-clock seconds by part of this process's share of the run."""


@dataclass(frozen=True)
class Interrupted:
    """The last event of a run that was asked to stop; a `Checkpoint` came just before it."""

    step: int


Event = Started | EpisodeEnded | Progress | Evaluated | Checkpoint | Interrupted | Finished


class Diverged(Exception):
    """A loss or a value that is not a finite number."""
