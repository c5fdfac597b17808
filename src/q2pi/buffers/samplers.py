"""Samplers draw the indices and weights of transitions; `batches` assembles the transitions for the loss."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from q2pi.buffers.replay import Replay, Slots
from q2pi.errors import UserError
from q2pi.types import State


class Batch(NamedTuple):
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
    indices: Slots
    """[B] slots of the transitions in the replay."""
    weight: Tensor | None = None
    """[B] importance weights; None for uniform sampling."""


class Sampler(Protocol):
    """Draws transitions from a replay; the only source of randomness is the generator passed to `sample`."""

    lookahead: int
    """Number of batches that may be drawn before an update uses the first one: 1 if updates change the priorities."""

    def added(self, indices: Slots) -> None:
        """Register the slots [N] of new transitions."""

    def sample(self, batch_size: int, rng: np.random.Generator) -> tuple[Slots, NDArray[np.float32] | None]:
        """Return (indices [B], importance weights float32 [B] if any); `replay.can_sample(indices)` holds."""

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

    def sample(self, batch_size: int, rng: np.random.Generator) -> tuple[Slots, None]:
        """Return indices [B], without weights.

        Rows are drawn uniformly from those written and rejected if no transition can be sampled there.

        Raises:
            UserError: no transition can be sampled.
            ValueError: the replay is empty: `begin` was not called.
        """
        if not np.count_nonzero(self.replay.written):
            raise ValueError("sample before begin: the replay has no rows")
        slots = self._drawn(batch_size, rng)
        while len(slots) < batch_size:
            if not len(slots) and not len(self.replay):
                raise UserError("the replay has no transition to sample yet: --learning-starts is too small")
            slots = np.concatenate([slots, self._drawn(batch_size, rng)])
        return slots[:batch_size], None

    def _drawn(self, batch_size: int, rng: np.random.Generator) -> Slots:
        """Draw some more than `batch_size` of the written rows; return the slots that can be sampled, in that order."""
        replay, filled = self.replay, self.replay.filled
        ends = filled.cumsum()
        drawn = rng.integers(ends[-1], size=batch_size + batch_size // 8 + 4)  # so that a second draw is rare
        if replay.num_envs > 1:
            stream = ends.searchsorted(drawn, side="right")
            drawn = stream * replay.rows + drawn - (ends - filled)[stream]
        return drawn[replay.can_sample(drawn)]

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
    generators: Iterable[np.random.Generator],
    device: torch.device,
) -> list[Batch]:
    """Return one batch per generator, read from the replay and moved to the device together.

    Args:
        replay: source of the transitions.
        sampler: draws their indices.
        batch_size: B.
        generators: random generator of each batch, at most `sampler.lookahead`; each is used up before the next is
            taken.
        device: of the batches.
    """
    draws = [sampler.sample(batch_size, generator) for generator in generators]
    weights = [None if weight is None else _tensor(weight, device) for _, weight in draws]
    if len(draws) == 1:  # splitting into a single part takes longer than drawing it
        return [batch_at(replay, draws[0][0], device, weights[0])]
    indices = np.concatenate([indices for indices, _ in draws])
    parts = [column.split(batch_size) for column in _columns(replay, indices, device)]
    return [Batch(*row) for row in zip(*parts, np.split(indices, len(draws)), weights, strict=True)]


def batch_at(replay: Replay, indices: Slots, device: torch.device, weight: Tensor | None = None) -> Batch:
    """Return the transitions at `indices` [B], which can be sampled, as a batch on the device."""
    observation, action, reward, discount, next_observation = _columns(replay, indices, device)
    return Batch(observation, action, reward, discount, next_observation, indices, weight)


def _columns(replay: Replay, indices: Slots, device: torch.device) -> list[Tensor]:
    """Return the first five columns of a `Batch` of the transitions at `indices`."""
    rows = replay.assemble(indices)
    columns = (rows.observation, rows.action, rows.reward, rows.discount, rows.next_observation)
    return [_tensor(column, device) for column in columns]


def _tensor(column: Any, device: torch.device) -> Tensor:
    """Return an array, or a tensor as a store on a device reads it, as a tensor on the device."""
    return (torch.from_numpy(column) if isinstance(column, np.ndarray) else column).to(device)
