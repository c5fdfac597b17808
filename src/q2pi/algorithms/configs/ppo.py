"""Hyperparameters of PPO, see `algorithms/ppo.py`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from q2pi.algorithms.common import search_space as space
from q2pi.algorithms.configs import a2c
from q2pi.algorithms.configs.minibatches import MinibatchConfig
from q2pi.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Config(MinibatchConfig, a2c.Config):
    """Hyperparameters, in addition to those of A2C; the defaults are Huang et al.'s for Atari."""

    learning_rate: float = 2.5e-4
    """Learning rate of the optimizer."""
    optimizer: Literal["rmsprop", "adam"] = "adam"
    """RMSProp with decay 0.99, or Adam."""
    num_steps: int = 128
    """Steps of each environment per rollout."""
    num_minibatches: int = 4
    """Number of minibatches per rollout, one update each."""
    update_epochs: int = 4
    """Number of passes over each rollout (epochs)."""
    clip_coefficient: float = 0.1
    """Distance from 1 beyond which the ratio of new to old probability is clipped."""
    anneal_clip_coefficient: bool = False
    """Linear decay of the clip coefficient to 0 over the budget."""
    clip_value_loss: bool = True
    """Clipping of the value's change by the clip coefficient."""
    value_coefficient: float = 0.25
    """Weight of the value's mean squared error; the published 0.5 multiplies half of it."""
    target_kl: float = 0.0
    """Mean KL divergence of an epoch above which a rollout's further epochs are skipped; 0 disables it."""
    gae_lambda: float = 0.95
    """Decay of generalized advantage estimation; 1 is the return up to the end of the rollout."""
    normalize_advantages: bool = True
    """Normalisation of the advantages of a minibatch to mean 0 and standard deviation 1."""

    AT_LEAST: ClassVar[Mapping[str, float]] = {"target_kl": 0}
    WITHIN: ClassVar[Mapping[str, tuple[float, float]]] = {"clip_coefficient": (0, 1)}
    SPACE: ClassVar[space.Space] = {
        "num_envs": space.PowerOfTwo(4, 16),
        "learning_rate": space.Float(5e-5, 5e-3, log=True),
        "anneal_learning_rate": space.Choice(False, True),
        "num_steps": space.PowerOfTwo(32, 2_048),
        "num_minibatches": space.PowerOfTwo(1, 256),
        "update_epochs": space.Int(2, 20, log=True),
        "gamma": space.OneMinus(0.95, 0.9999),
        "gae_lambda": space.Float(0.8, 1.0),
        "clip_coefficient": space.Float(0.1, 0.4),
        "clip_value_loss": space.Choice(False, True),
        "value_coefficient": space.Float(0.1, 1.0),
        "entropy_coefficient": space.Float(0.0, 0.02),
        "max_grad_norm": space.Float(0.3, 5.0, log=True),
        "hidden": space.Choice((32, 32), (64, 64), (128, 128)),
    }

    def schedules(self, step: int, total_timesteps: int) -> dict[str, float]:
        found = super().schedules(step, total_timesteps)
        if self.anneal_clip_coefficient:
            found["clip_coefficient"] = self.decayed(self.clip_coefficient, step, total_timesteps)
        return found

    def timing_config(self, run: RunConfig[Any]) -> RunConfig[Any]:
        """Return a run with short rollouts and minibatches of the same size, all of whose epochs are made."""
        short = super().timing_config(run)
        return replace(short, hyper=replace(short.hyper, target_kl=0.0))
