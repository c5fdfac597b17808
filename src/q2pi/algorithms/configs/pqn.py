"""Hyperparameters of PQN, see `algorithms/pqn.py`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from q2pi.algorithms.common import search_space as space
from q2pi.algorithms.configs.base import observation_bytes
from q2pi.algorithms.configs.epsilon_greedy import QNetworkConfig
from q2pi.algorithms.configs.minibatches import MinibatchConfig

if TYPE_CHECKING:
    from q2pi.algorithms.base import AgentSpec


@dataclass(frozen=True, kw_only=True)
class Config(MinibatchConfig, QNetworkConfig):
    """Hyperparameters; the defaults are the paper's for Atari, but 8 minibatches (the paper has 128 environments)
    and an evaluation that is not greedy."""

    learning_rate: float = 2.5e-4
    """Learning rate of RAdam."""
    anneal_learning_rate: bool = False
    """Linear decay of the learning rate to 0 over the budget."""
    gamma: float = 0.99
    """Discount factor per agent step."""
    q_lambda: float = 0.65
    """Decay of the Q(lambda) targets: 0 is the one-step target, 1 the return up to the end of the rollout."""
    watkins: bool = False
    """Watkins's Q(lambda): the return is cut before an action that is not greedy. Off is Peng's, as in the paper."""
    num_steps: int = 32
    """Steps of each environment per rollout."""
    num_minibatches: int = 8
    """Number of minibatches per rollout, one update each."""
    update_epochs: int = 2
    """Number of passes over each rollout (epochs)."""
    max_grad_norm: float = 10.0
    """Bound on the gradient's norm; 0 disables it."""
    end_e: float = 0.001
    """Exploration rate at the end of the schedule and from then on."""
    eval_epsilon: float = 0.001
    """Exploration rate during evaluation."""
    hidden: tuple[int, ...] = (128, 128)
    """Units of the hidden layers for observations that are not one image."""

    AT_LEAST: ClassVar[Mapping[str, float]] = {"learning_rate": 0, "max_grad_norm": 0}
    WITHIN: ClassVar[Mapping[str, tuple[float, float]]] = {"gamma": (0, 1), "q_lambda": (0, 1)}
    SPACE: ClassVar[space.Space] = {
        "num_envs": space.PowerOfTwo(4, 64),
        "learning_rate": space.Float(1e-4, 5e-3, log=True),
        "anneal_learning_rate": space.Choice(False, True),
        "num_steps": space.PowerOfTwo(8, 128),
        "num_minibatches": space.PowerOfTwo(1, 32),
        "update_epochs": space.Int(1, 8, log=True),
        "gamma": space.OneMinus(0.95, 0.999),
        "q_lambda": space.Float(0.0, 1.0),
        "exploration_fraction": space.Float(0.05, 0.6),
        "end_e": space.Float(0.001, 0.2, log=True),
        "hidden": space.Choice((64, 64), (128, 128), (256, 256)),
    }

    def schedules(self, step: int, total_timesteps: int) -> dict[str, float]:
        found = super().schedules(step, total_timesteps)
        if self.anneal_learning_rate:
            found["learning_rate"] = self.decayed(self.learning_rate, step, total_timesteps)
        return found

    def storage_bytes(self, spec: "AgentSpec", steps: int) -> int:
        """Return the bytes of a rollout and of its copy that the network reads."""
        rows, row = self.num_steps * spec.num_envs, observation_bytes(spec) + 8
        return rows * (row + 5 * 4 + row + 4)
