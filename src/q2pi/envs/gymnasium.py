"""Engine for Gymnasium environments: N copies stepped one after the other; `observations` makes the frames."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from q2pi.envs import interaction, modules
from q2pi.envs.encoding import BadObservation
from q2pi.envs.errors import EnvError, first_line
from q2pi.envs.interaction import BadResult
from q2pi.envs.interface import Frames
from q2pi.envs.masks import action_mask, mask_sizes
from q2pi.envs.observations import ObservationReader
from q2pi.errors import UserError, suggest
from q2pi.types import Array

if TYPE_CHECKING:
    from q2pi.envs.spec import EnvSpec

_REPLACE = "replace them in the environment or in a wrapper (--wrappers)"
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
    env = env if has_time_limit else gymnasium.wrappers.TimeLimit(env, DEFAULT_TIME_LIMIT)
    return FrameSkip(env, spec.frame_skip) if spec.frame_skip and spec.frame_skip > 1 else env


def has_default_time_limit(spec: "EnvSpec") -> bool:
    """Return whether episodes are cut at DEFAULT_TIME_LIMIT: neither the environment nor its options have a limit."""
    registered = gymnasium.registry.get(spec.env_id.rpartition(":")[2])
    has_none = registered is not None and registered.max_episode_steps is None
    return has_none and "max_episode_steps" not in spec.keywords()


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
        if not mask_sizes(env.action_space):
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
        self.num_envs = num_envs
        self._env_id = spec.env_id
        self._envs = _make_all(spec, num_envs)
        self.is_known_reproducible = not spec.wrappers and _is_gymnasiums_own(self._envs[0])
        self.observation_space: Any = self._envs[0].observation_space
        self.action_space: Any = self._envs[0].action_space
        self._mask_sizes = mask_sizes(self.action_space) if spec.action_masks else ()
        try:
            self._reader = ObservationReader(spec, self.observation_space, sum(self._mask_sizes))
        except UserError:
            self.close()
            raise
        self.frame_space, self.parts = self._reader.frame_space, self._reader.parts
        self._is_float = self.frame_space.dtype.kind == "f"
        self._no_lives = np.zeros(num_envs, np.int64)
        self._actions: Array | None = None

    def reset(self, mask: Array, seeds: Array) -> Frames:
        """Start new episodes where mask [N] is true; frames elsewhere are zeros."""
        env_indices = [int(env_index) for env_index in np.flatnonzero(mask)]
        observations: list[Any] = []
        masks: list[Array] = []
        for env_index in env_indices:
            try:
                observation, info = interaction.reset(self._envs[env_index], int(seeds[env_index]))
                if self._mask_sizes:
                    masks.append(self._mask(env_index, info, "reset"))
            except BadResult as problem:
                raise self._error(env_index, problem) from problem.__cause__
            observations.append(observation)
        frame = np.zeros((self.num_envs, *self.frame_space.shape), self.frame_space.dtype)
        frame[mask] = self._frames_of(observations, masks, env_indices, "reset")
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
        observations: list[Any] = []
        masks: list[Array] = []
        reward = np.empty(self.num_envs)
        terminated, truncated = np.empty(self.num_envs, np.bool_), np.empty(self.num_envs, np.bool_)
        for env_index, (env, action) in enumerate(zip(self._envs, actions, strict=True)):
            try:
                observation, paid, has_terminated, is_truncated, info = interaction.step(env, action)
                if self._mask_sizes:
                    masks.append(self._mask(env_index, info, "step", has_terminated))
            except BadResult as problem:
                raise self._error(env_index, problem) from problem.__cause__
            reward[env_index], terminated[env_index], truncated[env_index] = paid, has_terminated, is_truncated
            observations.append(observation)
        frame = self._frames_of(observations, masks, range(self.num_envs), "step")
        return self._frames(frame, reward, terminated, truncated)

    def close(self) -> None:
        """Close the environments."""
        _close_all(self._envs)

    def _mask(self, env_index: int, info: Any, method: str, has_terminated: bool = False) -> Array:
        """Return the action mask [A] of an environment.

        Raises:
            BadResult: the mask is missing, has another form, or allows no action.
        """
        try:
            mask = action_mask(self._envs[env_index], info, self._mask_sizes, has_terminated)
        except BadObservation as problem:
            raise BadResult(f"{method} returned {problem}") from problem.__cause__
        if mask is None:
            raise BadResult(f'{method} returned an info without "action_mask": --no-action-masks reads none')
        return mask

    def _frames_of(self, observations: list[Any], masks: list[Array], env_indices: Sequence[int], method: str) -> Array:
        """Return the frames [n, *frame_shape] of the observations and masks of some environments."""
        try:
            frames = self._reader.frames(observations, masks if self._mask_sizes else None)
        except BadObservation as problem:
            raise self._error(env_indices[problem.index], f"{method} returned {problem}") from problem
        if self._is_float and np.count_nonzero(np.isfinite(frames)) < frames.size:
            bad = next(index for index, frame in enumerate(frames) if not np.isfinite(frame).all())
            raise self._error(
                env_indices[bad], f"{method} returned an observation with NaN or infinite numbers; {_REPLACE}"
            )
        return frames

    def _error(self, env_index: int, problem: object) -> EnvError:
        return EnvError(self._env_id, str(problem), env_index)

    def _frames(self, frame: Array, reward: Array, terminated: Array, truncated: Array) -> Frames:
        return Frames(frame, reward, terminated, truncated, self._no_lives)


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
    except Exception as error:
        if isinstance(error, EnvError) and envs:
            error.problem += f"; {len(envs)} exist already: if no more can, use --num-envs {len(envs)}"
        _close_all(envs)
        raise
    return envs


def _close_all(envs: list[Any]) -> None:
    while envs:
        envs.pop().close()
