"""MinAtar's games with episodes that depend on nothing before them.

Source: Young and Tian 2019, "MinAtar: An Atari-Inspired Testbed for Thorough and Reproducible Reinforcement Learning
Experiments". The package repeats the previous action with probability 0.1, also in the first step of an episode, where
the previous action is the last of the episode before. Here it is action 0, a no-op.
"""

from typing import Any

from minatar.gym import BaseEnv


class MinAtar(BaseEnv):  # type: ignore[misc]
    """One of MinAtar's games; see its package for the arguments."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.game.last_action = 0
        observation, info = super().reset(seed=seed, options=options)
        return observation, info
