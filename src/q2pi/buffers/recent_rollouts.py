"""A short memory between a rollout and a replay: the steps of the newest rollouts, with the targets they had."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from q2pi.buffers.frames import copy_into
from q2pi.types import State


class RecentRollouts:
    """Steps of the newest rollouts on the device that learns, images with their channels last, as networks read them.

    Rollout number k, counted from 0, lies in slot k mod `rollouts`: the newest takes the place of the oldest.

    Args:
        rollouts: how many are kept.
        rows: steps of each.
        shape, dtype: of one observation.
        device: where all tensors lie.
    """

    def __init__(
        self, rollouts: int, rows: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: torch.device
    ) -> None:
        self.rollouts, self.rows = rollouts, rows
        self._images = len(shape) == 3
        count, kind = rollouts * rows, torch.from_numpy(np.empty(0, dtype)).dtype
        laid_out = (*shape[1:], shape[0]) if self._images else shape
        self.observation = torch.empty((count, *laid_out), dtype=kind, device=device)
        self.action = torch.empty(count, dtype=torch.int64, device=device)
        self.target = torch.empty(count, device=device)

    def add(self, number: int, observation: Tensor, action: Tensor, target: Tensor) -> None:
        """Take in the steps of rollout `number`, [rows, ...] each."""
        begin = number % self.rollouts * self.rows
        laid_out = observation.movedim(1, -1) if self._images else observation
        for column, given in zip(self._columns().values(), (laid_out, action, target), strict=True):
            column[begin : begin + self.rows] = given

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (observation [B, *shape], action [B], target [B]) of B rows, int64 [B]."""
        observation = self.observation.index_select(0, rows)
        return observation.movedim(-1, 1) if self._images else observation, self.action[rows], self.target[rows]

    def filled(self, count: int) -> int:
        """Return the rows that hold a step after `count` rollouts: the first ones."""
        return min(count, self.rollouts) * self.rows

    def state(self, count: int) -> State:
        """Return the rows, after `count` rollouts, that are still there when the next has come: live references."""
        return {
            place: {name: column[rows].cpu().numpy() for name, column in self._columns().items()}
            for place, rows in self._lasting(count).items()
        }

    def load(self, count: int, state: State) -> None:
        """Take back what `state` returned after `count` rollouts."""
        for place, rows in self._lasting(count).items():
            for name, column in self._columns().items():
                if column.device.type == "cpu":
                    copy_into(column[rows].numpy(), state[place], name)
                else:
                    column[rows] = torch.from_numpy(np.asarray(state[place][name])).to(column.device)

    def _lasting(self, count: int) -> dict[str, slice]:
        """Return the rows on both sides of the slot that the next rollout will take."""
        filled, begin = self.filled(count), count % self.rollouts * self.rows
        return {"before": slice(0, begin), "after": slice(min(begin + self.rows, filled), filled)}

    def _columns(self) -> dict[str, Tensor]:
        return {"observation": self.observation, "action": self.action, "target": self.target}
