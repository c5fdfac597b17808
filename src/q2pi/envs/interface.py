"""What `VectorEnv` needs from an engine, and what an engine returns."""

from typing import Any, NamedTuple, Protocol

from q2pi.envs.layout import Part
from q2pi.types import Array


class Frames(NamedTuple):
    """Result of a reset or a step of N environments."""

    frame: Array
    """[N, *frame_shape] newest frame (or observation vector) of each environment; a new array, never written again."""
    reward: Array
    """[N] float64, raw: exactly as the environment paid them."""
    terminated: Array
    """[N] bool: the environment terminated."""
    truncated: Array
    """[N] bool: the time limit was reached."""
    lives: Array
    """[N] int64: remaining lives; 0 if the environment has no lives."""


class Engine(Protocol):
    """N environments stepped together; seeds, stacks and episode records are `VectorEnv`'s work."""

    num_envs: int
    frame_space: Any  # gymnasium.spaces.Box of one frame: an image [C, H, W], a vector [D], or indices int64 [D]
    parts: tuple[Part, ...]  # what one frame consists of
    observation_space: Any  # Gymnasium space of what the environment returns; None if frames are made elsewhere
    action_space: Any  # Gymnasium space of one environment's action
    is_known_reproducible: bool  # episodes follow from seed and actions, without a check

    def reset(self, mask: Array, seeds: Array) -> Frames:
        """Start new episodes where mask [N] is true, with seeds [N]; the other environments are not changed.

        Only the frames where `mask` is true count.

        Raises:
            EnvError: an environment raised an exception or returned what Gymnasium does not allow; also from `recv`.
        """

    def prepare_reset(self, env_index: int, seed: int) -> None:
        """Start preparing the next episode of an environment if its reset is slow; may do nothing."""

    def send(self, actions: Array) -> None:
        """Start one step of every environment; an engine with threads returns at once."""

    def recv(self) -> Frames:
        """Wait for the step that `send` started."""

    def close(self) -> None: ...
