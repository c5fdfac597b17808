"""Environments with any observation space, with or without action masks, registered for the time of a test."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

ENV_ID = "q2pi-test/Small-v0"


class Sampled(gymnasium.Env[Any, Any]):
    """Episodes of `length` steps, observations sampled from the space, reward 1; seeded.

    Args:
        space: the observation space.
        actions: the action space; by default Discrete(3, start=2).
        returned: sample -> what the environment returns in its place.
        length: steps of an episode.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self,
        space: Any,
        actions: Any = None,
        returned: Callable[[Any], Any] = lambda sample: sample,
        length: int = 10,
        render_mode: str | None = None,
    ) -> None:
        self.observation_space = copy.deepcopy(space)  # a space holds a random generator
        self.action_space = spaces.Discrete(3, start=2) if actions is None else actions
        self.returned, self.length, self.render_mode = returned, length, render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.returned(self.observation_space.sample()), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(np.asarray(action, self.action_space.dtype)[()])
        self.steps += 1
        return self.returned(self.observation_space.sample()), 1.0, self.steps >= self.length, False, {}

    def render(self) -> Any:
        return np.full((16, 16, 3), self.steps, np.uint8)


class Forbidden(gymnasium.Env[Any, Any]):
    """A state in which the masked action pays most, were it allowed; an episode lasts `length` steps.

    Actions are 5, 6, 7 (start 5). In even steps action 7 is forbidden, in odd steps 5 is. An allowed action pays
    `action - 5`; a forbidden one raises, unless `is_strict` is false: then it pays 100.

    Args:
        source: "info" or "method": where the mask is.
        is_strict: whether a forbidden action raises.
        length: steps of an episode.
        none_at: step at which no action is allowed; None is never.
    """

    observation_space = spaces.Box(0, 1, (2,), np.float32)
    action_space = spaces.Discrete(3, start=5)

    def __init__(
        self, source: str = "info", is_strict: bool = True, length: int = 6, none_at: int | None = None
    ) -> None:
        self.source, self.is_strict, self.length, self.none_at = source, is_strict, length, none_at
        if source == "method":
            self.action_masks = self._mask

    def _mask(self) -> Any:
        allowed = [True, True, False] if self.steps % 2 == 0 else [False, True, True]
        return np.array(allowed, np.int8) * (self.steps != self.none_at) * (self.steps < self.length)

    def _result(self) -> Any:
        observation = np.eye(2, dtype=np.float32)[self.steps % 2]
        return observation, {"action_mask": self._mask()} if self.source == "info" else {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self._result()

    def step(self, action: Any) -> Any:
        is_allowed = bool(self._mask()[action - 5])
        if self.is_strict and not is_allowed:
            raise AssertionError(f"action {action} is not allowed in step {self.steps}")
        self.steps += 1
        observation, info = self._result()
        reward = float(action - 5) if is_allowed else 100.0
        return observation, reward, self.steps >= self.length, False, info


@contextmanager
def registered(make: Callable[..., Any]) -> Iterator[str]:
    """Register an environment as ENV_ID and yield this id."""
    gymnasium.register(ENV_ID, entry_point=make)
    try:
        yield ENV_ID
    finally:
        del gymnasium.registry[ENV_ID]


class ForbiddenPairs(gymnasium.Env[Any, Any]):
    """MultiDiscrete actions with masks: in even steps the first component may not be 2, in odd steps the second not 0.

    An episode lasts 6 steps; a forbidden action raises. Actions start at (5, -1).

    Args:
        form: of the mask: "flat", "tuple" (one mask per component), or "short" (a value is missing).
        shape: of the actions, (2,) or (2, 1).
    """

    observation_space = spaces.Box(0, 1, (2,), np.float32)

    def __init__(self, form: str = "flat", shape: tuple[int, ...] = (2,)) -> None:
        self.form = form
        sizes, starts = np.array([3, 2]).reshape(shape), np.array([5, -1]).reshape(shape)
        self.action_space = spaces.MultiDiscrete(sizes, start=starts)

    def action_masks(self) -> Any:
        even = self.steps % 2 == 0
        parts = np.array([1, 1, not even], np.int8), np.array([even, 1], np.int8)
        if self.form == "tuple":
            return parts if len(self.action_space.shape) == 1 else tuple((part,) for part in parts)
        return np.concatenate(parts)[: 4 if self.form == "short" else 5]

    def _result(self) -> Any:
        return np.eye(2, dtype=np.float32)[self.steps % 2], {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self._result()

    def step(self, action: Any) -> Any:
        first, second = (action - self.action_space.start).reshape(-1)
        if (first == 2) if self.steps % 2 == 0 else (second == 0):
            raise AssertionError(f"action {action.tolist()} is not allowed in step {self.steps}")
        self.steps += 1
        observation, info = self._result()
        return observation, float(first), self.steps >= 6, False, info


def nested() -> Any:
    """Return a nested space: an image, vectors, indices and bits."""
    return spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (8, 9, 3), np.uint8),
            "goal": spaces.Tuple([spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(4, start=-1)]),
            "keys": spaces.MultiBinary(3),
        }
    )
