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
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array

from q2pi.envs import interaction, modules
from q2pi.envs.errors import EnvError, first_line
from q2pi.envs.interaction import BadResult
from q2pi.envs.interface import Frames
from q2pi.errors import UserError, suggest
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
    except Exception as error:
        if not options or not isinstance(error, TypeError | ValueError | AssertionError):
            raise EnvError(spec.env_id, f"it cannot be made: {first_line(error)}") from error
        reason = str(error).partition("\n")[0]
        raise UserError(f"--env-options {' '.join(spec.env_options)}: {spec.env_id} rejects them: {reason}") from error
    for wrapper in spec.wrappers:
        env = _wrapped(env, wrapper, spec.env_id)
    has_time_limit = env.spec is None or env.spec.max_episode_steps is not None
    return env if has_time_limit else gymnasium.wrappers.TimeLimit(env, DEFAULT_TIME_LIMIT)


def load_wrapper(name: str) -> Callable[[Any], Any]:
    """Return the wrapper MODULE:NAME.

    Raises:
        UserError: another form, no such module, or nothing in it that can be called under this name.
    """
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise UserError(f"--wrappers {name}: it must be MODULE:NAME, such as gymnasium.wrappers:FlattenObservation")
    found: Any = modules.load(module, f"--wrappers {name}")
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UserError(f"--wrappers {name}: {module} has no {part}{suggest(part, dir(found))}")
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"--wrappers {name}: {attribute} cannot be called with an environment")
    return found  # type: ignore[no-any-return]


def _wrapped(env: Any, name: str, env_id: str) -> Any:
    """Return the environment in one more wrapper; if that fails, close the environment."""
    try:
        wrapped = load_wrapper(name)(env)
    except UserError:
        env.close()
        raise
    except Exception as error:
        env.close()
        raise EnvError(env_id, f"the wrapper {name} raised {first_line(error)}") from error
    if not isinstance(wrapped, gymnasium.Env):
        env.close()
        returned = interaction.described(wrapped)
        raise UserError(f"--wrappers {name}: it returned {returned}, and must return a Gymnasium environment")
    return wrapped


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
        self.num_envs = num_envs
        self._env_id = spec.env_id
        self._envs = _make_all(spec, num_envs)
        self.is_known_reproducible = not spec.wrappers and _is_gymnasiums_own(self._envs[0])
        self._space: Any = self._envs[0].observation_space
        self.action_space: Any = self._envs[0].action_space
        try:
            self.frame_space, self._to_frames = _conversion(spec.env_id, self._space)
        except UserError:
            self.close()
            raise
        self._is_float = self.frame_space.dtype.kind == "f"
        self._actions: Array | None = None

    def reset(self, mask: Array, seeds: Array) -> Frames:
        """Start new episodes where mask [N] is true; frames elsewhere are zeros."""
        env_indices = [int(env_index) for env_index in np.flatnonzero(mask)]
        observations = []
        for env_index in env_indices:
            try:
                observations.append(interaction.reset(self._envs[env_index], int(seeds[env_index])))
            except BadResult as problem:
                raise self._error(env_index, problem) from problem.__cause__
        frame = np.zeros((self.num_envs, *self.frame_space.shape), self.frame_space.dtype)
        frame[mask] = self._frames_of(observations, env_indices, "reset")
        all_false = np.zeros(self.num_envs, np.bool_)
        return self._frames(frame, np.zeros(self.num_envs), all_false, all_false)

    def prepare_reset(self, env_index: int, seed: int) -> None:
        """Do nothing: a reset takes about as long as a step."""

    def send(self, actions: Array) -> None:
        """Store actions [N] or [N, *action_shape] for `recv`, which steps the environments."""
        self._actions = actions

    def recv(self) -> Frames:
        """Step all environments."""
        assert self._actions is not None, "recv without send"
        # Copied: an environment that changes its action in place would change the stored episode.
        actions, self._actions = self._actions.copy(), None
        observations = []
        reward = np.empty(self.num_envs)
        terminated, truncated = np.empty(self.num_envs, np.bool_), np.empty(self.num_envs, np.bool_)
        for env_index, env in enumerate(self._envs):
            try:
                result = interaction.step(env, actions[env_index])
            except BadResult as problem:
                raise self._error(env_index, problem) from problem.__cause__
            observation, reward[env_index], terminated[env_index], truncated[env_index] = result
            # An environment may return the same array in every step.
            observations.append(observation)
        return self._frames(self._frames_of(observations, range(self.num_envs), "step"), reward, terminated, truncated)

    def close(self) -> None:
        """Close the environments."""
        _close_all(self._envs)

    def _frames_of(self, observations: list[Any], env_indices: Sequence[int], method: str) -> Array:
        """Return the frames [n, *frame_shape] of the observations of some environments."""
        try:
            frames = self._to_frames(_batch(self._space, observations))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise self._misfit(observations, env_indices, method, error) from error
        if self._is_float and not np.isfinite(frames).all():
            bad = next(index for index, frame in enumerate(frames) if not np.isfinite(frame).all())
            raise self._error(env_indices[bad], f"{method} returned an observation with NaN or infinite numbers")
        return frames

    def _misfit(self, observations: list[Any], env_indices: Sequence[int], method: str, error: Exception) -> EnvError:
        """Return the error of the first observation that does not fit the space."""
        for env_index, observation in zip(env_indices, observations, strict=True):
            try:
                self._to_frames(_batch(self._space, [observation]))
            except (ValueError, TypeError, KeyError, IndexError, AttributeError):
                found = interaction.described(observation)
                return self._error(env_index, f"{method} returned the observation {found}: its space is {self._space}")
        return self._error(env_indices[0], f"{method} returned observations that cannot be read: {first_line(error)}")

    def _error(self, env_index: int, problem: object) -> EnvError:
        return EnvError(self._env_id, str(problem), env_index)

    def _frames(self, frame: Array, reward: Array, terminated: Array, truncated: Array) -> Frames:
        return Frames(frame, reward, terminated, truncated, lives=np.zeros(self.num_envs, np.int64))


def _is_gymnasiums_own(env: Any) -> bool:
    """Return whether an environment is Gymnasium's or q2pi's own, whose randomness follows `reset(seed)`."""
    entry_point = None if env.spec is None or env.spec.additional_wrappers else env.spec.entry_point
    return isinstance(entry_point, str) and entry_point.startswith(("gymnasium.envs.", "q2pi.envs."))


def _make_all(spec: "EnvSpec", num_envs: int) -> list[Any]:
    """Return N environments; if one cannot be made, the others are closed."""
    envs: list[Any] = []
    try:
        for _ in range(num_envs):
            envs.append(make(spec))
    except Exception:
        _close_all(envs)
        raise
    return envs


def _close_all(envs: list[Any]) -> None:
    while envs:
        envs.pop().close()


def _batch(space: Any, observations: list[Any]) -> Any:
    """Return observations as Gymnasium batches them: an array [n, *shape] for a Box.

    Raises:
        ValueError, TypeError: an observation has another shape, or numbers of another kind, than the space.
    """
    if not isinstance(space, spaces.Box):
        empty: Any = create_empty_array(space, len(observations))
        return concatenate(space, observations, empty)
    batch = np.array(observations)
    if batch.shape[1:] != space.shape:
        raise ValueError(f"shape {batch.shape[1:]}")
    return batch if batch.dtype == space.dtype else batch.astype(space.dtype, casting="same_kind")


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
