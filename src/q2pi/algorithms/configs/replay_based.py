"""Options of replay, and when updates are due."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from q2pi.algorithms.configs.epsilon_greedy import QNetworkConfig
from q2pi.buffers.frames import Codec, resolve_codec
from q2pi.buffers.replay import bytes_needed
from q2pi.config import RunConfig
from q2pi.errors import UserError

if TYPE_CHECKING:
    from q2pi.algorithms.base import AgentSpec

Own = TypeVar("Own", bound="ReplayConfig")


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(QNetworkConfig):
    """Options of replay, in addition to exploration and network; the defaults are CleanRL's for Atari."""

    gamma: float = 0.99
    """Discount factor per agent step."""
    n_step: int = 1
    """Number of rewards summed before the target bootstraps, in agent steps."""
    buffer_size: int = 1_000_000
    """Number of transitions kept for replay."""
    replay_codec: Codec = "auto"
    """Storage of images: raw, or zstd (lossless compression: less memory, more time). auto uses raw if it takes at most
    a third of the machine's memory."""
    learning_starts: int = 80_000
    """Agent steps before the first update."""
    train_frequency: int = 4
    """Agent steps per update."""
    batch_size: int = 32
    """Number of transitions per update."""

    AT_LEAST: ClassVar[Mapping[str, float]] = {
        **dict.fromkeys(("n_step", "buffer_size", "train_frequency", "batch_size"), 1),
        "learning_starts": 0,
    }
    WITHIN: ClassVar[Mapping[str, tuple[float, float]]] = {"gamma": (0, 1)}
    STORAGE_OPTIONS: ClassVar[tuple[str, ...]] = ("buffer_size",)
    HAS_ACTORS: ClassVar[bool] = True

    def check(self, run: RunConfig[Any]) -> None:
        super().check(run)
        if self.batch_size > self.buffer_size:
            raise UserError(f"--batch-size {self.batch_size} is larger than --buffer-size {self.buffer_size}")
        if self.learning_starts >= run.total_timesteps:
            raise UserError(
                f"--learning-starts {self.learning_starts} is beyond the budget: "
                f"it must be below --total-timesteps {run.total_timesteps}"
            )
        if self.learning_starts < (least := self._first_sample(run.total_envs)):
            raise UserError(
                f"--learning-starts {self.learning_starts} is before the first {self.n_step}-step transition of "
                f"{run.total_envs} environments: it must be at least {least} (--n-step, --num-envs)"
            )

    def repaired(self, run: RunConfig[Any]) -> RunConfig[Any]:
        """Return the run with a batch no larger than the buffer and learning that starts within the budget."""
        starts = max(min(self.learning_starts, run.total_timesteps - 1), self._first_sample(run.total_envs))
        size = min(self.batch_size, self.buffer_size)
        return replace(run, hyper=replace(self, batch_size=size, learning_starts=starts))

    def resolved(self, run: RunConfig[Any]) -> "ReplayConfig":
        height, width = run.env.resize or (0, 0)
        raw_bytes = self.buffer_size * height * width * (1 if run.env.grayscale else 3)
        return replace(self, replay_codec=resolve_codec(self.replay_codec, raw_bytes))

    def updates_due(self, step: int, num_envs: int = 1) -> int:
        return max(0, (step - self.learning_starts) // self.train_frequency)

    def gradient_batch(self, num_envs: int) -> int:
        return self.batch_size

    def storage_bytes(self, spec: "AgentSpec", steps: int) -> int:
        """Return the bytes of the replay; an estimate if it is compressed."""
        return bytes_needed(
            min(self.buffer_size, steps),
            spec.num_envs,
            spec.frame_shape,
            spec.frame_dtype,
            stack=spec.stack,
            n_step=self.n_step,
            codec=self.replay_codec,
        )

    def timing_config(self, run: RunConfig[Any]) -> RunConfig[Any]:
        """Return a run that learns from its first half on, with a small buffer and greedy actions."""
        start = min(self.learning_starts, run.total_timesteps // 2)
        size = min(self.buffer_size, 2 * run.total_timesteps)
        hyper = replace(
            self,
            learning_starts=start,
            n_step=min(self.n_step, max(1, start // run.total_envs)),
            buffer_size=max(size, self.batch_size),
            start_e=0.0,
            end_e=0.0,
        )
        return replace(run, hyper=hyper)

    def for_actor(self: Own, index: int, run: RunConfig[Any]) -> Own:
        """Return the options with the actor's exploration rates and a replay for the steps of one message.

        Episodes of one step take two rows per step.
        """
        size = 2 * run.num_envs * (run.actor_steps + self.n_step)
        return replace(super().for_actor(index, run), buffer_size=size, replay_codec="raw")

    @property
    def storage_note(self) -> str:
        return f"frames kept {'raw' if self.replay_codec == 'raw' else 'compressed'}"

    def _first_sample(self, num_envs: int) -> int:
        """Return the agent steps before which no n-step transition is complete at the first update."""
        return (self.n_step - 1) * num_envs - self.train_frequency + 1
