"""Rainbow: every improvement of DQN as a switch.

Papers: Hessel et al. 2018, "Rainbow: Combining Improvements in Deep Reinforcement Learning", whose six switches are on
by default: double, dueling, n_step, prioritized, noisy and distribution = "categorical". What came after: quantile and
implicit distributions (Dabney et al. 2018, twice), Munchausen's reward (Vieillard, Pietquin and Geist 2020), IMPALA's
network, adaptive max-pooling and spectral normalisation (together in Clark et al. 2024, "Beyond The Rainbow").

In one paragraph: as in DQN, act, store, sample and move towards a bootstrapped target. Every switch replaces one part:
`build_network` (dueling, noisy, distribution, network, spectral_norm), `build_sampler` (prioritized), `target` (double,
n_step, distribution, munchausen), and acting (noisy). With every switch off this is DQN, bit for bit.

Differences from the papers: those of `dqn`; priorities are |TD errors| without a distribution and the loss with one;
noise is redrawn for each update and each acting step, once for the network that is trained (Double DQN's selector
shares it) and once for the target network; no gradient scaling in dueling networks; with n-step returns, Munchausen's
reward is added to the first reward only. Each part's file lists its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from q2pi.algorithms import dqn
from q2pi.algorithms.base import AgentSpec
from q2pi.algorithms.common import search_space as space
from q2pi.algorithms.common.switches import check_switches, combinations, without_foreign_options
from q2pi.buffers.prioritized import PrioritizedSampler, tree_bytes
from q2pi.buffers.replay import rows_per_stream
from q2pi.buffers.samplers import Batch, Sampler
from q2pi.config import RunConfig
from q2pi.equations import distributional, losses
from q2pi.networks.noisy import clear_noise, draw_noise
from q2pi.networks.rainbow import Architecture, RainbowNetwork
from q2pi.networks.spectral import power_iteration
from q2pi.networks.value_distributions import Categorical, Distribution, Expectation, Implicit, Kind, Quantile
from q2pi.types import Array


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

    def storage_bytes(self, spec: AgentSpec, steps: int) -> int:
        """Return the bytes of the replay, and of its sum tree if it is prioritized."""
        frames = super().storage_bytes(spec, steps)
        capacity = min(self.buffer_size, steps)
        slots = spec.num_envs * rows_per_stream(capacity, spec.num_envs, spec.stack, self.n_step)
        return frames + (tree_bytes(slots) if self.prioritized else 0)

    def timing_config(self, run: RunConfig[Any]) -> RunConfig[Any]:
        """Return DQN's timing run; without noise, `check` wants some exploration."""
        run = super().timing_config(run)
        return run if self.noisy else replace(run, hyper=replace(run.hyper, end_e=0.01))

    def ablations(self) -> "dict[str, Config]":
        return combinations(self)

    @property
    def method(self) -> str:
        names = [name.removeprefix("only ") for name in self.ablations() if name.startswith("only ")]
        return f"Rainbow ({', '.join(names)})" if names else "DQN"


class Agent(dqn.Agent):
    """DQN's agent with its parts replaced by the switches."""

    config: Config

    def __init__(self, config: Config, spec: AgentSpec) -> None:
        super().__init__(config, spec)
        self.distribution: Distribution = _distribution(config).to(spec.device)
        self.fractions: tuple[Tensor, ...] = ()
        """implicit: of the online network [B, N], and of the target network [B, N' + K], the last K for selection."""
        if isinstance(self.distribution, Implicit):
            drawn = (config.tau_samples, config.target_tau_samples + config.acting_taus)
            self.fractions = tuple(torch.zeros(config.batch_size, count, device=spec.device) for count in drawn)
            self.fractions[1][:, config.target_tau_samples :] = self.distribution.midpoints

    def build_network(self) -> Any:
        config = self.config
        switches = (config.dueling, config.noisy, config.spectral_norm, config.pool, config.width != 1)
        if config.distribution == "none" and not any(switches):
            return super().build_network()
        architecture = Architecture(
            hidden=config.hidden,
            network=config.network,
            width=config.width,
            pool=config.pool,
            layer_norm=config.layer_norm,
            spectral_norm=config.spectral_norm,
            dueling=config.dueling,
            sigma=config.noisy_sigma if config.noisy else None,
            noise_rows=self.spec.num_envs,
            cosines=config.cosines,
            initial_weights=config.initial_weights,
        )
        return RainbowNetwork(self.spec.observation_shape, self.actions, architecture, _distribution(config))

    # ---- acting ------------------------------------------------------------------------------------------------------

    def epsilon(self, step: int) -> float:
        return super().epsilon(step) if not self.config.noisy or self.config.noisy_epsilon else 0.0

    def act(self, observation: Array, step: int) -> Array:
        if not self.config.noisy:
            return super().act(observation, step)
        draw_noise(self.online, self.spec.rng("noise/act", step), is_shared=False)
        q = super().q_values(observation)
        return self.epsilon_greedy(observation, self.epsilon(step), self.spec.rng("explore", step), q)

    def q_values(self, observation: Array) -> Array:
        """Return Q [N, A] of observations [N, ...] with mean weights."""
        clear_noise(self.online)
        return super().q_values(observation)

    # ---- replay ------------------------------------------------------------------------------------------------------

    def build_sampler(self) -> Sampler:
        if not self.config.prioritized:
            return super().build_sampler()
        return PrioritizedSampler(self.replay, self.config.alpha, self.config.beta_start)

    def sample(self, count: int) -> list[Batch]:
        if isinstance(self.sampler, PrioritizedSampler):
            self.sampler.beta = self.spec.linear(self.config.beta_start, self.config.beta_end, 1.0, self.update_step)
        return super().sample(count)

    # ---- learning ----------------------------------------------------------------------------------------------------

    def prepare_update(self) -> None:
        """Set what the next update reads beside its batch: learning rate, noise, fractions, singular vectors."""
        super().prepare_update()
        config, rng, update = self.config, self.spec.rng, self.updates
        if config.noisy:
            draw_noise(self.online, rng("noise/online", update), is_shared=True)
            draw_noise(self.target.called, rng("noise/target", update), is_shared=True)
        if self.fractions:
            online, target = self.fractions
            drawn = rng("fractions", update).random((len(online), config.tau_samples + config.target_tau_samples))
            parts = torch.from_numpy(drawn).to(online).split((config.tau_samples, config.target_tau_samples), dim=1)
            online.copy_(parts[0])
            target[:, : config.target_tau_samples] = parts[1]
        if config.spectral_norm:
            power_iteration(self.online)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return (loss [], errors for priorities [B], scalars []) of one batch."""
        target, probabilities = self.targets(batch)  # [B, M]
        output = self.online(batch.observation, *self.fractions[:1])  # [B, A], or [B, A, Z]
        at = self.fractions[0] if self.fractions else None
        error, priority = self.distribution.loss(output, batch.action, target, probabilities, at)
        loss = losses.weighted_mean(error, batch.weight)
        q = self.distribution.q(output.detach())
        return loss, priority.detach(), {"loss": loss.detach(), "q": q.amax(dim=1).mean()}

    @torch.no_grad()
    def targets(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return the target distributions: values [B, M] and their probabilities, None if equally likely."""
        config, reward = self.config, batch.reward
        output = self.target(batch.next_observation, *self.fractions[1:])
        if self.fractions:
            output, at_midpoints = output.split((config.target_tau_samples, config.acting_taus), dim=2)
            q_next = self.distribution.q(at_midpoints)  # [B, A]
        else:
            q_next = self.distribution.q(output)
        if config.double:
            q_next = self.online.q_values(batch.next_observation)
        if config.munchausen:
            q = self.target.called.q_values(batch.observation)
            reward = reward + distributional.munchausen_reward(
                q, batch.action, config.munchausen_alpha, config.munchausen_temperature, config.munchausen_floor
            )
        temperature = config.munchausen_temperature if config.munchausen else 0.0
        values, probabilities = self.distribution.values(output)
        return distributional.bootstrap_target(reward, batch.discount, values, q_next, probabilities, temperature)


def _distribution(config: Config) -> Distribution:
    """Return the kind of distribution that an output means."""
    if config.distribution == "categorical":
        return Categorical(config.atoms, config.v_min, config.v_max)
    if config.distribution == "quantile":
        return Quantile(config.quantiles, config.kappa)
    if config.distribution == "implicit":
        return Implicit(config.acting_taus, config.kappa)
    return Expectation(config.loss)
