"""Hyperparameters of A2C, see `algorithms/a2c.py`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from q2pi.algorithms.common import search_space as space
from q2pi.algorithms.configs.base import observation_bytes
from q2pi.algorithms.configs.policy_based import PolicyConfig
from q2pi.config import RunConfig
from q2pi.errors import UserError
from q2pi.networks.action_spaces import action_bytes

if TYPE_CHECKING:
    from q2pi.algorithms.base import AgentSpec


@dataclass(frozen=True, kw_only=True)
class Config(PolicyConfig):
    """Hyperparameters, in addition to those of a policy; the defaults are Stable-Baselines3's, with the
    paper's decay of the learning rate and its entropy bonus."""

    learning_rate: float = 7e-4
    """Learning rate of the optimizer."""
    anneal_learning_rate: bool = True
    """Linear decay of the learning rate to 0 over the budget."""
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """RMSProp with decay 0.99, or Adam."""
    optimizer_eps: float = 1e-5
    """The optimizer's epsilon."""
    num_steps: int = 5
    """Steps of each environment per rollout."""
    gamma: float = 0.99
    """Discount factor per agent step."""
    gae_lambda: float = 1.0
    """Decay of generalized advantage estimation; 1 is the return up to the end of the rollout."""
    normalize_advantages: bool = False
    """Normalisation of the advantages of a batch to mean 0 and standard deviation 1."""
    value_coefficient: float = 0.5
    """Weight of the value's mean squared error."""
    entropy_coefficient: float = 0.01
    """Weight of the entropy bonus."""
    max_grad_norm: float = 0.5
    """Bound on the gradient's norm; 0 disables it."""
    normalize_rewards: bool = False
    """Division of rewards by a running standard deviation of their discounted sums."""

    AT_LEAST: ClassVar[Mapping[str, float]] = {
        "num_steps": 1,
        **dict.fromkeys(("learning_rate", "optimizer_eps", "value_coefficient", "entropy_coefficient"), 0),
        "max_grad_norm": 0,
    }
    WITHIN: ClassVar[Mapping[str, tuple[float, float]]] = {"gamma": (0, 1), "gae_lambda": (0, 1)}
    REWARD_OPTIONS: ClassVar[tuple[str, ...]] = ("--normalize-rewards",)
    SPACE: ClassVar[space.Space] = {
        "num_envs": space.PowerOfTwo(4, 16),
        "learning_rate": space.Float(1e-4, 1e-2, log=True),
        "anneal_learning_rate": space.Choice(False, True),
        "optimizer": space.Choice("rmsprop", "adam"),
        "num_steps": space.Int(4, 128, log=True),
        "gamma": space.OneMinus(0.95, 0.999),
        "gae_lambda": space.Float(0.8, 1.0),
        "normalize_advantages": space.Choice(False, True),
        "value_coefficient": space.Float(0.1, 1.0),
        "entropy_coefficient": space.Float(0.0, 0.02),
        "max_grad_norm": space.Float(0.3, 5.0, log=True),
        "hidden": space.Choice((32, 32), (64, 64), (128, 128)),
    }

    def check(self, run: RunConfig[Any]) -> None:
        super().check(run)
        if (rows := self.num_steps * run.num_envs) > run.total_timesteps:
            raise UserError(
                f"--num-steps {self.num_steps} of --num-envs {run.num_envs} environments are {rows} agent steps, "
                f"beyond --total-timesteps {run.total_timesteps}"
            )

    def repaired(self, run: RunConfig[Any]) -> RunConfig[Any]:
        """Return the run with a rollout within the budget."""
        steps = min(self.num_steps, run.total_timesteps // run.num_envs)
        return replace(run, hyper=replace(self, num_steps=steps))

    def schedules(self, step: int, total_timesteps: int) -> dict[str, float]:
        found = super().schedules(step, total_timesteps)
        if self.anneal_learning_rate:
            found["learning_rate"] = self.decayed(self.learning_rate, step, total_timesteps)
        return found

    def updates_due(self, step: int, num_envs: int) -> int:
        return step // (self.num_steps * num_envs)

    def gradient_batch(self, num_envs: int) -> int:
        return self.num_steps * num_envs

    def storage_bytes(self, spec: "AgentSpec", steps: int) -> int:
        """Return the bytes of a rollout and of its copy that the network reads."""
        row = observation_bytes(spec) + action_bytes(spec.action_space) + 6 * 4
        return 2 * self.num_steps * spec.num_envs * row

    def timing_config(self, run: RunConfig[Any]) -> RunConfig[Any]:
        """Return a run with at least four rollouts."""
        steps = max(1, min(self.num_steps, run.total_timesteps // 4 // run.num_envs))
        return replace(run, hyper=replace(self, num_steps=steps))
