"""What agents without a replay keep between two updates: T steps of N games, or whole episodes.

Both are read once and emptied, both can be saved half full, and both keep observations as the games gave them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from q2pi.types import Array, State


@dataclass(frozen=True, slots=True)
class Batch:
    """Steps as an update reads them."""

    observation: Tensor
    """[B, *observation_shape], as the network takes it."""
    action: Tensor
    """[B, *action_shape], as the policy drew it."""
    log_prob: Tensor
    """[B] log pi(a|s) when the action was drawn."""
    value: Tensor
    """[B] V(s) at that moment."""
    advantage: Tensor
    """[B]"""
    target: Tensor
    """[B] what V(s) is moved to."""

    def select(self, index: Tensor) -> "Batch":
        """Return the rows `index`, int64."""
        return Batch(*(getattr(self, name)[index] for name in self.__slots__))


class Rollout:
    """T steps of N games, time-major.

    The value of what follows step t is found in one of two places, since row t + 1 belongs to another episode where one
    ended:

        row t       observation o_t  action a_t  reward r_t      what follows it        its value
        0           o0               a0          r0              o1                     value[1]
        1           o1               a1          r1, truncated   o2, final              final_value[1]
        2           o'0              a2          r2              o'1                    value[3]
        T - 1 = 3   o'1              a3          r3              o'2, not in a row      final_value[3]

    Args:
        steps, num_envs: T and N.
        observation_shape, observation_dtype: of one observation.
        action_shape, action_dtype: of one action as the policy draws it.
        log_prob: keep log pi(a|s) too; a learner of values has no use for it.
    """

    def __init__(
        self,
        steps: int,
        num_envs: int,
        observation_shape: tuple[int, ...],
        observation_dtype: np.dtype[Any],
        action_shape: tuple[int, ...],
        action_dtype: np.dtype[Any],
        *,
        log_prob: bool = True,
    ) -> None:
        size = (steps, num_envs)
        self.steps = steps
        self.length = 0
        """Rows filled."""
        self.observation: Array = np.zeros((*size, *observation_shape), observation_dtype)
        self.action: Array = np.zeros((*size, *action_shape), action_dtype)
        self.log_prob: Array = np.zeros(size if log_prob else (0, num_envs), np.float32)
        self.value: Array = np.zeros(size, np.float32)
        self.reward: Array = np.zeros(size, np.float32)
        self.discount: Array = np.zeros(size, np.float32)
        """gamma, 0 where the world ended."""
        self.ended: Array = np.zeros(size, np.bool_)
        """The episode ended, either way."""
        self.final_value: Array = np.zeros(size, np.float32)
        """Value of what follows, where time ran out and in the last row; 0 elsewhere."""

    @property
    def full(self) -> bool:
        return self.length == self.steps

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self._columns().values())

    @property
    def rows(self) -> int:
        """Agent steps of a full rollout, T * N."""
        return self.steps * int(self.value.shape[1])

    def final_values(self, truncated: Array, next_observation: Array, value_of: Callable[[Array], Array]) -> Array:
        """Return the values [N] of the next observations that no later row of the rollout holds, 0 elsewhere.

        These are the final observation of a truncated episode, and what follows the last row.

        Args:
            truncated: bool [N].
            next_observation: [N, *observation_shape].
            value_of: observations [B, ...] -> values [B].
        """
        wanted = truncated | (self.length == self.steps - 1)
        values = np.zeros(len(wanted), np.float32)
        if wanted.any():
            values[wanted] = value_of(next_observation[wanted])
        return values

    def append(self, **row: Array) -> None:
        """Take in one step of every game: one array [N, ...] for each column, by name."""
        assert not self.full, "the rollout is full"
        for name, column in self._columns().items():
            column[self.length] = row[name]
        self.length += 1

    def next_value(self) -> Array:
        """Return the values [T, N] of what follows each step of a full rollout."""
        assert self.full, "what follows the last row is not known yet"
        following = np.concatenate([self.value[1:], self.final_value[-1:]])
        return np.where(self.ended, self.final_value, following)

    def clear(self) -> None:
        self.length = 0

    def state(self) -> State:
        """Return the rows filled so far."""
        return {"length": self.length} | {name: column[: self.length] for name, column in self._columns().items()}

    def load(self, state: State) -> None:
        self.length = int(state["length"])
        for name, column in self._columns().items():
            column[: self.length] = state[name]

    def _columns(self) -> dict[str, Array]:
        names = ("observation", "action", "log_prob", "value", "reward", "discount", "ended", "final_value")
        columns: dict[str, Array] = {name: getattr(self, name) for name in names}
        return {name: column for name, column in columns.items() if len(column)}
