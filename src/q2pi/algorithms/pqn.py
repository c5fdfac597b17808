"""Parallelised Q-network: PQN.

Paper: Gallici et al. 2025, "Simplifying Deep Temporal Difference Learning" (ICLR); the returns are those of Peng and
Williams 1996, "Incremental Multi-Step Q-Learning".

In one paragraph: act epsilon-greedily for `num_steps` steps of many environments (the sampling phase); compute a target
for each step from what followed it in the rollout; make `update_epochs` passes over the steps in `num_minibatches`
shuffled parts and move Q(s, a) towards its target (the training phase); discard the steps. There is no replay, because
many environments give varied data, and no target network, because layer normalisation keeps values from diverging. The
target of step t is

    G_t = r_t + discount_t * ((1 - lambda) * max_a Q(s_{t+1}, a) + lambda * G_{t+1})

and at the end of an episode or of the rollout the bracket is max_a Q of the true next observation. Q is that of the
network which acted: the forward pass that chose the action of step t + 1 has computed max_a Q(s_{t+1}, a) too.

Differences from the paper: its optimizer RAdam is fused Adam with a scheduled learning rate, without the plain steps of
RAdam's first five updates; truncated episodes bootstrap from the value of the final observation (the authors' code
treats truncation as an end); initial weights are orthogonal, with the norms of the paper's; the second-last target of a
rollout is not off by one as in six files of the authors' code, see docs/algorithms/pqn.md; no recurrent network, no
batch normalisation of inputs.

`overlap` is False: the updates of a rollout take as long as some hundred emulator steps, so overlapping them with one
step would gain under one percent, and the first actions of each rollout would come from an outdated network.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from q2pi.algorithms.base import AgentSpec
from q2pi.algorithms.common.epsilon_greedy import EpsilonGreedyAgent
from q2pi.algorithms.configs.pqn import Config
from q2pi.buffers.rollout import Rollout
from q2pi.envs.vector import Step
from q2pi.equations import losses, returns, schedules
from q2pi.networks import optimizer
from q2pi.networks.initialisation import orthogonal
from q2pi.networks.value import QNetwork
from q2pi.types import Array, Metrics, State

BETAS = (0.9, 0.999)
"""Adam's decays of the first and the second moment."""


class Minibatch(NamedTuple):
    """Steps of a rollout with their targets, on the device that learns."""

    observation: Tensor
    """[B, *observation_shape]"""
    action: Tensor
    """int64 [B]"""
    target: Tensor
    """[B]"""


class Agent(EpsilonGreedyAgent):
    """Epsilon-greedy actions in N environments, and a Q-network trained on each rollout."""

    overlap = False
    config: Config

    def __init__(self, config: Config, spec: AgentSpec) -> None:
        super().__init__(config, spec)
        self.online = spec.build(self.build_network, "main")
        self.optimizer = optimizer.adam(self.online.parameters(), lr=config.learning_rate, betas=BETAS)
        self.rollout = Rollout(
            config.num_steps,
            spec.num_envs,
            spec.observation_shape,
            spec.frame_dtype,
            (),
            np.dtype(np.int64),
            log_prob=False,
            greedy=config.watkins,
        )
        self.rollouts = 0
        """Number of rollouts that were learned from."""
        self._acted: dict[str, Array] = {}

    def build_network(self) -> QNetwork:
        """Return a Q-network with fresh weights."""
        network = self.q_network()
        orthogonal(network.torso, math.sqrt(2))
        orthogonal(network.head, 1.0)
        return network

    def q_network(self) -> QNetwork:
        """Return a Q-network; `build_network` replaces its initial weights."""
        config = self.config
        return QNetwork(self.spec.layout, self.actions, config.hidden, network=config.network, layer_norm=True)

    def begin(self, observation: Array) -> None:
        pass

    def cut_episodes(self, observation: Array) -> None:
        # The last next observation is unknown, so the steps since the last update cannot be learned from.
        self.rollout.clear()

    def act(self, observation: Array, step: int) -> Array:
        q = self.sampling_q(observation)
        action = self.epsilon_greedy(observation, self.exploration(step), self.spec.rng("explore", step), q)
        chosen, value = action - self.first_action, q.max(axis=1)
        self._acted = {"observation": observation, "action": chosen, "value": value}
        if self.config.watkins:
            self._acted["greedy"] = q[np.arange(len(q)), chosen] == value
        return action

    def sampling_q(self, observation: Array) -> Array:
        """Return Q [B, A] of observations [B, ...], for the actions and targets of the sampling phase."""
        return self.q_values(observation)

    def exploration(self, step: int) -> float | Array:
        """Return the exploration rate at agent step `step`, one for all environments or one for each [N]."""
        return self.epsilon(step)

    def max_q(self, observation: Array) -> Array:
        """Return max_a Q [B] of observations [B, ...]."""
        values: Array = self.sampling_q(observation).max(axis=1)
        return values

    def observe(self, action: Array, step: Step) -> None:
        self.rollout.append(
            **self._acted,
            reward=step.learning_reward,
            discount=self.config.gamma * step.continuation,
            ended=step.ended,
            final_value=self.rollout.final_values(step.truncated, step.next_observation, self.max_q),
        )

    def learn(self, step: int) -> list[Metrics]:
        if not self.rollout.full:
            return []
        metrics = self.train(self.minibatches(), step - self.rollout.rows, self.rollouts)
        self.rollout.clear()
        self.rollouts += 1
        return metrics

    def train(self, minibatches: Iterator[Minibatch], start: int, rollout: int) -> list[Metrics]:
        """Make one update per minibatch of rollout `rollout`, which started at agent step `start`; return scalars."""
        scalars: list[dict[str, Tensor]] = []
        first = rollout * self.config.update_epochs * self.config.num_minibatches + 1
        for update, batch in enumerate(minibatches, first):
            rate = self.learning_rate(start, update)
            optimizer.set_learning_rate(self.optimizer, rate)
            with self.spec.autocast():
                loss, row = self.loss(batch)
            optimizer.gradient_step(self.optimizer, loss, self.config.max_grad_norm)
            self.after_update()
            scalars.append(row)
        return [row | {"learning_rate": rate} for row in self.to_metrics(scalars, self.epsilon(start))]

    def targets(self) -> Tensor:
        """Return the Q(lambda) targets [T, N] of the full rollout."""
        rollout = self.rollout
        columns = (rollout.reward, rollout.discount, rollout.next_value(), rollout.ended)
        reward, discount, next_value, ended = (torch.from_numpy(column) for column in columns)
        lambda_: float | Tensor = self.config.q_lambda
        if self.config.watkins:
            lambda_ = returns.watkins_lambdas(torch.from_numpy(rollout.greedy), self.config.q_lambda)
        return returns.lambda_returns(reward, discount, next_value, ended, lambda_)

    def minibatches(self) -> Iterator[Minibatch]:
        """Yield the minibatches of the full rollout, shuffled in each epoch."""
        device = self.spec.device
        columns = (torch.from_numpy(self.rollout.observation), torch.from_numpy(self.rollout.action), self.targets())
        observation, action, target = (column.flatten(0, 1).to(device) for column in columns)
        for epoch in range(self.config.update_epochs):
            rng = self.spec.rng("minibatches", self.rollouts, epoch)
            for part in np.split(rng.permutation(self.rollout.rows), self.config.num_minibatches):
                rows = torch.from_numpy(part).to(device)
                yield Minibatch(observation[rows], action[rows], target[rows])

    def loss(self, batch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (half the mean squared TD error [], scalars [])."""
        q = self.online(batch.observation)  # [B, A]
        loss = 0.5 * losses.squared(losses.td_errors(q, batch.action, batch.target)).mean()
        return loss, {"loss": loss.detach(), "q": q.detach().amax(dim=1).mean()}

    def after_update(self) -> None:
        """Called after each gradient step."""

    def learning_rate(self, step: int, update: int) -> float:
        """Return the learning rate of update `update`, counted from 1; its rollout started at agent step `step`."""
        rate = self.config.learning_rate
        if self.config.anneal_learning_rate:
            rate = self.spec.linear(rate, 0.0, 1.0, step)
        return rate * schedules.rectification(BETAS[1], update)

    def networks(self) -> Mapping[str, nn.Module]:
        return {"online": self.online}

    def state(self) -> State:
        return {name: network.state_dict() for name, network in self.networks().items()} | {
            "optimizer": optimizer.optimizer_state(self.optimizer),
            "rollout": self.rollout.state(),
            "rollouts": self.rollouts,
        }

    def load_weights(self, state: State) -> None:
        optimizer.load_weights(self.networks(), state)

    def load(self, state: State) -> None:
        self.load_weights(state)
        optimizer.load_optimizer(self.optimizer, state.get("optimizer", {}))
        self.rollout.load(state["rollout"])
        self.rollouts = state["rollouts"]
