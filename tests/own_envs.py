"""A small environment that tests bend in one place."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Small(gymnasium.Env[Any, Any]):
    """Ten steps of reward 1; observations follow from the seed and the number of steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's own form)
    observation_space: Any = spaces.Box(-1, 1, (3,), np.float32)
    action_space: Any = spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def observe(self) -> Any:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.observe(), 1.0, self.t >= 10, False, {}

    def render(self) -> Any:
        return np.full((64, 64, 3), 20 * self.t % 255, np.uint8)


@contextmanager
def registered(kind: Any, env_id: str = "q2pi-test/Small-v0") -> Iterator[str]:
    """Register a class of environments for the duration of a test."""
    gymnasium.register(env_id, entry_point=kind)
    try:
        yield env_id
    finally:
        del gymnasium.registry[env_id]
