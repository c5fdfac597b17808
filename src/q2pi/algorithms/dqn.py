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
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from q2pi.algorithms.base import AgentSpec
from q2pi.algorithms.common import search_space as space
from q2pi.algorithms.common.replay_based import ReplayAgent, ReplayConfig
from q2pi.algorithms.common.target_network import TargetNetwork
from q2pi.buffers.samplers import Batch
from q2pi.envs.vector import Step
from q2pi.equations import losses, targets
from q2pi.networks import initialisation, optimizer
from q2pi.networks.value import QNetwork
from q2pi.types import Array, Metrics, State


@dataclass(frozen=True, kw_only=True)
class Config(ReplayConfig):
    """Hyperparameters, in addition to those of `ReplayConfig`; the defaults are CleanRL's for Atari."""

    double: bool = False
    """Double DQN: the online network selects the next action, the target network evaluates it."""
    learning_rate: float = 1e-4
    """Learning rate of Adam."""
    anneal_learning_rate: bool = False
    """Linear decay of the learning rate to 0 over the budget."""
    adam_eps: float = 1e-8
    """Adam's epsilon; 1.5e-4 keeps early updates small."""
    target_network_frequency: int = 1_000
    """Agent steps between two updates of the target network."""
    tau: float = 1.0
    """Share of the online network in an update of the target network; 1 copies it."""
    loss: Literal["mse", "huber"] = "mse"
    """Loss of the TD errors: mean squared, or Huber with threshold 1."""
    max_grad_norm: float = 0.0
    """Bound on the gradient's norm; 0 disables it."""
    layer_norm: bool = False
    """Layer normalisation before each ReLU, as in PQN (Gallici et al. 2025)."""
    initial_weights: initialisation.InitialWeights = "torch"
    """Distribution of initial weights: torch's default (CleanRL), xavier_uniform (Dopamine's DQN), or variance_scaling
    (Dopamine's Rainbow)."""

    AT_LEAST: ClassVar[Mapping[str, float]] = {
        **dict.fromkeys(("learning_rate", "adam_eps", "max_grad_norm"), 0),
        "target_network_frequency": 1,
    }
    WITHIN: ClassVar[Mapping[str, tuple[float, float]]] = {"tau": (0, 1)}
    SPACE: ClassVar[space.Space] = {
        "learning_rate": space.Float(5e-5, 5e-3, log=True),
        "anneal_learning_rate": space.Choice(False, True),
        "batch_size": space.PowerOfTwo(16, 256),
        "buffer_size": space.PowerOfTwo(4_096, 131_072),
        "learning_starts": space.Int(250, 10_000, log=True),
        "train_frequency": space.PowerOfTwo(1, 16),
        "target_network_frequency": space.Int(50, 5_000, log=True),
        "gamma": space.OneMinus(0.95, 0.999),
        "n_step": space.Int(1, 5),
        "exploration_fraction": space.Float(0.05, 0.6),
        "end_e": space.Float(0.01, 0.1, log=True),
        "loss": space.Choice("mse", "huber"),
        "max_grad_norm": space.Choice(0.0, 1.0, 10.0),
        "hidden": space.Choice((64, 64), (120, 84), (128, 128), (256, 256)),
        "layer_norm": space.Choice(False, True),
    }
    """For vectors; for images, narrow `buffer_size` to what memory holds and fix `hidden`, which has no effect."""

    def schedules(self, step: int, total_timesteps: int) -> dict[str, float]:
        found = super().schedules(step, total_timesteps)
        if self.anneal_learning_rate:
            found["learning_rate"] = self.decayed(self.learning_rate, step, total_timesteps)
        return found

    @property
    def method(self) -> str:
        return "Double DQN" if self.double else "DQN"


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
