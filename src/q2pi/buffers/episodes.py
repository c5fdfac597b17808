"""What agents without a replay keep between two updates: T steps of N games, or whole episodes.

Both are read once and emptied, both can be saved half full, and both keep observations as the games gave them.
"""

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
    """[*observation_shape] what the last action led to."""
    truncated: bool
    """Time ran out: the world had not ended."""


class Episodes:
    """Whole episodes of N games, the same number of each, all begun after the last update.

    Which episodes count is settled before they begin: the first `share` that each game begins. Taking instead the first
    ones to finish, of whichever game, would prefer short episodes. In the picture, `share` is 1, # counts, . is played
    and not kept:

        game 0  |#######|........|......########|...
        game 1  |###############|.....|####|........
                                ^ update            ^ update

    Args:
        num_envs: N.
        share: whole episodes of each game, at least 1.
        columns: shape and dtype of one observation and one action, under the names "observation" and "action".
    """

    def __init__(self, num_envs: int, share: int, columns: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> None:
        flags = {name: ((), np.dtype(np.bool_)) for name in ("ended", "truncated")}
        self.share = share
        self.columns = columns | {"reward": ((), np.dtype(np.float32)), "final": columns["observation"]} | flags
        self.counts: Array = np.ones(num_envs, np.bool_)
        """[N] the episode under way was begun after the last update."""
        self.rows: list[dict[str, list[Array]]] = [self._empty() for _ in range(num_envs)]
        self._just_ended: Array = np.zeros(num_envs, np.bool_)

    @property
    def complete(self) -> bool:
        """Every game has played its share."""
        return all(self._has_played(game) for game in range(len(self.rows)))

    def append(
        self,
        observation: Array,
        action: Array,
        reward: Array,
        terminated: Array,
        truncated: Array,
        next_observation: Array,
    ) -> None:
        """Take in one step of every game: arrays [N, ...]; `next_observation` is the true result of the action."""
        ended = terminated | truncated
        for game, rows in enumerate(self.rows):
            if not self.counts[game] or self._has_played(game):
                continue
            row = {"observation": observation, "action": action, "reward": reward}
            for name, column in (row | {"ended": ended, "truncated": truncated}).items():
                rows[name].append(column[game].copy())
            if ended[game]:
                rows["final"].append(next_observation[game].copy())
        self.counts = self.counts | ended
        self._just_ended = ended

    def take(self) -> list[Trajectory]:
        """Return the episodes, by game and then by their order, and begin the next collection after them.

        To be called after an `append` that made the collection complete.
        """
        trajectories = [trajectory for rows in self.rows for trajectory in self._cut(rows)]
        self.rows = [self._empty() for _ in self.rows]
        self.counts = self._just_ended
        return trajectories

    def state(self) -> State:
        games = {
            str(game): {name: self._stacked(name, rows[name]) for name in self.columns}
            for game, rows in enumerate(self.rows)
        }
        return {"counts": self.counts, "games": games}

    def load(self, state: State) -> None:
        self.counts = np.array(state["counts"])
        for game, rows in enumerate(self.rows):
            for name in self.columns:
                rows[name] = list(np.array(state["games"][str(game)][name]))

    def _has_played(self, game: int) -> bool:
        return len(self.rows[game]["final"]) == self.share

    def _empty(self) -> dict[str, list[Array]]:
        return {name: [] for name in self.columns}

    def _stacked(self, name: str, rows: list[Array]) -> Array:
        shape, dtype = self.columns[name]
        return np.array(rows, dtype).reshape(len(rows), *shape)

    def _cut(self, rows: dict[str, list[Array]]) -> list[Trajectory]:
        """Return the whole episodes of one game."""
        columns = {name: self._stacked(name, rows[name]) for name in self.columns}
        ends = np.flatnonzero(columns["ended"]) + 1
        begins = [0, *ends[:-1]]
        return [
            Trajectory(
                observation=columns["observation"][begin:end],
                action=columns["action"][begin:end],
                reward=columns["reward"][begin:end],
                final_observation=columns["final"][number],
                truncated=bool(columns["truncated"][end - 1]),
            )
            for number, (begin, end) in enumerate(zip(begins, ends, strict=True))
        ]
