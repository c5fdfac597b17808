"""Hyperparameters of REINFORCE, see `algorithms/reinforce.py`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from q2pi.algorithms.common import search_space as space
from q2pi.algorithms.configs.base import observation_bytes
from q2pi.algorithms.configs.policy_based import PolicyConfig
from q2pi.config import RunConfig
from q2pi.errors import UserError

if TYPE_CHECKING:
    from q2pi.algorithms.base import AgentSpec

EXPECTED_LENGTH = 200
"""Assumed steps per episode, for estimates before the run."""


@dataclass(frozen=True, kw_only=True)
class Config(PolicyConfig):
    """Hyperparameters, in addition to those of a policy."""

    learning_rate: float = 1e-3
    """Learning rate of Adam for the policy."""
    episodes_per_update: int = 8
    """Number of whole episodes per update, a multiple of the number of environments."""
    return_kind: Literal["whole", "to_go"] = "to_go"
    """Return that weighs each log-probability: of the whole episode, or from the action on."""
    discount_states: bool = False
    """Factor gamma^t in the weight of step t, as in the theorem for returns to go."""
    gamma: float = 0.99
    """Discount factor per agent step."""
    baseline: Literal["none", "batch_mean", "value"] = "value"
    """Baseline subtracted from returns: none, the mean over the other episodes, or a learned value."""
    value_learning_rate: float = 1e-3
    """Learning rate of Adam for the value network."""
    value_updates: int = 20
    """Gradient steps of the value network per update, each with the whole batch."""
    normalize_returns: bool = False
    """Normalisation of the weights of a batch to mean 0 and standard deviation 1."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus, the mean entropy per step."""
    max_grad_norm: float = 0.0
    """Bound on the gradient's norm; 0 disables it."""
    evaluation_deterministic: bool = False
    """Evaluation with the policy's mode; if off, actions are sampled."""

    AT_LEAST: ClassVar[Mapping[str, float]] = {
        **dict.fromkeys(("episodes_per_update", "value_updates"), 1),
        **dict.fromkeys(("learning_rate", "value_learning_rate", "entropy_coefficient", "max_grad_norm"), 0),
    }
    WITHIN: ClassVar[Mapping[str, tuple[float, float]]] = {"gamma": (0, 1)}
    SPACE: ClassVar[space.Space] = {
        "learning_rate": space.Float(3e-4, 3e-2, log=True),
        "episodes_per_update": space.PowerOfTwo(1, 16),
        "gamma": space.OneMinus(0.95, 0.999),
        "baseline": space.Choice("none", "batch_mean", "value"),
        "value_learning_rate": space.Float(3e-4, 1e-2, log=True),
        "value_updates": space.Int(5, 80, log=True),
        "normalize_returns": space.Choice(False, True),
        "entropy_coefficient": space.Float(0.0, 0.02),
        "max_grad_norm": space.Choice(0.0, 0.5, 5.0),
        "hidden": space.Choice((32, 32), (64, 64), (128, 128)),
    }

    def check(self, run: RunConfig[Any]) -> None:
        super().check(run)
        if self.episodes_per_update % run.num_envs:
            raise UserError(
                f"--episodes-per-update {self.episodes_per_update} is not a multiple of --num-envs {run.num_envs}: "
                "each environment contributes the same number of whole episodes"
            )
        if self.baseline == "batch_mean" and self.episodes_per_update < 2:
            raise UserError(
                "--baseline batch_mean is the mean over other episodes: --episodes-per-update must be at least 2"
            )

    def repaired(self, run: RunConfig[Any]) -> RunConfig[Any]:
        """Return the run with a possible number of episodes; without a learned value its options are the defaults."""
        hyper = replace(self, episodes_per_update=max(1, self.episodes_per_update // run.num_envs) * run.num_envs)
        if self.baseline == "batch_mean":
            hyper = replace(hyper, episodes_per_update=max(hyper.episodes_per_update, 2))
        if self.baseline != "value":
            default = Config()
            values = {"value_learning_rate": default.value_learning_rate, "value_updates": default.value_updates}
            hyper = replace(hyper, **values)  # type: ignore[arg-type]
        return replace(run, hyper=hyper)

    def updates_due(self, step: int, num_envs: int) -> int:
        """Return about how many updates are due, for episodes of EXPECTED_LENGTH."""
        return step // (self.episodes_per_update * EXPECTED_LENGTH)

    def storage_bytes(self, spec: "AgentSpec", steps: int) -> int:
        """Return about the bytes of a batch of episodes of EXPECTED_LENGTH, and of its copy for the network."""
        return 2 * self.episodes_per_update * EXPECTED_LENGTH * observation_bytes(spec)

    def timing_config(self, run: RunConfig[Any]) -> RunConfig[Any]:
        """Return a run with an update after one episode of each environment."""
        least = 2 if self.baseline == "batch_mean" else 1
        episodes = run.num_envs * math.ceil(least / run.num_envs)
        return replace(run, hyper=replace(self, episodes_per_update=episodes))
