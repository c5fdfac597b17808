"""Hyperparameters of Rainbow, see `algorithms/rainbow.py`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from q2pi.algorithms.common import search_space as space
from q2pi.algorithms.common.switches import (
    check_switches,
    combinations,
    options_without_effect,
    without_foreign_options,
)
from q2pi.algorithms.configs import dqn
from q2pi.buffers.prioritized import tree_bytes
from q2pi.buffers.replay import rows_per_stream
from q2pi.config import RunConfig
from q2pi.equations.schedules import linear
from q2pi.networks.options import Kind

if TYPE_CHECKING:
    from q2pi.algorithms.base import AgentSpec


@dataclass(frozen=True, kw_only=True)
class Config(dqn.Config):
    """Hyperparameters, in addition to those of DQN; the defaults are those of Hessel et al. 2018 for Atari."""

    double: bool = True
    """Double DQN: the online network selects the next action, the target network evaluates it."""
    dueling: bool = True
    """Separate streams for the state's value and the actions' advantages."""
    n_step: int = 3
    """Number of rewards summed before the target bootstraps, in agent steps; 1 switches n-step returns off."""
    prioritized: bool = True
    """Prioritized replay: transitions are drawn in proportion to the size of their last TD error."""
    alpha: float = 0.5
    """Exponent of priorities; 0 is uniform. Without effect unless `prioritized`."""
    beta_start: float = 0.4
    """Exponent of importance weights at the first step. Without effect unless `prioritized`."""
    beta_end: float = 1.0
    """Exponent of importance weights at the end of the budget, reached linearly; 1 corrects the bias fully."""
    noisy: bool = True
    """Noise on the weights of the fully connected layers in place of epsilon-greedy exploration."""
    noisy_sigma: float = 0.5
    """Initial noise, divided by the root of a layer's inputs. Without effect unless `noisy`."""
    noisy_epsilon: bool = False
    """Epsilon-greedy exploration in addition to noise. Without effect unless `noisy`."""
    distribution: Kind = "categorical"
    """What is learned of the return: its expectation (none), a categorical distribution (C51), its quantiles (QR-DQN),
    or an implicit quantile function (IQN)."""
    atoms: int = 51
    """categorical: number of atoms."""
    v_min: float = -10.0
    """categorical: least discounted return that the atoms cover. Without effect on other distributions."""
    v_max: float = 10.0
    """categorical: greatest discounted return that the atoms cover. Without effect on other distributions."""
    quantiles: int = 200
    """quantile: number of quantiles."""
    kappa: float = 1.0
    """quantile, implicit: threshold of the Huber loss; 0 is the plain quantile loss."""
    tau_samples: int = 64
    """implicit: number of fractions drawn per transition for the online network."""
    target_tau_samples: int = 64
    """implicit: number of fractions drawn per transition for the target network."""
    acting_taus: int = 32
    """implicit: number of fractions whose mean is Q, for choosing actions."""
    cosines: int = 64
    """implicit: size of the embedding of a fraction."""
    munchausen: bool = False
    """Munchausen: the scaled log-policy is added to the reward, and the target is that of a soft policy."""
    munchausen_alpha: float = 0.9
    """Share of the log-policy in the reward. Without effect unless `munchausen`."""
    munchausen_temperature: float = 0.03
    """Temperature of the soft policy. Without effect unless `munchausen`."""
    munchausen_floor: float = -1.0
    """Least value of the scaled log-policy in the reward. Without effect unless `munchausen`."""
    width: int = 1
    """Factor of the channels of the convolutions and of the layer behind them, for images."""
    pool: int = 0
    """Side of the adaptive max-pooling behind the convolutions, in pixels, for images; 0 disables it."""
    spectral_norm: bool = False
    """Spectral normalisation of convolutions (of IMPALA's residual blocks), or of the MLP's hidden layers before the
    last."""
    learning_rate: float = 6.25e-5
    """Learning rate of Adam."""
    adam_eps: float = 1.5e-4
    """Adam's epsilon."""
    target_network_frequency: int = 8_000
    """Agent steps between two updates of the target network."""
    learning_starts: int = 20_000
    """Agent steps before the first update."""
    eval_epsilon: float = 0.001
    """Exploration rate during evaluation."""

    AT_LEAST: ClassVar[Mapping[str, float]] = {
        **dict.fromkeys(("alpha", "noisy_sigma", "kappa", "pool"), 0),
        **dict.fromkeys(("quantiles", "tau_samples", "target_tau_samples", "acting_taus", "cosines", "width"), 1),
        "atoms": 2,
        "munchausen_temperature": 1e-6,
    }
    WITHIN: ClassVar[Mapping[str, tuple[float, float]]] = {
        **dict.fromkeys(("beta_start", "beta_end", "munchausen_alpha"), (0, 1)),
        "munchausen_floor": (-1e6, 0),
    }
    SPACE: ClassVar[space.Space] = {
        **dqn.Config.SPACE,
        "dueling": space.Choice(False, True),
        "prioritized": space.Choice(False, True),
        "alpha": space.Float(0.2, 0.8),
        "noisy": space.Choice(False, True),
        "noisy_sigma": space.Float(0.05, 1.0, log=True),
        "distribution": space.Choice("none", "categorical", "quantile", "implicit"),
        "munchausen": space.Choice(False, True),
        "target_network_frequency": space.Int(50, 10_000, log=True),
    }
    """As DQN's, with the switches; narrow `v_min` and `v_max` to the returns of the environment."""

    def check(self, run: RunConfig[Any]) -> None:
        super().check(run)
        check_switches(self)

    def repaired(self, run: RunConfig[Any]) -> RunConfig[Any]:
        """Return DQN's repaired run, without options of another distribution."""
        run = super().repaired(run)
        return replace(run, hyper=without_foreign_options(run.hyper))

    def storage_bytes(self, spec: "AgentSpec", steps: int) -> int:
        """Return the bytes of the replay, and of its sum tree if it is prioritized."""
        frames = super().storage_bytes(spec, steps)
        capacity = min(self.buffer_size, steps)
        slots = spec.num_envs * rows_per_stream(capacity, spec.num_envs, spec.stack, self.n_step)
        return frames + (tree_bytes(slots) if self.prioritized else 0)

    def timing_config(self, run: RunConfig[Any]) -> RunConfig[Any]:
        """Return DQN's timing run; without noise, `check` wants some exploration."""
        run = super().timing_config(run)
        return run if self.noisy else replace(run, hyper=replace(run.hyper, end_e=0.01))

    def schedules(self, step: int, total_timesteps: int) -> dict[str, float]:
        found = super().schedules(step, total_timesteps)
        if self.noisy and not self.noisy_epsilon:
            found.pop("epsilon", None)
        if self.prioritized and self.beta_start != self.beta_end:
            found["beta"] = linear(self.beta_start, self.beta_end, 1.0, total_timesteps, step)
        return found

    @classmethod
    def options_without_effect(cls, hyper: Mapping[str, Any]) -> frozenset[str]:
        return options_without_effect(hyper)

    def ablations(self) -> "dict[str, Config]":
        return combinations(self)

    @property
    def method(self) -> str:
        names = [name.removeprefix("only ") for name in self.ablations() if name.startswith("only ")]
        return f"Rainbow ({', '.join(names)})" if names else "DQN"
