"""Hyperparameters of DQN and Double DQN, see `algorithms/dqn.py`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from q2pi.algorithms.common import search_space as space
from q2pi.algorithms.configs.replay_based import ReplayConfig
from q2pi.networks.options import InitialWeights


@dataclass(frozen=True, kw_only=True)
class Config(ReplayConfig):
    """Hyperparameters, in addition to those of `ReplayConfig`; the defaults are CleanRL's for Atari."""

    double: bool = False
    """Double DQN: the online network selects the next action, the target network evaluates it."""
    learning_rate: float = 1e-4
    """Learning rate of Adam."""
    anneal_learning_rate: bool = False
    """Linear decay of the learning rate to 0 over the budget."""
    adam_eps: float = 1e-8
    """Adam's epsilon; 1.5e-4 keeps early updates small."""
    target_network_frequency: int = 1_000
    """Agent steps between two updates of the target network."""
    tau: float = 1.0
    """Share of the online network in an update of the target network; 1 copies it."""
    loss: Literal["mse", "huber"] = "mse"
    """Loss of the TD errors: mean squared, or Huber with threshold 1."""
    max_grad_norm: float = 0.0
    """Bound on the gradient's norm; 0 disables it."""
    layer_norm: bool = False
    """Layer normalisation before each ReLU, as in PQN (Gallici et al. 2025)."""
    initial_weights: InitialWeights = "torch"
    """Distribution of initial weights: torch's default (CleanRL), xavier_uniform (Dopamine's DQN), or variance_scaling
    (Dopamine's Rainbow)."""

    AT_LEAST: ClassVar[Mapping[str, float]] = {
        **dict.fromkeys(("learning_rate", "adam_eps", "max_grad_norm"), 0),
        "target_network_frequency": 1,
    }
    WITHIN: ClassVar[Mapping[str, tuple[float, float]]] = {"tau": (0, 1)}
    SPACE: ClassVar[space.Space] = {
        "learning_rate": space.Float(5e-5, 5e-3, log=True),
        "anneal_learning_rate": space.Choice(False, True),
        "batch_size": space.PowerOfTwo(16, 256),
        "buffer_size": space.PowerOfTwo(4_096, 131_072),
        "learning_starts": space.Int(250, 10_000, log=True),
        "train_frequency": space.PowerOfTwo(1, 16),
        "target_network_frequency": space.Int(50, 5_000, log=True),
        "gamma": space.OneMinus(0.95, 0.999),
        "n_step": space.Int(1, 5),
        "exploration_fraction": space.Float(0.05, 0.6),
        "end_e": space.Float(0.01, 0.1, log=True),
        "loss": space.Choice("mse", "huber"),
        "max_grad_norm": space.Choice(0.0, 1.0, 10.0),
        "hidden": space.Choice((64, 64), (120, 84), (128, 128), (256, 256)),
        "layer_norm": space.Choice(False, True),
    }
    """For vectors; for images, narrow `buffer_size` to what memory holds and fix `hidden`, which has no effect."""

    def schedules(self, step: int, total_timesteps: int) -> dict[str, float]:
        found = super().schedules(step, total_timesteps)
        if self.anneal_learning_rate:
            found["learning_rate"] = self.decayed(self.learning_rate, step, total_timesteps)
        return found

    @property
    def method(self) -> str:
        return "Double DQN" if self.double else "DQN"
