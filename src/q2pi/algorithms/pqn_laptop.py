"""PQN for a laptop: few environments, replayed rollouts and averaged weights.

Built on `pqn`, whose many parallel environments a laptop does not have. Three things differ:

- Minibatches are drawn from the newest `recent_rollouts` rollouts, with the targets computed when each rollout was
  collected: a short replay. 1 is on-policy, as in the paper.
- An exponential moving average of the weights (Polyak and Juditsky 1992) acts and bootstraps: many small updates move
  the newest weights more than the policy should move.
- Each environment has its own exploration rate, as in Ape-X (Paper: Horgan et al. 2018, "Distributed Prioritized
  Experience Replay", section 4): environment i of N explores with epsilon^(1 + alpha * i / (N - 1)).

Differences from PQN's paper: these three, which make it neither on-policy nor free of replay; see `pqn` for the others.
"""

import copy
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from q2pi.algorithms import pqn
from q2pi.algorithms.base import AgentSpec
from q2pi.algorithms.configs.pqn_laptop import Config
from q2pi.buffers.recent_rollouts import RecentRollouts
from q2pi.networks import optimizer
from q2pi.networks.value import QNetwork
from q2pi.types import Array, State


class Agent(pqn.Agent):
    """PQN's agent with recent rollouts, averaged weights and an exploration rate per environment."""

    config: Config

    def __init__(self, config: Config, spec: AgentSpec) -> None:
        super().__init__(config, spec)
        self.average = copy.deepcopy(self.online).requires_grad_(False) if config.ema_decay > 0 else None
        self.recent = RecentRollouts(
            config.recent_rollouts, self.rollout.rows, spec.observation_shape, spec.frame_dtype, spec.device
        )
        self.exponents = 1 + config.apex_alpha * np.linspace(0, 1, spec.num_envs)
        """[N] exponent of epsilon of each environment."""

    @property
    def acting_network(self) -> QNetwork:
        return self.online if self.average is None else self.average

    def exploration(self, step: int) -> Array:
        rates: Array = self.epsilon(step) ** self.exponents
        return rates

    def minibatches(self) -> Iterator[pqn.Minibatch]:
        """Yield minibatches of the recent rollouts: permutations of all rows, one after another, cut into parts."""
        config, rollout = self.config, self.rollout
        columns = (torch.from_numpy(rollout.observation), torch.from_numpy(rollout.action), self.targets())
        self.recent.add(self.rollouts, *(column.flatten(0, 1) for column in columns))
        total, rows = config.update_epochs * rollout.rows, self.recent.filled(self.rollouts + 1)
        orders = [
            self.spec.rng("minibatches", self.rollouts, pass_index).permutation(rows)
            for pass_index in range(-(-total // rows))
        ]
        for part in np.split(np.concatenate(orders)[:total], config.update_epochs * config.num_minibatches):
            yield pqn.Minibatch(*self.recent.take(torch.from_numpy(part).to(self.spec.device)))

    def update(self, batch: pqn.Minibatch) -> dict[str, Tensor]:
        """Make one gradient step and move the weight average; return scalars []."""
        with self.spec.autocast():
            loss, scalars = self.loss(batch)
        optimizer.gradient_step(self.optimizer, loss, self.config.max_grad_norm)
        if self.average is not None:
            optimizer.polyak_update(self.average, self.online, 1.0 - self.config.ema_decay)
        return scalars

    def networks(self) -> Mapping[str, nn.Module]:
        return {"online": self.online} if self.average is None else {"online": self.online, "average": self.average}

    def state(self) -> State:
        return super().state() | {"recent": self.recent.state(self.rollouts)}

    def load(self, state: State) -> None:
        super().load(state)
        self.recent.load(self.rollouts, state["recent"])
