"""Deep Q-learning: DQN and Double DQN.

Papers: Mnih et al. 2015, "Human-level control through deep reinforcement learning"; van Hasselt, Guez and Silver 2016,
"Deep Reinforcement Learning with Double Q-learning"; n-step targets as in Sutton 1988.

In one paragraph: act epsilon-greedily and store the transitions in a replay (the sampling phase); every
`train_frequency` agent steps draw a batch and move Q(s, a) towards r + discount * Q_target(s', a*) (the training
phase), where a* is the target network's best action (DQN) or the online network's (Double DQN). The target network is a
copy of the online network, updated every `target_network_frequency` agent steps.

Differences from the paper: Adam and a squared error instead of RMSProp and clipped errors (Obando-Ceron and Castro 2021
found them better; `loss = "huber"` clips), several environments with one exploration coin each, and updates that run
while the emulators step. The number of updates per agent step is set by `train_frequency` for any number of
environments.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from q2pi.algorithms.base import AgentSpec
from q2pi.algorithms.common.replay_based import ReplayAgent
from q2pi.algorithms.common.target_network import TargetNetwork
from q2pi.algorithms.configs.dqn import Config
from q2pi.buffers.samplers import Batch
from q2pi.envs.vector import Step
from q2pi.equations import losses, targets
from q2pi.networks import initialisation, optimizer
from q2pi.networks.value import QNetwork
from q2pi.types import Array, Metrics, State


class Agent(ReplayAgent):
    """Epsilon-greedy actions in N environments, and a Q-network trained from replay."""

    overlap = True
    config: Config

    def __init__(self, config: Config, spec: AgentSpec) -> None:
        super().__init__(config, spec)
        self.online = spec.build(self.build_network, "main")
        self.target = TargetNetwork(self.online, spec.precision)
        self.optimizer = optimizer.adam(
            self.online.parameters(),
            lr=optimizer.adjustable_learning_rate(config.learning_rate, spec.device),
            eps=config.adam_eps,
            capturable=spec.device.type == "cuda",
        )

    def build_network(self) -> QNetwork:
        """Return a Q-network with fresh weights; override it for another head."""
        config, layout = self.config, self.spec.layout
        network = QNetwork(layout, self.actions, config.hidden, network=config.network, layer_norm=config.layer_norm)
        initialisation.initialise(network, config.initial_weights)
        return network

    def observe(self, action: Array, step: Step) -> None:
        added = self.replay.extend(
            action - self.first_action,
            step.learning_reward,
            step.continuation,
            step.next_frame,
            step.ended,
            step.frame,
            step.env_indices,
        )
        self.sampler.added(added)
        if step.priority_errors is not None:
            slots = self.replay.recent(added)  # [N, n]
            self.sampler.update_priorities(slots.reshape(-1), torch.from_numpy(step.priority_errors.reshape(-1)))

    def learn(self, step: int) -> list[Metrics]:
        update = self.update_graph.wrap(self.update)
        scalars = []
        while (count := self.updates_left(step)) > 0:
            for batch in self.sample(count):
                self.prepare_update()
                metrics, td_error = update(batch)
                scalars.append(metrics)
                self.sampler.update_priorities(batch.indices, td_error)
                self.updates += 1
                self.update_target()
        return self.to_metrics(scalars, self.epsilon(step))

    def prepare_update(self) -> None:
        """Set what the next update reads beside its batch: the learning rate; a subclass adds noise."""
        optimizer.set_learning_rate(self.optimizer, self.learning_rate(self.update_step))

    def update(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Make one gradient step; return (scalars [], TD errors [B])."""
        with self.spec.autocast():
            loss, td_error, metrics = self.loss(batch)
        optimizer.gradient_step(self.optimizer, loss, self.config.max_grad_norm)
        return metrics, td_error

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return (loss [], TD errors [B], scalars []) of one batch; override it for another objective."""
        q = self.online(batch.observation)  # [B, A]
        with torch.no_grad():
            q_next = self.target(batch.next_observation)  # [B, A]
            selector = self.online(batch.next_observation) if self.config.double else None  # [B, A]
            target = targets.q_target(batch.reward, batch.discount, q_next, selector)  # [B]
        td_error = losses.td_errors(q, batch.action, target)  # [B]
        error = losses.squared(td_error) if self.config.loss == "mse" else losses.huber(td_error)  # [B]
        loss = losses.weighted_mean(error, batch.weight)
        return loss, td_error.detach(), {"loss": loss.detach(), "q": q.detach().amax(dim=1).mean()}

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of an update that belongs to agent step `step`."""
        rate = self.config.learning_rate
        return self.spec.linear(rate, 0.0, 1.0, step) if self.config.anneal_learning_rate else rate

    def update_target(self) -> None:
        """Update the target network if the newest update's agent step has entered a new period."""
        step, period = self.update_step, self.config.target_network_frequency
        if step // period != (step - self.config.train_frequency) // period:
            self.target.update(self.online, self.config.tau)

    def networks(self) -> Mapping[str, nn.Module]:
        return {"online": self.online, "target": self.target.network}

    def state(self) -> State:
        return {name: network.state_dict() for name, network in self.networks().items()} | {
            "optimizer": optimizer.optimizer_state(self.optimizer),
            "replay": self.replay.state(),
            "sampler": self.sampler.state(),
            "updates": self.updates,
        }

    def load_weights(self, state: State) -> None:
        optimizer.load_weights(self.networks(), state)
        self.target.refresh()

    def load(self, state: State) -> None:
        self.load_weights(state)
        optimizer.load_optimizer(self.optimizer, state.get("optimizer", {}))
        self.update_graph.reset()
        if "replay" in state:
            self.replay.load(state["replay"])
            self.sampler.load(state.get("sampler", {}))
        self.updates = state["updates"]
