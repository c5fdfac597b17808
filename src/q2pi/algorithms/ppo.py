"""Proximal policy optimisation: PPO with the clipped objective.

Papers: Schulman et al. 2017, "Proximal Policy Optimization Algorithms"; Huang et al. 2022, "The 37 Implementation
Details of Proximal Policy Optimization", whose numbers are in brackets below.

In one paragraph: play `num_steps` steps of several games with actions drawn from the policy (the sampling phase); then
go over them `update_epochs` times in `num_minibatches` shuffled parts (the training phase), each time raising or
lowering pi(a|s) by its advantage, but only while its ratio to the policy that played stays within
1 +- `clip_coefficient`: beyond that the gradient is zero. So one rollout pays for many updates. Playing, storing and
evaluating are those of `a2c`; what differs is below.

The details, core: several games, rollouts cut without regard to episodes [1]; orthogonal weights, gain sqrt(2), 0.01
for the policy, 1 for the value, biases 0 [2]; Adam's epsilon 1e-5 [3]; learning rate to 0 [4]; generalized advantages,
value target = advantage + value [5]; shuffled minibatches [6]; advantages normalised in each [7]; clipped objective
[8]; clipped value loss [9]; entropy bonus [10]; gradient norm 0.5 over all parameters [11]; mean KL, clipped share and
explained variance are in the metrics [12]; policy and value apart for vectors [13]. Atari: protocol of the environment
[1-7], one Nature torso for both [8], pixels / 255 [9]. Continuous: normal policy [1], state-independent log std from 0
[2], independent dimensions [3], policy and value apart [4], actions clipped for the game and stored unclipped [5],
observations normalised [6] and clipped [7], rewards scaled [8] and clipped [9], all four as options.

Differences: where time runs out the return goes on with the value of the final observation, as in Pardo et al. 2018
(the papers' code treats it as an end); statistics of observations stand still during a rollout and that of rewards is
one number for each, see `a2c`; an option squashes actions by tanh; `target_kl` stops between epochs; no
recurrent network, no MultiDiscrete actions, no state-dependent exploration.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from q2pi.algorithms import a2c
from q2pi.algorithms.base import AgentSpec, precision, refuse_tables
from q2pi.algorithms.common.search_space import Choice, Float, Int, OneMinus, PowerOfTwo, Space
from q2pi.buffers.rollout import Batch
from q2pi.config import RunConfig, at_least, within
from q2pi.equations.losses import clipped_surrogate, value_loss
from q2pi.equations.schedules import linear
from q2pi.errors import UserError
from q2pi.networks.policy import serves
from q2pi.rng import stream

OBSERVATIONS = "images, vectors"
ACTIONS = "Discrete, Box"
memory_needed = a2c.memory_needed


@dataclass(frozen=True, kw_only=True)
class Config(a2c.Config):
    """Hyperparameters: those of `a2c` and PPO's own; the defaults are Huang et al.'s for Atari."""

    learning_rate: float = 2.5e-4
    """Step size of the optimizer."""
    optimizer: Literal["rmsprop", "adam"] = "adam"
    """RMSProp with decay 0.99, or Adam."""
    num_steps: int = 128
    """Steps of each game per rollout."""
    num_minibatches: int = 4
    """Parts of a rollout, one update each."""
    update_epochs: int = 4
    """Times that a rollout is gone over."""
    clip_coefficient: float = 0.1
    """How far the ratio of new to old probability is rewarded for moving from 1."""
    anneal_clip_coefficient: bool = False
    """Let the clip coefficient fall linearly to 0 over the budget."""
    clip_value_loss: bool = True
    """Bound a value's move by the clip coefficient too."""
    target_kl: float = 0.0
    """Stop a rollout's epochs after one whose mean KL divergence is above this; 0 is no such stop."""
    gae_lambda: float = 0.95
    """Decay of generalized advantage estimation; 1 is the return up to the end of the rollout."""
    normalize_advantages: bool = True
    """Shift and scale the advantages of a minibatch to mean 0 and standard deviation 1."""


SPACE: Space = {
    "num_envs": PowerOfTwo(4, 16),
    "learning_rate": Float(5e-5, 5e-3, log=True),
    "anneal_learning_rate": Choice(False, True),
    "num_steps": PowerOfTwo(32, 2_048),
    "num_minibatches": PowerOfTwo(1, 256),
    "update_epochs": Int(2, 20, log=True),
    "gamma": OneMinus(0.95, 0.9999),
    "gae_lambda": Float(0.8, 1.0),
    "clip_coefficient": Float(0.1, 0.4),
    "clip_value_loss": Choice(False, True),
    "value_coefficient": Float(0.1, 1.0),
    "entropy_coefficient": Float(0.0, 0.02),
    "max_grad_norm": Float(0.3, 5.0, log=True),
    "hidden": Choice((32, 32), (64, 64), (128, 128)),
}


def check(run: RunConfig[Config]) -> None:
    """Raise a UserError for the first hyperparameter that is out of its bounds."""
    a2c.check(run)
    config = run.hyper
    at_least(config, 1, "num_minibatches", "update_epochs")
    at_least(config, 0, "target_kl")
    within(config, 0, 1, "clip_coefficient")
    rows = config.num_steps * run.num_envs
    if rows % config.num_minibatches:
        raise UserError(
            f"--num-minibatches {config.num_minibatches} does not divide the {rows} agent steps of a rollout "
            f"(--num-steps {config.num_steps} x --num-envs {run.num_envs})"
        )


def settle(run: RunConfig[Config]) -> RunConfig[Config]:
    """Return the nearest run whose options fit each other: minibatches, no more than asked, that divide the rollout."""
    run = replace(
        run, hyper=replace(run.hyper, num_steps=min(run.hyper.num_steps, run.total_timesteps // run.num_envs))
    )
    rows, parts = run.hyper.num_steps * run.num_envs, run.hyper.num_minibatches
    while parts > 1 and rows % parts:
        parts -= 1
    return replace(run, hyper=replace(run.hyper, num_minibatches=parts))


def check_spaces(spec: AgentSpec) -> None:
    """Raise a UserError where the environment's spaces are not ones that PPO can serve."""
    if not serves(spec.action_space):
        raise UserError(f"--env-id {spec.env.env_id} has actions {spec.action_space}: ppo needs Discrete or Box")
    refuse_tables(spec, "ppo")


def updates_due(run: RunConfig[Config], step: int) -> int:
    """Return how many updates a run has made after `step` agent steps, without `target_kl`."""
    return a2c.updates_due(run, step) * run.hyper.update_epochs * run.hyper.num_minibatches


def timing_config(run: RunConfig[Config]) -> RunConfig[Config]:
    """Return a short run with the same work per step and per update, to be timed: short rollouts, same minibatches."""
    config = run.hyper
    unit = math.gcd(config.num_steps, config.num_minibatches)
    steps, parts = config.num_steps // unit, config.num_minibatches // unit
    units = max(1, min(unit, run.total_timesteps // 4 // (steps * run.num_envs)))
    return replace(run, hyper=replace(config, num_steps=steps * units, num_minibatches=parts * units, target_kl=0.0))


def loss(network: nn.Module, batch: Batch, config: Config, clip: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (loss [], scalars by name) of one minibatch: free of any state.

    `approx_kl` is the mean of (ratio - 1) - log ratio, which is never negative (Schulman 2020, "Approximating KL
    divergence").

    Args:
        network: observations [B, ...] -> (policy, V [B]).
        batch: B steps.
        config: the coefficients.
        clip: the clip coefficient of this moment.
    """
    policy, value = network(batch.observation)
    log_prob = policy.log_prob(batch.action)
    gain = a2c.normalized(batch.advantage) if config.normalize_advantages else batch.advantage
    policy_loss = clipped_surrogate(log_prob, batch.log_prob, gain, clip).mean()
    anchor = (batch.value, clip) if config.clip_value_loss else (None, None)
    error = value_loss(value, batch.target, *anchor).mean()
    entropy = policy.entropy().mean()
    total = policy_loss + config.value_coefficient * error - config.entropy_coefficient * entropy
    with torch.no_grad():
        log_ratio = log_prob - batch.log_prob
        ratio = log_ratio.exp()
    return total, {
        "policy_loss": policy_loss,
        "value_loss": error,
        "entropy": entropy,
        "approx_kl": (ratio - 1 - log_ratio).mean(),
        "clip_fraction": ((ratio - 1).abs() > clip).float().mean(),
    }


def explained_variance(value: Tensor, target: Tensor) -> Tensor:
    """Return the share [] of the variance of targets [B] that values [B] explain; 0 where they do not vary."""
    variance = target.var(correction=0)
    return torch.where(variance > 0, 1 - (target - value).var(correction=0) / variance, 0.0)


class Agent(a2c.Agent):
    """The actor-critic agent with PPO's training phase."""

    config: Config

    def _train(self, batch: Batch, begun: int) -> list[dict[str, Tensor]]:
        config = self.config
        self._set_learning_rate(begun)
        explained = explained_variance(batch.value, batch.target)
        scalars: list[dict[str, Tensor]] = []
        for epoch in range(config.update_epochs):
            parts = [self._update(batch.select(index), begun) for index in self._minibatches(epoch)]
            scalars += [row | {"explained_variance": explained} for row in parts]
            if config.target_kl > 0 and torch.stack([row["approx_kl"] for row in parts]).mean() > config.target_kl:
                break
        return scalars

    def _minibatches(self, epoch: int) -> list[Tensor]:
        """Return the rows of each minibatch: a permutation of the rollout's, drawn anew for each epoch."""
        rows = self.rollout.steps * self.spec.num_envs
        order = stream(self.spec.seed, "minibatches", self.rollouts, epoch).permutation(rows)
        parts = np.split(order, self.config.num_minibatches)
        return [torch.from_numpy(part).to(self.spec.device) for part in parts]

    def _update(self, batch: Batch, begun: int) -> dict[str, Tensor]:
        with precision(self.spec):
            value, scalars = loss(self.network, batch, self.config, self._clip(begun))
        self._gradient_step(value)
        return scalars

    def _clip(self, step: int) -> float:
        clip = self.config.clip_coefficient
        if not self.config.anneal_clip_coefficient:
            return clip
        return linear(clip, 0.0, 1.0, self.spec.total_timesteps, step)
