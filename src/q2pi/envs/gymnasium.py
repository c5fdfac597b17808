"""Engine for Gymnasium environments: N copies stepped one after the other; `observations` makes the frames."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces

from q2pi.envs.interface import Frames
from q2pi.envs.observations import BadObservation, ObservationReader, action_mask
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
    env = env if has_time_limit else gymnasium.wrappers.TimeLimit(env, DEFAULT_TIME_LIMIT)
    return FrameSkip(env, spec.frame_skip) if spec.frame_skip and spec.frame_skip > 1 else env


def _install_command(message: str) -> str:
    """Return the pip command for the extra that Gymnasium's message names, or the message itself."""
    extra = re.search(r"gymnasium\[([\w-]+)\]", message)
    if extra is None:
        return message
    return f"pip install '{'q2pi' if extra[1] == 'box2d' else 'gymnasium'}[{extra[1]}]'"


def observed_images(spec: "EnvSpec") -> tuple[int, bool]:
    """Return (number of images in an observation, whether it is one image and nothing else); makes the environment.

    Raises:
        UserError: as `make` does, or the space or an image option cannot be used.
    """
    env = make(spec)
    try:
        parts = ObservationReader(spec, env.observation_space).parts
    finally:
        env.close()
    images = sum(part.kind == "image" for part in parts)
    return images, images == len(parts) == 1


def has_action_masks(spec: "EnvSpec") -> bool:
    """Return whether the environment has action masks, seen in one reset and one step; makes the environment once.

    Raises:
        UserError: as `make` does.
    """
    env = make(spec)
    try:
        if not isinstance(env.action_space, spaces.Discrete):
            return False
        if callable(getattr(env.unwrapped, "action_masks", None)):
            return True
        env.action_space.seed(0)
        _, info = env.reset(seed=0)
        return "action_mask" in info or "action_mask" in env.step(env.action_space.sample())[4]
    except Exception:  # what the environment does wrong is named when training starts
        return False
    finally:
        env.close()


class FrameSkip(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Repeats each action; returns the last observation and the sum of the rewards. An end stops the repetition.

    Args:
        env: the environment.
        frame_skip: its steps per action.
    """

    def __init__(self, env: Any, frame_skip: int) -> None:
        super().__init__(env)
        self.frame_skip = frame_skip

    def step(self, action: Any) -> Any:
        result: Any = self.env.step(action)
        total = result[1]
        for _ in range(self.frame_skip - 1):
            if result[2] or result[3]:
                break
            result = self.env.step(action)
            total = total + result[1]
        return (result[0], total, *result[2:])


class GymnasiumEngine:
    """N copies of one Gymnasium environment, an `Engine`; the action space is not changed.

    Args:
        spec: a resolved specification.
        num_envs: N.
    """

    def __init__(self, spec: "EnvSpec", num_envs: int) -> None:
        self.num_envs, self._env_id = num_envs, spec.env_id
        self._envs = [make(spec) for _ in range(num_envs)]
        self.observation_space: Any = self._envs[0].observation_space
        self.action_space: Any = self._envs[0].action_space
        self._mask_size = int(self.action_space.n) if spec.action_masks else 0
        self._reader = ObservationReader(spec, self.observation_space, self._mask_size)
        self.frame_space, self.parts = self._reader.frame_space, self._reader.parts
        self._actions: Array | None = None

    def reset(self, mask: Array, seeds: Array) -> Frames:
        """Start new episodes where mask [N] is true; frames elsewhere are zeros."""
        env_indices = [int(env_index) for env_index in np.flatnonzero(mask)]
        results = [self._envs[env_index].reset(seed=int(seeds[env_index])) for env_index in env_indices]
        all_false = np.zeros(self.num_envs, np.bool_)
        frame = np.zeros((self.num_envs, *self.frame_space.shape), self.frame_space.dtype)
        observations, infos = zip(*results, strict=True)
        frame[mask] = self._frames_of(env_indices, observations, infos, all_false)
        return self._frames(frame, np.zeros(self.num_envs), all_false, all_false)

    def prepare_reset(self, env_index: int, seed: int) -> None:
        """Do nothing: a reset takes about as long as a step."""

    def send(self, actions: Array) -> None:
        """Store actions [N] or [N, *action_shape] for `recv`, which steps the environments."""
        self._actions = actions

    def recv(self) -> Frames:
        """Step all environments."""
        assert self._actions is not None, "recv without send"
        actions, self._actions = self._actions, None
        results = [env.step(action) for env, action in zip(self._envs, actions, strict=True)]
        observations, reward, terminated, truncated, infos = zip(*results, strict=True)
        ended = np.array(terminated, np.bool_)
        frame = self._frames_of(range(self.num_envs), observations, infos, ended)
        return self._frames(frame, np.array(reward, np.float64), ended, np.array(truncated, np.bool_))

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()

    def _frames_of(
        self, env_indices: Sequence[int], observations: Sequence[Any], infos: Sequence[Any], terminated: Array
    ) -> Array:
        """Return the frames [n, *frame_shape] of the observations of some environments, with their action masks."""
        try:
            masks = self._masks(env_indices, infos, terminated) if self._mask_size else None
            return self._reader.frames(observations, masks)
        except BadObservation as problem:
            raise UserError(f"--env-id {self._env_id}: {problem}") from problem

    def _masks(self, env_indices: Sequence[int], infos: Sequence[Any], terminated: Array) -> list[Array]:
        masks = []
        for env_index, info in zip(env_indices, infos, strict=True):
            mask = action_mask(self._envs[env_index], info, self._mask_size, bool(terminated[env_index]))
            if mask is None:
                raise BadObservation('the info has no "action_mask" as other infos had; --no-action-masks reads none')
            masks.append(mask)
        return masks

    def _frames(self, frame: Array, reward: Array, terminated: Array, truncated: Array) -> Frames:
        lives = np.zeros(self.num_envs, np.int64)
        return Frames(frame, reward.astype(np.float32), terminated, truncated, lives)
