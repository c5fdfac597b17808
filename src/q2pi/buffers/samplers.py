"""Samplers draw the indices and weights of transitions; `batches` assembles the transitions for the loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from q2pi.buffers.replay import Replay, Slots
from q2pi.errors import UserError
from q2pi.types import State


@dataclass(frozen=True, slots=True)
class Batch:
    """Transitions on the networks' device, each with target reward + discount * value(next_observation)."""

    observation: Tensor
    """[B, *observation_shape]"""
    action: Tensor
    """int64 [B]"""
    reward: Tensor
    """[B] the n-step return without its bootstrap."""
    discount: Tensor
    """[B] gamma^n, 0 if the environment terminated or a life was lost."""
    next_observation: Tensor
    """[B, *observation_shape] observation that the target bootstraps from."""
    weight: Tensor
    """[B] importance weights; 1 for uniform sampling."""
    indices: Slots
    """[B] slots of the transitions in the replay."""


class Sampler(Protocol):
    """Draws transitions from a replay; the only source of randomness is the generator passed to `sample`."""

    lookahead: int
    """Number of batches that may be drawn before an update uses the first one: 1 if updates change the priorities."""

    def added(self, indices: Slots) -> None:
        """Register the slots [N] of new transitions."""

    def sample(self, batch_size: int, rng: np.random.Generator) -> tuple[Slots, NDArray[np.float32]]:
        """Return (indices [B], importance weights float32 [B]); `replay.can_sample(indices)` holds."""

    def update_priorities(self, indices: Slots, td_errors: Tensor) -> None:
        """Update priorities with the TD errors [B] of a batch, on the networks' device."""

    def state(self) -> State:
        """Return everything `load` needs."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""


class UniformSampler:
    """Uniform sampling with replacement over the transitions that can be sampled."""

    lookahead = 16

    def __init__(self, replay: Replay) -> None:
        self.replay = replay

    def added(self, indices: Slots) -> None:
        pass

    def sample(self, batch_size: int, rng: np.random.Generator) -> tuple[Slots, NDArray[np.float32]]:
        """Return indices [B] and weights of 1.

        Rows are drawn uniformly from those written and rejected if no transition can be sampled there.

        Raises:
            UserError: no transition can be sampled.
            ValueError: the replay is empty: `begin` was not called.
        """
        replay, filled = self.replay, self.replay.filled
        ends = np.cumsum(filled)
        if not ends[-1]:
            raise ValueError("sample before begin: the replay has no rows")
        slots = np.empty(0, np.int64)
        while len(slots) < batch_size:
            rank = rng.integers(ends[-1], size=batch_size - len(slots))
            stream = np.searchsorted(ends, rank, side="right")
            drawn = stream * replay.rows + rank - (ends - filled)[stream]
            accepted = drawn[replay.can_sample(drawn)]
            if not len(accepted) and not len(replay):
                raise UserError("the replay has no transition to sample yet: --learning-starts is too small")
            slots = np.concatenate([slots, accepted]) if len(slots) else accepted
        return slots, np.ones(batch_size, np.float32)

    def update_priorities(self, indices: Slots, td_errors: Tensor) -> None:
        pass

    def state(self) -> State:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        pass


def batches(
    replay: Replay,
    sampler: Sampler,
    batch_size: int,
    generators: Sequence[np.random.Generator],
    device: torch.device,
) -> list[Batch]:
    """Return one batch per generator, read from the replay and moved to the device together.

    Args:
        replay: source of the transitions.
        sampler: draws their indices.
        batch_size: B.
        generators: random generator of each batch, at most `sampler.lookahead`.
        device: of the batches.
    """
    draws = [sampler.sample(batch_size, generator) for generator in generators]
    indices, weights = draws[0] if len(draws) == 1 else map(np.concatenate, zip(*draws, strict=True))
    rows = replay.assemble(indices)
    columns = (rows.observation, rows.action, rows.reward, rows.discount, rows.next_observation, weights)
    tensors = [torch.as_tensor(column, device=device) for column in columns]
    # Splitting into a single part takes longer than drawing it.
    parts = [(column,) if len(draws) == 1 else column.split(batch_size) for column in tensors]
    return [Batch(*row) for row in zip(*parts, np.split(indices, len(draws)), strict=True)]
