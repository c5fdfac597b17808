"""PQN for a laptop: few environments, replayed rollouts, averaged weights and updates beside the sampling phase.

Built on `pqn`, whose many parallel environments a laptop does not have. Five things differ:

- Minibatches are drawn from the newest `recent_rollouts` rollouts, with the targets computed when each rollout was
  collected: a short replay. 1 is on-policy, as in the paper.
- An exponential moving average of the weights (Polyak and Juditsky 1992) acts and bootstraps: many small updates move
  the newest weights more than the policy should move.
- Each environment has its own exploration rate, as in Ape-X (Paper: Horgan et al. 2018, "Distributed Prioritized
  Experience Replay", section 4): environment i of N explores with epsilon^(1 + alpha * i / (N - 1)).
- With `mirror`, half of the steps of a minibatch are reflected left to right, actions included, and the agent acts by
  the mean of Q of an image and of its mirror image: data augmentation and an ensemble by a symmetry of the game, as
  AlphaGo's by the symmetries of the board (Silver et al. 2016, "Mastering the game of Go with deep neural networks and
  tree search").
- With `concurrent_updates`, a second thread makes the updates of a rollout while the next one is collected, as in
  Cleanba (Paper: Huang et al. 2024, "Cleanba: A Reproducible and Efficient Distributed Reinforcement Learning
  Platform"). The weights that collect rollout k + 1 are those before the updates of rollout k, however fast the
  threads are, so a run stays reproducible.

Differences from PQN's paper: these five, which make it neither on-policy nor free of replay; see `pqn` for the others.
"""

import copy
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import nn

from q2pi.algorithms import pqn
from q2pi.algorithms.base import AgentSpec
from q2pi.algorithms.configs.pqn_laptop import Config
from q2pi.buffers.recent_rollouts import RecentRollouts
from q2pi.envs.atari import mirrored_actions
from q2pi.networks import optimizer
from q2pi.networks.value import MirroredQNetwork, QNetwork
from q2pi.types import Array, Metrics, State


class Agent(pqn.Agent):
    """PQN's agent with recent rollouts, averaged weights, an exploration rate per environment, concurrent updates."""

    config: Config

    def __init__(self, config: Config, spec: AgentSpec) -> None:
        self.mirrored_action: list[int] | None = None
        """Mirror image of each action."""
        if config.mirror:
            self.mirrored_action = mirrored_actions(spec.env.env_id, bool(spec.env.full_action_space))
        super().__init__(config, spec)
        self.average = copy.deepcopy(self.online).requires_grad_(False) if config.ema_decay > 0 else None
        self.recent = RecentRollouts(
            config.recent_rollouts, self.rollout.rows, spec.observation_shape, spec.frame_dtype, spec.device
        )
        self.exponents = 1 + config.apex_alpha * np.linspace(0, 1, spec.num_envs)
        """[N] exponent of epsilon of each environment."""
        is_concurrent = config.concurrent_updates and spec.device.type == "cpu"
        self.sampling = copy.deepcopy(self.online).requires_grad_(False) if is_concurrent else None
        """The network that collects a rollout during the updates of the last one."""
        self.thread = ThreadPoolExecutor(1)
        self.updates: Future[list[Metrics]] | None = None
        """Updates in progress."""
        self.unread: list[Metrics] = []
        """Scalars of finished updates that `learn` has not returned."""

    def q_network(self) -> QNetwork:
        if self.mirrored_action is None:
            return super().q_network()
        config = self.config
        return MirroredQNetwork(
            self.spec.layout,
            self.actions,
            config.hidden,
            network=config.network,
            layer_norm=True,
            mirrored_action=self.mirrored_action,
        )

    @property
    def acting_network(self) -> QNetwork:
        self.wait()
        return self.online if self.average is None else self.average

    def sampling_q(self, observation: Array) -> Array:
        if self.sampling is None:
            return super().sampling_q(observation)
        with torch.inference_mode(), self.spec.autocast():
            q: Array = self.sampling.q_values(self.tensor(observation)).numpy()
        return q

    def exploration(self, step: int) -> Array:
        rates: Array = self.epsilon(step) ** self.exponents
        return rates

    def learn(self, step: int) -> list[Metrics]:
        metrics: list[Metrics] = []
        if self.rollout.full:
            metrics = self.read()
            train = partial(self.train, self.minibatches(), step - self.rollout.rows, self.rollouts)
            if self.sampling is None:
                metrics = train()
            else:
                self.sampling.load_state_dict(self.acting_network.state_dict())
                self.updates = self.thread.submit(train)
            self.rollout.clear()
            self.rollouts += 1
        if step >= self.spec.total_timesteps:
            metrics += self.read()
        return metrics

    def wait(self) -> None:
        """Wait for the updates in progress."""
        if self.updates is not None:
            self.unread += self.updates.result()
            self.updates = None

    def read(self) -> list[Metrics]:
        """Wait for the updates in progress; return the scalars of all that were not returned yet."""
        self.wait()
        metrics, self.unread = self.unread, []
        return metrics

    def minibatches(self) -> Iterator[pqn.Minibatch]:
        """Store the full rollout; return minibatches of the recent ones: permutations of all rows, cut into parts."""
        config, rollout = self.config, self.rollout
        columns = (torch.from_numpy(rollout.observation), torch.from_numpy(rollout.action), self.targets())
        self.recent.add(self.rollouts, *(column.flatten(0, 1) for column in columns))
        total, rows = config.update_epochs * rollout.rows, self.recent.filled(self.rollouts + 1)
        orders = [
            self.spec.rng("minibatches", self.rollouts, pass_index).permutation(rows)
            for pass_index in range(-(-total // rows))
        ]
        parts = np.split(np.concatenate(orders)[:total], config.update_epochs * config.num_minibatches)
        taken = (pqn.Minibatch(*self.recent.take(torch.from_numpy(part).to(self.spec.device))) for part in parts)
        return taken if self.mirrored_action is None else self.mirrored(taken, self.mirrored_action, self.rollouts)

    def mirrored(
        self, minibatches: Iterator[pqn.Minibatch], mirrored_action: list[int], rollout: int
    ) -> Iterator[pqn.Minibatch]:
        """Yield the minibatches of rollout `rollout` with each step reflected left to right with probability 1/2."""
        rng, device = self.spec.rng("mirror", rollout), self.spec.device
        image = torch.tensor(mirrored_action, device=device)
        for observation, action, target in minibatches:
            half = torch.from_numpy(rng.random(len(action)) < 0.5).to(device)
            observation[half] = observation[half].flip(-1)
            yield pqn.Minibatch(observation, torch.where(half, image[action], action), target)

    def after_update(self) -> None:
        """Move the weight average."""
        if self.average is not None:
            optimizer.polyak_update(self.average, self.online, 1.0 - self.config.ema_decay)

    def networks(self) -> Mapping[str, nn.Module]:
        self.wait()
        return {"online": self.online} if self.average is None else {"online": self.online, "average": self.average}

    def state(self) -> State:
        state = super().state() | {"recent": self.recent.state(self.rollouts)}
        if self.sampling is not None:
            names = self.unread[0] if self.unread else ()
            unread = {name: np.array([row[name] for row in self.unread]) for name in names}
            state |= {"sampling": self.sampling.state_dict(), "unread": {"updates": len(self.unread), **unread}}
        return state

    def load_weights(self, state: State) -> None:
        super().load_weights(state)
        if self.sampling is not None:
            self.sampling.load_state_dict(self.acting_network.state_dict())

    def load(self, state: State) -> None:
        super().load(state)
        self.recent.load(self.rollouts, state["recent"])
        if self.sampling is not None:
            optimizer.load_weights({"sampling": self.sampling}, state)
            unread = dict(state["unread"])
            updates = int(unread.pop("updates"))
            self.unread = [{name: float(column[row]) for name, column in unread.items()} for row in range(updates)]
