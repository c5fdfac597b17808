"""Engine for Gymnasium environments: N copies stepped one after the other.

Observation spaces and the frames made from them:

    Box, uint8 [H, W, C] of 1, 3 or 4 channels    image     uint8 [C, H, W]
    Box, bool [H, W, C]                           image     uint8 [C, H, W], 0 or 255
    Box, other                                    vector    float32 [D], flattened
    Discrete                                      table     int64 [1], from 0
    MultiDiscrete, Tuple of Discrete              table     int64 [D], from 0

A table has `frame_space.high + 1` rows per component.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from q2pi.envs.interface import Frames
from q2pi.errors import UserError
from q2pi.types import Array

if TYPE_CHECKING:
    from q2pi.envs.spec import EnvSpec

DEFAULT_TIME_LIMIT = 10_000
"""Steps after which an episode is truncated if its environment has no time limit; an evaluation could run forever."""


def make(spec: "EnvSpec", render_mode: str | None = None) -> Any:
    """Return one Gymnasium environment with its own time limit, or else DEFAULT_TIME_LIMIT.

    Raises:
        UserError: a package is missing, or the environment rejects its options.
    """
    options = spec.keywords()
    # Not every constructor has a render_mode argument.
    render: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    try:
        env = gymnasium.make(spec.env_id, disable_env_checker=True, **render, **options)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise UserError(f"--env-id {spec.env_id} needs more packages: {_install_command(str(error))}") from error
    except gymnasium.error.Error as error:
        raise UserError(f"--env-id {spec.env_id} cannot be made: {error}") from error
    except (TypeError, ValueError, AssertionError) as error:
        if not options:
            raise
        reason = str(error).partition("\n")[0]
        raise UserError(f"--env-options {' '.join(spec.env_options)}: {spec.env_id} rejects them: {reason}") from error
    has_time_limit = env.spec is None or env.spec.max_episode_steps is not None
    return env if has_time_limit else gymnasium.wrappers.TimeLimit(env, DEFAULT_TIME_LIMIT)


def _install_command(message: str) -> str:
    """Return the pip command for the extra that Gymnasium's message names, or the message itself."""
    extra = re.search(r"gymnasium\[([\w-]+)\]", message)
    if "minatar" in message:
        return "pip install 'q2pi[minatar]'"
    if extra is None:
        return message
    return f"pip install '{'q2pi' if extra[1] == 'box2d' else 'gymnasium'}[{extra[1]}]'"


def has_image_observations(spec: "EnvSpec") -> bool:
    """Return whether the observations are images; makes the environment once.

    Raises:
        UserError: as `make` does.
    """
    env = make(spec)
    has_images = _is_image(env.observation_space)
    env.close()
    return has_images


def _is_image(space: Any) -> bool:
    return (
        isinstance(space, spaces.Box)
        and len(space.shape) == 3
        and (space.dtype == np.bool_ or (space.dtype == np.uint8 and space.shape[2] in (1, 3, 4)))
    )


class GymnasiumEngine:
    """N copies of one Gymnasium environment, an `Engine`; the action space is not changed.

    Args:
        spec: a resolved specification.
        num_envs: N.
    """

    def __init__(self, spec: "EnvSpec", num_envs: int) -> None:
        # copy=False: `_to_frames` copies the observations once.
        self._envs = SyncVectorEnv([partial(make, spec)] * num_envs, copy=False, autoreset_mode=AutoresetMode.DISABLED)
        self.num_envs = num_envs
        self.action_space: Any = self._envs.single_action_space
        self.frame_space, self._to_frames = _conversion(spec.env_id, self._envs.single_observation_space)
        self._actions: Array | None = None

    def reset(self, mask: Array, seeds: Array) -> Frames:
        """Start new episodes where mask [N] is true; the first mask must be all true."""
        observations, _ = self._envs.reset(seed=[int(seed) for seed in seeds], options={"reset_mask": mask})
        all_false = np.zeros(self.num_envs, np.bool_)
        return self._frames(observations, np.zeros(self.num_envs), all_false, all_false)

    def prepare_reset(self, env_index: int, seed: int) -> None:
        """Do nothing: a reset takes about as long as a step."""

    def send(self, actions: Array) -> None:
        """Store actions [N] or [N, *action_shape] for `recv`, which steps the environments."""
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
            frame=self._to_frames(observations),
            reward=reward.astype(np.float32),
            terminated=terminated,
            truncated=truncated,
            lives=np.zeros(self.num_envs, np.int64),
        )


def _conversion(env_id: str, space: Any) -> tuple[spaces.Box, Callable[[Any], Array]]:
    """Return the space of one frame, and a function from N observations to frames [N, ...] that always copies."""
    if _is_image(space):
        height, width, channels = space.shape
        white = 255 if space.dtype == np.bool_ else 1
        frame_space = spaces.Box(0, 255, (channels, height, width), np.uint8)
        return frame_space, lambda batch: np.moveaxis(batch, -1, 1).copy() * np.uint8(white)
    if isinstance(space, spaces.Box):
        low, high = (np.asarray(bound, np.float32).reshape(-1) for bound in (space.low, space.high))
        return spaces.Box(low, high, dtype=np.float32), lambda batch: batch.reshape(len(batch), -1).astype(np.float32)
    if isinstance(space, spaces.Discrete):
        return _table_space([space.n]), lambda batch: (batch - space.start)[:, None].astype(np.int64)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return _table_space(space.nvec), lambda batch: (batch - space.start).astype(np.int64)
    if isinstance(space, spaces.Tuple) and all(isinstance(part, spaces.Discrete) for part in space):
        starts = [part.start for part in space]
        return _table_space([part.n for part in space]), lambda batch: np.stack(batch, axis=1).astype(np.int64) - starts
    raise UserError(
        f"--env-id {env_id} has {type(space).__name__} observations: "
        "q2pi needs Box, Discrete, MultiDiscrete or a Tuple of Discrete"
    )


def _table_space(sizes: Any) -> spaces.Box:
    return spaces.Box(0, np.asarray(sizes, np.int64) - 1, dtype=np.int64)
