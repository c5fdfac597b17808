"""A rollout buffer for on-policy agents: T steps of N environments, raw observations. It can be saved half full."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from q2pi.types import Array, State


@dataclass(frozen=True, slots=True)
class Batch:
    """B steps of a rollout, the input of an update."""

    observation: Tensor
    """[B, *observation_shape] input of the network."""
    action: Tensor
    """[B, *action_shape] as sampled from the policy, before `to_env_action`."""
    log_prob: Tensor
    """[B] log pi(a|s) when the action was sampled; [0] if the rollout does not store it."""
    value: Tensor
    """[B] V(s) before the update."""
    advantage: Tensor
    """[B]"""
    target: Tensor
    """[B] target of V(s)."""

    def select(self, index: Tensor) -> "Batch":
        """Return the steps `index`, int64 [M]."""
        return Batch(*(getattr(self, name).index_select(0, index) for name in self.__slots__))


class Rollout:
    """T steps of N environments, time-major.

    The value of the next observation of step t is in row t + 1, unless an episode ended at t (row t + 1 belongs to the
    next episode) or t is the last row:

        row t       observation o_t  action a_t  reward r_t      next observation       its value
        0           o0               a0          r0              o1                     value[1]
        1           o1               a1          r1, truncated   o2, final              final_value[1]
        2           o'0              a2          r2              o'1                    value[3]
        T - 1 = 3   o'1              a3          r3              o'2, not in a row      final_value[3]

    Args:
        steps, num_envs: T and N.
        observation_shape, observation_dtype: of one observation.
        action_shape, action_dtype: of one action as sampled from the policy.
        log_prob: whether to store log pi(a|s); value-based agents do not need it.
        greedy: whether to store which actions were greedy, for Watkins's Q(lambda).
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
        greedy: bool = False,
    ) -> None:
        size = (steps, num_envs)
        self.steps = steps
        self.length = 0
        """Number of rows filled."""
        self.observation: Array = np.zeros((*size, *observation_shape), observation_dtype)
        self.action: Array = np.zeros((*size, *action_shape), action_dtype)
        self.log_prob: Array = np.zeros(size if log_prob else (0, num_envs), np.float32)
        self.greedy: Array = np.zeros(size if greedy else (0, num_envs), np.bool_)
        """The action had the greatest value."""
        self.value: Array = np.zeros(size, np.float32)
        self.reward: Array = np.zeros(size, np.float32)
        self.discount: Array = np.zeros(size, np.float32)
        """gamma, or 0 if terminated."""
        self.ended: Array = np.zeros(size, np.bool_)
        """The episode ended, by termination or truncation."""
        self.final_value: Array = np.zeros(size, np.float32)
        """Value of the next observation for truncated episodes and in the last row; 0 elsewhere."""
        names = ("observation", "action", "log_prob", "greedy", "value", "reward", "discount", "ended", "final_value")
        columns: dict[str, Array] = {name: getattr(self, name) for name in names}
        self.columns = {name: column for name, column in columns.items() if len(column)}
        """The arrays above by name, without empty ones; they are written in place."""

    @property
    def full(self) -> bool:
        return self.length == self.steps

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self.columns.values())

    @property
    def rows(self) -> int:
        """Agent steps of a full rollout, T * N."""
        return self.steps * int(self.value.shape[1])

    def final_values(self, truncated: Array, next_observation: Array, value_of: Callable[[Array], Array]) -> Array:
        """Return the values [N] of next observations that are not in a later row, 0 elsewhere.

        These are the final observations of truncated episodes and the next observations of the last row.

        Args:
            truncated: bool [N].
            next_observation: [N, *observation_shape].
            value_of: observations [B, ...] -> values [B].
        """
        needed = truncated | (self.length == self.steps - 1)
        values = np.zeros(len(needed), np.float32)
        if needed.any():
            values[needed] = value_of(next_observation[needed])
        return values

    def append(self, **row: Array) -> None:
        """Add one step of every environment: one array [N, ...] per column, by name."""
        assert not self.full, "the rollout is full"
        for name, column in self.columns.items():
            column[self.length] = row[name]
        self.length += 1

    def next_value(self) -> Array:
        """Return the values [T, N] of the next observations of a full rollout."""
        assert self.full, "the rollout is not full: the next value of its last row is unknown"
        following = np.concatenate([self.value[1:], self.final_value[-1:]])
        return np.where(self.ended, self.final_value, following)

    def clear(self) -> None:
        self.length = 0

    def state(self) -> State:
        """Return the rows filled so far."""
        return {"length": self.length} | {name: column[: self.length] for name, column in self.columns.items()}

    def load(self, state: State) -> None:
        self.length = int(state["length"])
        for name, column in self.columns.items():
            column[: self.length] = state[name]
