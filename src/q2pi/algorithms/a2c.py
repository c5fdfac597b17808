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
from typing import Any

import torch
from torch import Tensor, nn

from q2pi.algorithms.base import AgentSpec, to_metrics
from q2pi.algorithms.common.normalization import RewardScaler
from q2pi.algorithms.common.policy_based import PolicyAgent
from q2pi.algorithms.configs.a2c import Config
from q2pi.buffers.rollout import Batch, Rollout
from q2pi.envs.vector import Step
from q2pi.equations import losses, returns
from q2pi.networks import optimizer
from q2pi.networks.policy import ActorCritic
from q2pi.types import Array, Metrics, State


class Agent(PolicyAgent):
    """A policy that acts in N environments, trained once on each rollout."""

    overlap = False
    stores_log_prob = False
    """Whether a rollout contains log pi(a|s) of when the action was sampled."""
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
            log_prob=self.stores_log_prob,
        )
        self.rewards = RewardScaler(spec.num_envs, config.gamma) if config.normalize_rewards else None
        self.act_stream = spec.stream("act")
        self.rollouts = 0
        """Number of rollouts that were learned from."""
        self._acted: dict[str, Array] = {}
        self._no_value = torch.zeros(spec.num_envs)

    def build_network(self) -> ActorCritic:
        """Return a policy and value network with fresh weights."""
        config, spec = self.config, self.spec
        layout, actions = spec.layout, spec.action_space
        return ActorCritic(layout, actions, config.hidden, log_std=config.log_std, squash=config.squash)

    def build_optimizer(self) -> torch.optim.Optimizer:
        parameters, rate, eps = self.network.parameters(), self.config.learning_rate, self.config.optimizer_eps
        if self.config.optimizer == "adam":
            return optimizer.adam(parameters, lr=rate, eps=eps)
        return optimizer.rmsprop(parameters, lr=rate, eps=eps, alpha=0.99)

    def cut_episodes(self, observation: Array) -> None:
        # The last next observation is unknown, so the steps since the last update cannot be learned from.
        self.rollout.clear()

    def act(self, observation: Array, step: int) -> Array:
        with torch.inference_mode(), self.spec.autocast():
            inputs = self.tensor(observation)
            # A critic apart from the policy is called once for a whole rollout, in `batch`.
            policy, value = (
                (self.network.policy(inputs), self._no_value) if self.network.separate else self.network(inputs)
            )
            action = self.head.sample(policy, self.act_stream.at(step))
            columns = {"action": action, "value": value}
            if self.stores_log_prob:
                columns["log_prob"] = policy.log_prob(action)
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
        with torch.set_grad_enabled(config.entropy_coefficient != 0):
            entropy = policy.entropy().mean()
        loss = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
        return loss, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}

    def batch(self) -> Batch:
        """Return the full rollout as one batch [T * N, ...], with advantages and value targets."""
        rollout, device = self.rollout, self.spec.device
        observation = _flat(rollout.observation)
        if self.network.separate:
            rollout.value[:] = self.values(observation).reshape(rollout.value.shape)
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
            observation=self.tensor(observation),
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

    def policy_at(self, observation: Array) -> Any:
        with self.spec.autocast():
            return self.network.policy(self.tensor(observation))

    def state_value(self, inputs: Tensor) -> Tensor | None:
        with self.spec.autocast():
            value: Tensor = self.network.value(inputs)
        return value

    def values(self, observation: Array) -> Array:
        """Return V [B] of raw observations [B, ...]."""
        with torch.inference_mode(), self.spec.autocast():
            values: Array = self.network.value(self.tensor(observation)).cpu().numpy()
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
