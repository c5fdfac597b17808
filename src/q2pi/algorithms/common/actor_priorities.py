"""Initial priorities: an actor computes the errors of its new transitions, so that the learner need not assume any.

Paper: Horgan et al. 2018, "Distributed Prioritized Experience Replay", algorithm 1. The actor's weights stand for the
online and the target network. An error belongs to the step that completes the n-step return of its transition.

Difference from the paper: the errors of a message are computed together when it is sent, from the learner's own loss,
and not from the Q-values that chose the actions: so they have the unit of the priorities that updates set.
"""

from typing import Protocol

import numpy as np

from q2pi.buffers.replay import Replay, Slots
from q2pi.envs.vector import Step
from q2pi.types import Array


class PrioritizingAgent(Protocol):
    """What is asked of an actor's agent."""

    replay: Replay

    def begin(self, observation: Array) -> None: ...

    def observe(self, action: Array, step: Step) -> None: ...

    def priority_errors(self, slots: Slots) -> Array:
        """Return the errors float32 [B] that prioritize the transitions at slots [B]."""


class ActorPriorities:
    """The errors of the transitions that an actor's steps complete.

    Args:
        agent: the actor's; its replay has room for the steps between two calls of `errors`.
    """

    def __init__(self, agent: PrioritizingAgent) -> None:
        self.agent = agent
        self._completed: list[Slots] = []

    def begin(self, observation: Array) -> None:
        """Receive the first observations [E, ...]."""
        self.agent.begin(observation)

    def observe(self, action: Array, step: Step) -> None:
        """Store a step of E environments."""
        replay = self.agent.replay
        recent = replay.recent(replay.open_slots)  # [E, n]
        before = replay.can_sample(recent)
        self.agent.observe(action, step)
        self._completed.append(np.where(replay.can_sample(recent) & ~before, recent, -1))

    def errors(self) -> Array:
        """Return errors [T, E, n] of the T steps since the last call, see `Step.priority_errors`."""
        slots, self._completed = np.stack(self._completed), []
        found = slots >= 0
        errors = np.full(slots.shape, np.nan, np.float32)
        if found.any():
            errors[found] = self.agent.priority_errors(slots[found])
        return errors
