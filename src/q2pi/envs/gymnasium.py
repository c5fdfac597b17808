"""Any Gymnasium environment, N copies stepped one after the other.

How observations become frames, by their space:

    Box, uint8 [H, W, C] of 1, 3 or 4 channels    image     uint8 [C, H, W]
    Box, all others                               vector    float32 [D], flattened
    Discrete                                      table     int64 [1], counted from 0
    MultiDiscrete, Tuple of Discrete              table     int64 [D], counted from 0

Tables have `frame_space.high + 1` rows.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from q2pi.envs.spec import EnvSpec, keywords
from q2pi.envs.vector import Frames
from q2pi.errors import UserError
from q2pi.types import Array

LONGEST = 10_000
"""Steps after which an episode is truncated where an environment has no time limit: evaluations come to an end."""


def make(spec: EnvSpec, render_mode: str | None = None) -> Any:
    """Return one Gymnasium environment, with a time limit of its own or of LONGEST steps.

    Raises:
        UserError: packages are missing, or the environment refuses its options.
    """
    options = keywords(spec)
    # Not every constructor takes a render mode.
    drawn: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    try:
        game = gymnasium.make(spec.env_id, disable_env_checker=True, **drawn, **options)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise UserError(f"--env-id {spec.env_id} needs more packages: {_installation(str(error))}") from error
    except gymnasium.error.Error as error:
        raise UserError(f"--env-id {spec.env_id} cannot be made: {error}") from error
    except (TypeError, ValueError, AssertionError) as error:
        if not options:
            raise
        reason = str(error).partition("\n")[0]
        raise UserError(f"--env-options {' '.join(spec.env_options)}: {spec.env_id} refuses them: {reason}") from error
    limited = game.spec is None or game.spec.max_episode_steps is not None
    return game if limited else gymnasium.wrappers.TimeLimit(game, LONGEST)


def _installation(message: str) -> str:
    extra = re.search(r"gymnasium\[([\w-]+)\]", message)
    if extra is None:
        return message
    return f"pip install '{'q2pi' if extra[1] == 'box2d' else 'gymnasium'}[{extra[1]}]'"


def shows_images(spec: EnvSpec) -> bool:
    """Tell whether an environment's observations are images. Makes the environment once to ask.

    Raises:
        UserError: as `make` does.
    """
    env = make(spec)
    image = _is_image(env.observation_space)
    env.close()
    return image


def _is_image(space: Any) -> bool:
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) == 3
        and space.shape[2] in (1, 3, 4)
    )


class GymnasiumEngine:
    """N copies of one Gymnasium environment, an `Engine`; action spaces pass through as they are.

    Args:
        spec: a resolved specification.
        num_envs: N.
    """

    def __init__(self, spec: EnvSpec, num_envs: int) -> None:
        one = partial(make, spec)
        # Observations are copied once, on their way into frames.
        self._envs = SyncVectorEnv([one] * num_envs, copy=False, autoreset_mode=AutoresetMode.DISABLED)
        self.num_envs = num_envs
        self.action_space: Any = self._envs.single_action_space
        self.frame_space, self._frame = _reading(spec.env_id, self._envs.single_observation_space)
        self._actions: Array | None = None

    def reset(self, mask: Array, seeds: Array) -> Frames:
        """Begin new episodes where mask [N] is true; the first reset must be of all games."""
        observations, _ = self._envs.reset(seed=[int(seed) for seed in seeds], options={"reset_mask": mask})
        nothing = np.zeros(self.num_envs, np.bool_)
        return self._frames(observations, np.zeros(self.num_envs), nothing, nothing)

    def expect(self, game: int, seed: int) -> None:
        """Do nothing: a reset takes no longer than a step."""

    def send(self, actions: Array) -> None:
        """Keep actions [N] or [N, *action_shape] for `recv`, which does the work."""
        self._actions = actions

    def recv(self) -> Frames:
        """Step all environments."""
        assert self._actions is not None, "recv without send"
        actions, self._actions = self._actions, None
        observations, reward, terminated, truncated, _ = self._envs.step(actions)
        return self._frames(observations, reward, terminated, truncated)

    def close(self) -> None:
        """Close the environments."""
        self._envs.close()

    def _frames(self, observations: Any, reward: Array, terminated: Array, truncated: Array) -> Frames:
        return Frames(
            frame=self._frame(observations),
            reward=reward.astype(np.float32),
            terminated=terminated,
            truncated=truncated,
            lives=np.zeros(self.num_envs, np.int64),
        )


def _reading(env_id: str, space: Any) -> tuple[spaces.Box, Callable[[Any], Array]]:
    """Return the space of one frame, and the function that turns N observations into frames [N, ...], always copied."""
    if _is_image(space):
        height, width, channels = space.shape
        return spaces.Box(0, 255, (channels, height, width), np.uint8), lambda seen: np.moveaxis(seen, -1, 1).copy()
    if isinstance(space, spaces.Box):
        low, high = (np.asarray(bound, np.float32).reshape(-1) for bound in (space.low, space.high))
        return spaces.Box(low, high, dtype=np.float32), lambda seen: seen.reshape(len(seen), -1).astype(np.float32)
    if isinstance(space, spaces.Discrete):
        return _counted([space.n]), lambda seen: (seen - space.start)[:, None].astype(np.int64)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return _counted(space.nvec), lambda seen: (seen - space.start).astype(np.int64)
    if isinstance(space, spaces.Tuple) and all(isinstance(part, spaces.Discrete) for part in space):
        starts = [part.start for part in space]
        return _counted([part.n for part in space]), lambda seen: np.stack(seen, axis=1).astype(np.int64) - starts
    raise UserError(
        f"--env-id {env_id} shows a {type(space).__name__}; q2pi reads Box, Discrete, MultiDiscrete and Tuple"
    )


def _counted(sizes: Any) -> spaces.Box:
    return spaces.Box(0, np.asarray(sizes, np.int64) - 1, dtype=np.int64)
