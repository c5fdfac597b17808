"""A short memory between a rollout and a replay: the steps of the newest rollouts, with the targets they had."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

State = dict[str, Any]


class Window:
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
        count, layout = rollouts * rows, torch.channels_last if len(shape) == 3 else torch.contiguous_format
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        self.observation = torch.empty((count, *shape), dtype=kind, device=device, memory_format=layout)
        self.action = torch.empty(count, dtype=torch.int64, device=device)
        self.target = torch.empty(count, device=device)

    def add(self, number: int, observation: Tensor, action: Tensor, target: Tensor) -> None:
        """Take in the steps of rollout `number`, [rows, ...] each."""
        begin = number % self.rollouts * self.rows
        for column, given in zip(self._columns().values(), (observation, action, target), strict=True):
            column[begin : begin + self.rows] = given

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (observation, action, target) of B rows, int64 [B]; images are copied in the order they lie in."""
        images = self.observation.dim() == 4
        laid_out = self.observation.movedim(1, -1) if images else self.observation
        observation = laid_out.index_select(0, rows)
        return observation.movedim(-1, 1) if images else observation, self.action[rows], self.target[rows]

    def filled(self, count: int) -> int:
        """Return the rows that hold a step after `count` rollouts: the first ones."""
        return min(count, self.rollouts) * self.rows

    def state(self, count: int) -> State:
        """Return the rows, after `count` rollouts, that are still there when the next has come."""
        lasting = self._lasting(count)
        return {name: column[lasting].cpu().numpy() for name, column in self._columns().items()}

    def load(self, count: int, state: State) -> None:
        """Take back what `state` returned after `count` rollouts."""
        lasting = self._lasting(count)
        for name, column in self._columns().items():
            column[lasting] = torch.from_numpy(np.array(state[name])).to(column.device)

    def _lasting(self, count: int) -> Tensor:
        rows = torch.arange(self.filled(count), device=self.target.device)
        return rows[rows // self.rows != count % self.rollouts]

    def _columns(self) -> dict[str, Tensor]:
        return {"observation": self.observation, "action": self.action, "target": self.target}
