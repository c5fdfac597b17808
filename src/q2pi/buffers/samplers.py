"""Which transitions to learn from: a sampler draws indices and weights, `batches` assembles them for the loss."""

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
    """Transitions on the device that learns: reward + discount * value(next_observation) is the target of each."""

    observation: Tensor
    """[B, *observation_shape]"""
    action: Tensor
    """int64 [B]"""
    reward: Tensor
    """[B] the n-step return without its bootstrap."""
    discount: Tensor
    """[B] gamma^n, 0 if the environment terminated or a life was lost."""
    next_observation: Tensor
    """[B, *observation_shape] what the return bootstraps from."""
    weight: Tensor
    """[B] importance weights; 1 for uniform sampling."""
    indices: Slots
    """[B] slots of the transitions in the replay."""


class Sampler(Protocol):
    """Draws transitions from a replay. Its randomness comes from the generator that `sample` is given."""

    lookahead: int
    """Number of batches that may be drawn before the first of them is learned from: 1 if an update changes the draw."""

    def added(self, indices: Slots) -> None:
        """Take note of slots [N] that hold a new transition."""

    def sample(self, batch_size: int, rng: np.random.Generator) -> tuple[Slots, NDArray[np.float32]]:
        """Return (indices [B], importance weights float32 [B]); `replay.can_sample(indices)` holds."""

    def update_priorities(self, indices: Slots, td_errors: Tensor) -> None:
        """Take note of the TD errors [B] of a batch, on the device that learns."""

    def state(self) -> State:
        """Return what `load` needs to continue exactly."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""


class UniformSampler:
    """Every transition that can be sampled has the same probability; draws are independent."""

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
            ValueError: the replay has not begun.
        """
        replay, filled = self.replay, self.replay.filled
        upto = np.cumsum(filled)
        if not upto[-1]:
            raise ValueError("sample before begin: the replay has no rows")
        slots = np.empty(0, np.int64)
        while len(slots) < batch_size:
            rank = rng.integers(upto[-1], size=batch_size - len(slots))
            stream = np.searchsorted(upto, rank, side="right")
            drawn = stream * replay.rows + rank - (upto - filled)[stream]
            accepted = drawn[replay.can_sample(drawn)]
            if not len(accepted) and not len(replay):
                raise UserError(
                    "the replay holds no transition to sample yet: --learning-starts must leave time for one"
                )
            slots = np.concatenate([slots, accepted])
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
        replay: what is sampled.
        sampler: draws the indices.
        batch_size: B.
        generators: source of randomness of each batch, at most `sampler.lookahead`.
        device: of the batches.
    """
    draws = [sampler.sample(batch_size, generator) for generator in generators]
    indices, weights = (np.concatenate(column) for column in zip(*draws, strict=True))
    rows = replay.sample(indices)
    columns = (rows.observation, rows.action, rows.reward, rows.discount, rows.next_observation, weights)
    parts = [torch.as_tensor(column, device=device).split(batch_size) for column in columns]
    return [Batch(*row) for row in zip(*parts, np.split(indices, len(generators)), strict=True)]
