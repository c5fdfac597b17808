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

from typing import Any

import numpy as np
import torch
from torch import Tensor

from q2pi.algorithms import dqn
from q2pi.algorithms.base import AgentSpec
from q2pi.algorithms.common.actor_priorities import ActorPriorities
from q2pi.algorithms.configs.rainbow import Config
from q2pi.buffers.prioritized import PrioritizedSampler
from q2pi.buffers.replay import Slots
from q2pi.buffers.samplers import Batch, Sampler, batch_at
from q2pi.equations import distributional, losses
from q2pi.networks.noisy import clear_noise, draw_noise
from q2pi.networks.rainbow import Architecture, RainbowNetwork
from q2pi.networks.spectral import power_iteration
from q2pi.networks.value import masked
from q2pi.networks.value_distributions import Categorical, Distribution, Expectation, Implicit, Quantile
from q2pi.types import Array


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
        return RainbowNetwork(self.spec.layout, self.actions, architecture, _distribution(config))

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

    def q_of(self, inputs: Tensor) -> Tensor:
        clear_noise(self.online)
        return super().q_of(inputs)

    def return_distribution(self, observation: Array) -> tuple[Array, Array]:
        """Return (values, their probabilities) [N, A, M] of the discounted return at observations [N, ...]."""
        clear_noise(self.online)
        with torch.inference_mode(), self.spec.autocast():
            values, probabilities = self.distribution.values(self.online(self.tensor(observation)))
        if probabilities is None:
            probabilities = torch.full_like(values, 1 / values.shape[2])
        return values.float().cpu().numpy(), probabilities.float().cpu().numpy()

    # ---- replay ------------------------------------------------------------------------------------------------------

    def build_sampler(self) -> Sampler:
        if not self.config.prioritized:
            return super().build_sampler()
        return PrioritizedSampler(self.replay, self.config.alpha, self.config.beta_start)

    def sample(self, count: int) -> list[Batch]:
        if isinstance(self.sampler, PrioritizedSampler):
            self.sampler.beta = self.spec.linear(self.config.beta_start, self.config.beta_end, 1.0, self.update_step)
        return super().sample(count)

    def actor_priorities(self) -> ActorPriorities | None:
        return ActorPriorities(self) if self.config.prioritized else None

    def priority_errors(self, slots: Slots) -> Array:
        """Return the errors float32 [B] that prioritize the transitions at slots [B], on an actor.

        The target network becomes a copy of the online one: an actor receives no other weights.
        """
        self.target.update(self.online, 1.0)
        size = self.config.batch_size
        padded = np.resize(slots, -(-len(slots) // size) * size)  # whole batches: there are fractions for no other size
        parts = [self._errors(part) for part in np.split(padded, len(padded) // size)]
        return np.concatenate(parts)[: len(slots)]

    def _errors(self, slots: Slots) -> Array:
        """Return the errors float32 [B] of a batch, with noise and fractions drawn as for an update."""
        self.prepare_update()
        self.updates += 1
        with torch.no_grad(), self.spec.autocast():
            _, errors, _ = self.loss(batch_at(self.replay, slots, self.spec.device))
        found: Array = errors.float().cpu().numpy()
        return found

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
        q_next = masked(q_next, batch.next_observation, self.spec.layout)
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
