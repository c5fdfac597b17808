"""A buffer of whole episodes for on-policy agents. It can be saved half full."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from q2pi.types import Array, State


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One whole episode of T steps."""

    observation: Array
    """[T, *observation_shape]"""
    action: Array
    """[T, *action_shape]"""
    reward: Array
    """[T] float32"""
    final_observation: Array
    """[*observation_shape] result of the last action."""
    truncated: bool
    """Whether the episode was truncated (time limit) and not terminated."""


class Episodes:
    """Whole episodes of N environments, the same number from each, all started after the last update.

    Which episodes are recorded does not depend on their length: the first `episodes_per_env` that each environment
    starts. Recording the first episodes to finish in any environment would prefer short ones. Below, with
    `episodes_per_env` 1, # is a recorded step and . a step that is not recorded:

        env 0   |#######|........|......########|...
        env 1   |###############|.....|####|........
                                ^ update            ^ update

    Args:
        num_envs: N.
        episodes_per_env: whole episodes of each environment, at least 1.
        columns: shape and dtype of one observation and one action, under the names "observation" and "action".
    """

    def __init__(
        self, num_envs: int, episodes_per_env: int, columns: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
    ) -> None:
        flags = {name: ((), np.dtype(np.bool_)) for name in ("ended", "truncated")}
        self.episodes_per_env = episodes_per_env
        self.columns = columns | {"reward": ((), np.dtype(np.float32)), "final": columns["observation"]} | flags
        self.recording: Array = np.ones(num_envs, np.bool_)
        """[N] bool: the environment's current episode started after the last update."""
        self.rows: list[dict[str, list[Array]]] = [self._empty() for _ in range(num_envs)]
        self._just_ended: Array = np.zeros(num_envs, np.bool_)

    @property
    def complete(self) -> bool:
        """Whether every environment has finished its episodes."""
        return all(self._is_complete(env_index) for env_index in range(len(self.rows)))

    def append(
        self,
        observation: Array,
        action: Array,
        reward: Array,
        terminated: Array,
        truncated: Array,
        next_observation: Array,
    ) -> None:
        """Add one step of every environment: arrays [N, ...]; `next_observation` is the true result of the action."""
        ended = terminated | truncated
        for env_index, rows in enumerate(self.rows):
            if not self.recording[env_index] or self._is_complete(env_index):
                continue
            row = {"observation": observation, "action": action, "reward": reward}
            for name, column in (row | {"ended": ended, "truncated": truncated}).items():
                rows[name].append(column[env_index].copy())
            if ended[env_index]:
                rows["final"].append(next_observation[env_index].copy())
        self.recording = self.recording | ended
        self._just_ended = ended

    def cut(self) -> None:
        """Discard the unfinished episodes; the next step of every environment is the first of a recorded episode."""
        for rows in self.rows:
            ends = np.flatnonzero(rows["ended"])
            kept = int(ends[-1]) + 1 if len(ends) else 0
            for name, column in rows.items():
                if name != "final":
                    del column[kept:]
        self.recording = np.ones_like(self.recording)

    def take(self) -> list[Trajectory]:
        """Return the episodes in order of environment and time, and clear the buffer.

        Call it after the `append` that made the buffer complete.
        """
        trajectories = [trajectory for rows in self.rows for trajectory in self._split(rows)]
        self.rows = [self._empty() for _ in self.rows]
        self.recording = self._just_ended
        return trajectories

    def state(self) -> State:
        envs = {
            str(env_index): {name: self._stacked(name, rows[name]) for name in self.columns}
            for env_index, rows in enumerate(self.rows)
        }
        return {"recording": self.recording, "envs": envs}

    def load(self, state: State) -> None:
        self.recording = np.array(state["recording"])
        for env_index, rows in enumerate(self.rows):
            for name in self.columns:
                rows[name] = list(np.array(state["envs"][str(env_index)][name]))

    def _is_complete(self, env_index: int) -> bool:
        return len(self.rows[env_index]["final"]) == self.episodes_per_env

    def _empty(self) -> dict[str, list[Array]]:
        return {name: [] for name in self.columns}

    def _stacked(self, name: str, rows: list[Array]) -> Array:
        shape, dtype = self.columns[name]
        return np.array(rows, dtype).reshape(len(rows), *shape)

    def _split(self, rows: dict[str, list[Array]]) -> list[Trajectory]:
        """Return the whole episodes of one environment."""
        columns = {name: self._stacked(name, rows[name]) for name in self.columns}
        ends = np.flatnonzero(columns["ended"]) + 1
        starts = [0, *ends[:-1]]
        return [
            Trajectory(
                observation=columns["observation"][start:end],
                action=columns["action"][start:end],
                reward=columns["reward"][start:end],
                final_observation=columns["final"][index],
                truncated=bool(columns["truncated"][end - 1]),
            )
            for index, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]
