"""A buffer of the newest rollouts, whose targets are not recomputed: between a rollout buffer and a replay buffer."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from q2pi.buffers.frames import copy_into
from q2pi.types import State


class RecentRollouts:
    """Steps of the newest rollouts on the networks' device; images are stored channels-last, the networks' layout.

    Rollout k, counted from 0, is stored in slot k mod `rollouts`: the newest rollout replaces the oldest.

    Args:
        rollouts: number of rollouts kept.
        rows: steps per rollout.
        shape, dtype: of one observation.
        device: of all tensors.
    """

    def __init__(
        self, rollouts: int, rows: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: torch.device
    ) -> None:
        self.rollouts, self.rows = rollouts, rows
        self._images = len(shape) == 3
        count, torch_dtype = rollouts * rows, torch.from_numpy(np.empty(0, dtype)).dtype
        stored_shape = (*shape[1:], shape[0]) if self._images else shape
        self.observation = torch.empty((count, *stored_shape), dtype=torch_dtype, device=device)
        self.action = torch.empty(count, dtype=torch.int64, device=device)
        self.target = torch.empty(count, device=device)

    def add(self, index: int, observation: Tensor, action: Tensor, target: Tensor) -> None:
        """Store the steps of rollout `index`: three tensors [rows, ...]."""
        start = index % self.rollouts * self.rows
        stored = observation.movedim(1, -1) if self._images else observation
        for column, values in zip(self._columns().values(), (stored, action, target), strict=True):
            column[start : start + self.rows] = values

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (observation [B, *shape], action [B], target [B]) of B rows, int64 [B]."""
        observation = self.observation.index_select(0, rows)
        return observation.movedim(-1, 1) if self._images else observation, self.action[rows], self.target[rows]

    def filled(self, count: int) -> int:
        """Return the number of rows filled after `count` rollouts; rows are filled from the first on."""
        return min(count, self.rollouts) * self.rows

    def state(self, count: int) -> State:
        """Return the rows after `count` rollouts that the next rollout does not overwrite: live references."""
        return {
            side: {name: column[rows].cpu().numpy() for name, column in self._columns().items()}
            for side, rows in self._kept_rows(count).items()
        }

    def load(self, count: int, state: State) -> None:
        """Restore what `state` returned after `count` rollouts."""
        for side, rows in self._kept_rows(count).items():
            for name, column in self._columns().items():
                if column.device.type == "cpu":
                    copy_into(column[rows].numpy(), state[side], name)
                else:
                    column[rows] = torch.from_numpy(np.asarray(state[side][name])).to(column.device)

    def _kept_rows(self, count: int) -> dict[str, slice]:
        """Return the rows before and after the slot that the next rollout overwrites."""
        filled, start = self.filled(count), count % self.rollouts * self.rows
        return {"before": slice(0, start), "after": slice(min(start + self.rows, filled), filled)}

    def _columns(self) -> dict[str, Tensor]:
        return {"observation": self.observation, "action": self.action, "target": self.target}
