"""Proximal policy optimisation: PPO with the clipped objective.

Papers: Schulman et al. 2017, "Proximal Policy Optimization Algorithms"; Huang et al. 2022, "The 37 Implementation
Details of Proximal Policy Optimization", whose numbers are in brackets below.

In one paragraph: sample actions from the policy for `num_steps` steps of several environments (the sampling phase);
then make `update_epochs` passes over them in `num_minibatches` shuffled parts (the training phase), each time raising
or lowering pi(a|s) by its advantage, but only while its ratio to the policy that acted stays within 1 +-
`clip_coefficient`: beyond that the gradient is zero. So one rollout serves many updates. Acting, storing and evaluation
are those of `a2c`; the rest is below.

The details, core: several environments, rollouts cut without regard to episodes [1]; orthogonal weights, gain sqrt(2),
0.01 for the policy, 1 for the value, biases 0 [2]; Adam's epsilon 1e-5 [3]; learning rate to 0 [4]; generalized
advantages, value target = advantage + value [5]; shuffled minibatches [6]; advantages normalised in each [7]; clipped
objective [8]; clipped value loss [9]; entropy bonus [10]; gradient norm 0.5 over all parameters [11]; mean KL, clipped
share and explained variance are in the metrics [12]; policy and value apart for vectors [13]. Atari: protocol of the
environment [1-7], one Nature torso for both [8], pixels / 255 [9]. Continuous: normal policy [1], state-independent log
std from 0 [2], independent dimensions [3], policy and value apart [4], actions clipped for the environment, stored
unclipped [5], observations normalised [6] and clipped [7], rewards scaled [8] and clipped [9], all four as options.

Differences: truncation bootstraps from the value of the final observation, as in Pardo et al. 2018 (the papers' code
treats it as termination); statistics of observations are fixed during a rollout and the scale of rewards is one number
per rollout, see `a2c`; an option squashes actions by tanh; `target_kl` stops between epochs; no
recurrent network, no state-dependent exploration.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from q2pi.algorithms import a2c
from q2pi.algorithms.base import AgentSpec
from q2pi.algorithms.configs.ppo import Config
from q2pi.buffers.rollout import Batch
from q2pi.equations import losses
from q2pi.types import Metrics


class Agent(a2c.Agent):
    """The actor-critic agent with PPO's training phase."""

    stores_log_prob = True
    config: Config

    def __init__(self, config: Config, spec: AgentSpec) -> None:
        super().__init__(config, spec)
        self.clip = config.clip_coefficient
        """Clip coefficient of the rollout that is learned from."""

    def learn(self, step: int) -> list[Metrics]:
        if not self.rollout.full:
            return []
        start = step - self.rollout.rows
        self.set_learning_rate(start)
        self.clip = self.clip_coefficient(start)
        batch = self.batch()
        explained = {"explained_variance": explained_variance(batch.value, batch.target)}
        scalars: list[dict[str, Tensor]] = []
        for epoch in range(self.config.update_epochs):
            for rows in self.minibatches(epoch):
                scalars.append(self.update(batch.select(rows)) | explained)
            if self.config.target_kl > 0 and self._epoch_kl(scalars) > self.config.target_kl:
                break
        return self.finish_rollout(scalars)

    def minibatches(self, epoch: int) -> Iterator[Tensor]:
        """Yield the rows of each minibatch: parts of a permutation of the rollout, a new one per epoch."""
        order = self.spec.rng("minibatches", self.rollouts, epoch).permutation(self.rollout.rows)
        for part in np.split(order, self.config.num_minibatches):
            yield torch.from_numpy(part).to(self.spec.device)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (loss [], scalars []) of one minibatch.

        `approx_kl` is the mean of (ratio - 1) - log ratio, which is never negative (Schulman 2020, "Approximating KL
        divergence").
        """
        config, clip = self.config, self.clip
        policy, value = self.network(batch.observation)  # distribution over [B] actions, V [B]
        log_prob = policy.log_prob(batch.action)  # [B]
        advantage = a2c.normalized(batch.advantage) if config.normalize_advantages else batch.advantage  # [B]
        policy_loss = losses.clipped_surrogate(log_prob, batch.log_prob, advantage, clip).mean()
        anchor = (batch.value, clip) if config.clip_value_loss else (None, None)
        value_loss = losses.value_loss(value, batch.target, *anchor).mean()
        with torch.set_grad_enabled(config.entropy_coefficient != 0):
            entropy = policy.entropy().mean()
        loss = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
        with torch.no_grad():
            log_ratio = log_prob - batch.log_prob
            ratio = log_ratio.exp()
        return loss, {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "approx_kl": (ratio - 1 - log_ratio).mean(),
            "clip_fraction": ((ratio - 1).abs() > clip).float().mean(),
        }

    def clip_coefficient(self, step: int) -> float:
        """Return the clip coefficient of a rollout that started at agent step `step`."""
        clip = self.config.clip_coefficient
        return self.spec.linear(clip, 0.0, 1.0, step) if self.config.anneal_clip_coefficient else clip

    def _epoch_kl(self, scalars: list[dict[str, Tensor]]) -> Tensor:
        """Return the mean KL divergence [] over the updates of the newest epoch."""
        return torch.stack([row["approx_kl"] for row in scalars[-self.config.num_minibatches :]]).mean()


def explained_variance(value: Tensor, target: Tensor) -> Tensor:
    """Return the share [] of the variance of targets [B] that values [B] explain; 0 if the targets do not vary."""
    variance = target.var(correction=0)
    return torch.where(variance > 0, 1 - (target - value).var(correction=0) / variance, 0.0)
