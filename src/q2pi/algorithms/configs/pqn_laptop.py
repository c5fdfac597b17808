"""Hyperparameters of PQN for a laptop, see `algorithms/pqn_laptop.py`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from q2pi.algorithms.configs import pqn
from q2pi.algorithms.configs.base import observation_bytes
from q2pi.config import RunConfig
from q2pi.envs.names import is_atari
from q2pi.errors import UserError

if TYPE_CHECKING:
    from q2pi.algorithms.base import AgentSpec


@dataclass(frozen=True, kw_only=True)
class Config(pqn.Config):
    """Hyperparameters, in addition to those of PQN."""

    recent_rollouts: int = 8
    """Number of recent rollouts to draw minibatches from; 1 is on-policy. Targets are not recomputed."""
    ema_decay: float = 0.995
    """Decay of the weight average (EMA) used for acting and bootstrapping; 0 disables it."""
    apex_alpha: float = 0.0
    """Exponent alpha of Ape-X: environment i of N explores with epsilon^(1 + alpha * i / (N - 1)). 0 gives all the same
    rate."""
    mirror: bool = False
    """Learn from half of the steps in a mirror, with left and right exchanged in their actions, and act by the mean of
    Q of image and mirror image; for an Atari game that behaves the same in a mirror."""
    concurrent_updates: bool = False
    """Make the updates of a rollout in a second thread while the next rollout is collected. On a GPU it has no
    effect."""

    AT_LEAST: ClassVar[Mapping[str, float]] = {"recent_rollouts": 1, "apex_alpha": 0}
    WITHIN: ClassVar[Mapping[str, tuple[float, float]]] = {"ema_decay": (0, 1)}
    STORAGE_OPTIONS: ClassVar[tuple[str, ...]] = ("num_envs", "recent_rollouts")

    def check(self, run: RunConfig[Any]) -> None:
        super().check(run)
        if self.ema_decay == 1:
            raise UserError(f"--ema-decay {self.ema_decay} is out of range: it must be below 1")
        if self.mirror and run.env.obs_type != "image":
            other = f"--obs-type {run.env.obs_type}" if is_atari(run.env.env_id) else run.env.env_id
            raise UserError(f"--mirror applies to images of Atari games, not to {other}")

    def storage_bytes(self, spec: "AgentSpec", steps: int) -> int:
        """Return the bytes of a rollout and of the recent rollouts."""
        rows, row = self.num_steps * spec.num_envs, observation_bytes(spec) + 8
        return rows * (row + 5 * 4 + self.recent_rollouts * (row + 4))

    def timing_config(self, run: RunConfig[Any]) -> RunConfig[Any]:
        """Return a run with short rollouts and minibatches of the same size, drawn from one rollout."""
        short = super().timing_config(run)
        return replace(short, hyper=replace(short.hyper, recent_rollouts=1))
