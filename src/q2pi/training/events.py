"""The events of a training run, in the order of the loop.

Started, Notice*, then for each vector step: EpisodeEnded*, Evaluated*, Progress?, Checkpoint?, and at the end
Finished (the budget is spent) or Interrupted (the run was asked to stop)
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from q2pi.envs.vector import Episode
from q2pi.types import State

if TYPE_CHECKING:
    from q2pi.algorithms.base import Agent
    from q2pi.config import ResolvedConfig
    from q2pi.evaluation.evaluate import Evaluation


@dataclass(frozen=True)
class Started:
    """The first event: training is about to start from agent step `step`."""

    step: int
    config: "ResolvedConfig[Any]"
    agent: "Agent"


@dataclass(frozen=True)
class Notice:
    """Something that the user should know, in one line."""

    step: int
    text: str


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
    """The algorithm's scalars (loss, q, ...) averaged over updates, and the number of updates."""
    seconds: dict[str, float]
    """Wall-clock seconds by part: act, environment, learn, observe, evaluate, other."""


@dataclass(frozen=True)
class Evaluated:
    """An evaluation during or at the end of training."""

    step: int
    """The step of the evaluated weights, not of training, which may be further."""
    evaluation: "Evaluation"


@dataclass(frozen=True)
class Checkpoint:
    """The complete state may be saved now; `state` refers to live arrays, valid until the next event."""

    step: int
    state: State


@dataclass(frozen=True)
class Finished:
    """The last event: the budget is spent."""

    step: int
    seconds: dict[str, float]
    """Wall-clock seconds by part, of this process's share of the run."""


@dataclass(frozen=True)
class Interrupted:
    """The last event of a run that was asked to stop; a `Checkpoint` came just before it."""

    step: int


Event = Started | Notice | EpisodeEnded | Progress | Evaluated | Checkpoint | Interrupted | Finished


class Diverged(Exception):
    """A loss, a value or a weight is not a finite number."""
