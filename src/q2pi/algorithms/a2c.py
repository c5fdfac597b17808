"""Advantage actor-critic: A2C.

Papers: Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning", in its synchronous form (Wu et al.
2017, "Scalable trust-region method for deep reinforcement learning"); advantages as in Schulman et al. 2016,
"High-Dimensional Continuous Control Using Generalized Advantage Estimation".

In one paragraph: sample actions from the policy for `num_steps` steps of several environments (the sampling phase),
then make one update with all of them (the training phase): raise log pi(a|s) in proportion to the advantage, the n-step
return minus V(s); move V(s) towards that return; and keep some entropy. Then discard the steps. With `gae_lambda` below
1 the returns are lambda-returns within the rollout.

Differences from the paper: environments step together, with one gradient from all of them, instead of asynchronous
workers; RMSProp is torch's, its epsilon outside the root; `value_coefficient` multiplies the mean squared error,
without a factor of one half; initial weights are orthogonal; images use the torso of Mnih et al. 2015, vectors an MLP
for the policy and one for the value; no recurrent network.

Truncation bootstraps from the value of the final observation; termination does not, nor does a lost life if the
environment's rules say so. Normalisation: statistics of observations are fixed during a rollout and updated after the
update, so all its rows, stored raw, mean the same in acting and in learning. The scale of rewards is updated with the
rollout before the update, and divides all its rewards.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from q2pi.algorithms.base import AgentSpec, observation_bytes, to_metrics
from q2pi.algorithms.common import search_space as space
from q2pi.algorithms.common.normalization import RewardScaler
from q2pi.algorithms.common.policy_based import PolicyAgent, PolicyConfig
from q2pi.buffers.rollout import Batch, Rollout
from q2pi.config import RunConfig
from q2pi.envs.vector import Step
from q2pi.equations import losses, returns
from q2pi.errors import UserError
from q2pi.networks import optimizer
from q2pi.networks.policy import ActorCritic, action_bytes
from q2pi.types import Array, Metrics, State


@dataclass(frozen=True, kw_only=True)
class Config(PolicyConfig):
    """Hyperparameters, in addition to those of a policy; the defaults are Stable-Baselines3's, with the
    paper's decay of the learning rate and its entropy bonus."""

    learning_rate: float = 7e-4
    """Learning rate of the optimizer."""
    anneal_learning_rate: bool = True
    """Linear decay of the learning rate to 0 over the budget."""
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """RMSProp with decay 0.99, or Adam."""
    optimizer_eps: float = 1e-5
    """The optimizer's epsilon."""
    num_steps: int = 5
    """Steps of each environment per rollout."""
    gamma: float = 0.99
    """Discount factor per agent step."""
    gae_lambda: float = 1.0
    """Decay of generalized advantage estimation; 1 is the return up to the end of the rollout."""
    normalize_advantages: bool = False
    """Normalisation of the advantages of a batch to mean 0 and standard deviation 1."""
    value_coefficient: float = 0.5
    """Weight of the value's mean squared error."""
    entropy_coefficient: float = 0.01
    """Weight of the entropy bonus."""
    max_grad_norm: float = 0.5
    """Bound on the gradient's norm; 0 disables it."""
    normalize_rewards: bool = False
    """Division of rewards by a running standard deviation of their discounted sums."""

    AT_LEAST: ClassVar[Mapping[str, float]] = {
        "num_steps": 1,
        **dict.fromkeys(("learning_rate", "optimizer_eps", "value_coefficient", "entropy_coefficient"), 0),
        "max_grad_norm": 0,
    }
    WITHIN: ClassVar[Mapping[str, tuple[float, float]]] = {"gamma": (0, 1), "gae_lambda": (0, 1)}
    REWARD_OPTIONS: ClassVar[tuple[str, ...]] = ("--normalize-rewards",)
    SPACE: ClassVar[space.Space] = {
        "num_envs": space.PowerOfTwo(4, 16),
        "learning_rate": space.Float(1e-4, 1e-2, log=True),
        "anneal_learning_rate": space.Choice(False, True),
        "optimizer": space.Choice("rmsprop", "adam"),
        "num_steps": space.Int(4, 128, log=True),
        "gamma": space.OneMinus(0.95, 0.999),
        "gae_lambda": space.Float(0.8, 1.0),
        "normalize_advantages": space.Choice(False, True),
        "value_coefficient": space.Float(0.1, 1.0),
        "entropy_coefficient": space.Float(0.0, 0.02),
        "max_grad_norm": space.Float(0.3, 5.0, log=True),
        "hidden": space.Choice((32, 32), (64, 64), (128, 128)),
    }

    def check(self, run: RunConfig[Any]) -> None:
        super().check(run)
        if (rows := self.num_steps * run.num_envs) > run.total_timesteps:
            raise UserError(
                f"--num-steps {self.num_steps} of --num-envs {run.num_envs} environments are {rows} agent steps, "
                f"beyond --total-timesteps {run.total_timesteps}"
            )

    def repaired(self, run: RunConfig[Any]) -> RunConfig[Any]:
        """Return the run with a rollout within the budget."""
        steps = min(self.num_steps, run.total_timesteps // run.num_envs)
        return replace(run, hyper=replace(self, num_steps=steps))

    def schedules(self, step: int, total_timesteps: int) -> dict[str, float]:
        found = super().schedules(step, total_timesteps)
        if self.anneal_learning_rate:
            found["learning_rate"] = self.decayed(self.learning_rate, step, total_timesteps)
        return found

    def updates_due(self, step: int, num_envs: int) -> int:
        return step // (self.num_steps * num_envs)

    def gradient_batch(self, num_envs: int) -> int:
        return self.num_steps * num_envs

    def storage_bytes(self, spec: AgentSpec, steps: int) -> int:
        """Return the bytes of a rollout and of its copy that the network reads."""
        row = observation_bytes(spec) + action_bytes(spec.action_space) + 6 * 4
        return 2 * self.num_steps * spec.num_envs * row

    def timing_config(self, run: RunConfig[Any]) -> RunConfig[Any]:
        """Return a run with at least four rollouts."""
        steps = max(1, min(self.num_steps, run.total_timesteps // 4 // run.num_envs))
        return replace(run, hyper=replace(self, num_steps=steps))


class Agent(PolicyAgent):
    """A policy that acts in N environments, trained once on each rollout."""

    overlap = False
    config: Config

    def __init__(self, config: Config, spec: AgentSpec) -> None:
        super().__init__(config, spec)
        self.network = spec.build(self.build_network, "actor-critic")
        self.head = self.network.policy.head
        self.optimizer = self.build_optimizer()
        self.rollout = Rollout(
            config.num_steps,
            spec.num_envs,
            spec.observation_shape,
            spec.frame_dtype,
            self.head.action_shape,
            self.head.action_dtype,
        )
        self.rewards = RewardScaler(spec.num_envs, config.gamma) if config.normalize_rewards else None
        self.rollouts = 0
        """Number of rollouts that were learned from."""
        self._acted: dict[str, Array] = {}

    def build_network(self) -> ActorCritic:
        """Return a policy and value network with fresh weights."""
        config, spec = self.config, self.spec
        layout, actions = spec.layout, spec.action_space
        return ActorCritic(layout, actions, config.hidden, log_std=config.log_std, squash=config.squash)

    def build_optimizer(self) -> torch.optim.Optimizer:
        parameters, rate, eps = self.network.parameters(), self.config.learning_rate, self.config.optimizer_eps
        if self.config.optimizer == "adam":
            return optimizer.adam(parameters, lr=rate, eps=eps)
        return torch.optim.RMSprop(parameters, lr=rate, eps=eps, alpha=0.99)

    def cut_episodes(self, observation: Array) -> None:
        # The last next observation is unknown, so the steps since the last update cannot be learned from.
        self.rollout.clear()

    def act(self, observation: Array, step: int) -> Array:
        with torch.inference_mode():
            policy, value = self.forward(observation)
            action = self.head.sample(policy, self.spec.rng("act", step))
            log_prob = policy.log_prob(action)
        columns = {"action": action, "log_prob": log_prob, "value": value}
        self._acted = {"observation": observation} | {name: column.cpu().numpy() for name, column in columns.items()}
        return self.to_env_action(action)

    def observe(self, action: Array, step: Step) -> None:
        self.rollout.append(
            **self._acted,
            reward=step.learning_reward,
            discount=self.config.gamma * step.continuation,
            ended=step.ended,
            final_value=self.rollout.final_values(step.truncated, step.next_observation, self.values),
        )

    def learn(self, step: int) -> list[Metrics]:
        if not self.rollout.full:
            return []
        self.set_learning_rate(step - self.rollout.rows)
        scalars = [self.update(self.batch())]
        return self.finish_rollout(scalars)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Make one gradient step; return scalars []."""
        with self.spec.autocast():
            loss, scalars = self.loss(batch)
        optimizer.gradient_step(self.optimizer, loss, self.config.max_grad_norm)
        return scalars

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (loss [], scalars []) of B steps."""
        config = self.config
        policy, value = self.network(batch.observation)  # distribution over [B] actions, V [B]
        advantage = normalized(batch.advantage) if config.normalize_advantages else batch.advantage  # [B]
        policy_loss = losses.policy_gradient_loss(policy.log_prob(batch.action), advantage).mean()
        value_loss = losses.value_loss(value, batch.target).mean()
        entropy = policy.entropy().mean()
        loss = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
        return loss, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}

    def batch(self) -> Batch:
        """Return the full rollout as one batch [T * N, ...], with advantages and value targets."""
        rollout, device = self.rollout, self.spec.device
        reward = rollout.reward
        if self.rewards is not None:
            self.rewards.update(reward, rollout.ended)
            reward = self.rewards(reward)
        value = torch.from_numpy(rollout.value)
        advantage = returns.generalized_advantages(
            torch.from_numpy(reward),
            torch.from_numpy(rollout.discount),
            value,
            torch.from_numpy(rollout.next_value()),
            torch.from_numpy(rollout.ended),
            self.config.gae_lambda,
        )
        return Batch(
            observation=self.tensor(_flat(rollout.observation)),
            action=torch.from_numpy(_flat(rollout.action)).to(device),
            log_prob=torch.from_numpy(_flat(rollout.log_prob)).to(device),
            value=value.flatten().to(device),
            advantage=advantage.flatten().to(device),
            target=(advantage + value).flatten().to(device),
        )

    def finish_rollout(self, scalars: list[dict[str, Tensor]]) -> list[Metrics]:
        """Discard the rollout, after its observations entered the statistics; return the scalars as numbers."""
        if self.observations is not None:
            self.observations.update(_flat(self.rollout.observation))
        self.rollout.clear()
        self.rollouts += 1
        rate = {"learning_rate": self.optimizer.param_groups[0]["lr"]}
        return [row | rate for row in to_metrics(scalars)]

    def set_learning_rate(self, step: int) -> None:
        """Set the learning rate of a rollout that started at agent step `step`."""
        if self.config.anneal_learning_rate:
            rate = self.spec.linear(self.config.learning_rate, 0.0, 1.0, step)
            optimizer.set_learning_rate(self.optimizer, rate)

    def forward(self, observation: Array) -> tuple[Any, Tensor]:
        """Return (policy, V [B]) at raw observations [B, ...]."""
        with self.spec.autocast():
            policy, value = self.network(self.tensor(observation))
        return policy, value

    def policy_at(self, observation: Array) -> Any:
        return self.forward(observation)[0]

    def state_value(self, inputs: Tensor) -> Tensor | None:
        with self.spec.autocast():
            value: Tensor = self.network(inputs)[1]
        return value

    def values(self, observation: Array) -> Array:
        """Return V [B] of raw observations [B, ...]."""
        with torch.inference_mode():
            values: Array = self.forward(observation)[1].cpu().numpy()
        return values

    def networks(self) -> Mapping[str, nn.Module]:
        return {"actor_critic": self.network}

    def state(self) -> State:
        state: State = {
            "actor_critic": self.network.state_dict(),
            "optimizer": optimizer.optimizer_state(self.optimizer),
            "rollout": self.rollout.state(),
            "rollouts": self.rollouts,
        }
        return state | {name: statistics.state() for name, statistics in self._statistics().items()}

    def load_weights(self, state: State) -> None:
        self.load_observation_statistics(state)
        optimizer.load_weights(self.networks(), state)
        if self.rewards is not None and "rewards" in state:
            # The value network predicts returns in this scale; the sums belong to the other run's episodes.
            self.rewards.moments.load(state["rewards"]["moments"])

    def load(self, state: State) -> None:
        optimizer.load_weights(self.networks(), state)
        optimizer.load_optimizer(self.optimizer, state.get("optimizer", {}))
        self.rollout.load(state["rollout"])
        self.rollouts = state["rollouts"]
        for name, statistics in self._statistics().items():
            statistics.load(state[name])

    def _statistics(self) -> dict[str, Any]:
        both = {"observations": self.observations, "rewards": self.rewards}
        return {name: statistics for name, statistics in both.items() if statistics is not None}


def normalized(advantage: Tensor) -> Tensor:
    """Return advantages [B] of mean 0 and standard deviation 1; of mean 0 alone if B is 1."""
    centred = advantage - advantage.mean()
    return centred / (centred.std() + 1e-8) if len(centred) > 1 else centred


def _flat(column: Array) -> Array:
    """Return a column [T, N, ...] as rows [T * N, ...]."""
    return column.reshape(-1, *column.shape[2:])
