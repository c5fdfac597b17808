"""REINFORCE: the Monte Carlo policy gradient.

Papers: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning";
Sutton et al. 2000, "Policy gradient methods for reinforcement learning with function approximation".

In one paragraph: sample whole episodes from the policy (the sampling phase), then make one gradient step up the mean
over the episodes of sum_t weight_t * grad log pi(a_t|s_t) (the training phase) and discard them. `weights` defines the
weight:

    return_kind "whole"     the return of the whole episode, sum_k gamma^k r_k, for every step
    return_kind "to_go"     G_t = sum_{k >= t} gamma^(k-t) r_k, without rewards that the action cannot change
    discount_states         times gamma^t (to_go), as the theorem has it; most code omits it, and so does the default,
                            because late steps would hardly count (Nota and Thomas 2020)
    baseline "batch_mean"   minus the mean over the *other* episodes of the batch: episodes with a step t (to_go) or all
                            (whole). With the episode itself included, the gradient would be too small
    baseline "value"        minus V(s_t) (to_go) or V(s_0) (whole), of a network trained on the returns afterwards
    normalize_returns       the weights of a batch normalised to mean 0 and standard deviation 1

With any baseline the estimate is unbiased (with gamma below 1: for "whole", or with `discount_states`);
`normalize_returns` gives that up for one learning rate that suits all reward scales.

The episodes of an update are fixed before they start: the first `episodes_per_update` / `num_envs` whole episodes that
each environment starts after the previous update, so short episodes are not preferred. Steps of other episodes
(unfinished at an update, or after an environment's share) count as agent steps and are not learned from; with one
environment there are none, which is why the presets use one.

Time limits: a truncated episode bootstraps from the value of its final observation if the baseline is "value"; without
a value the return ends there, and the time limit is part of the task. A lost life never ends the return.

Differences from the paper: Adam instead of plain gradient ascent; an optional entropy bonus; batches of episodes.
Statistics of observations are fixed between updates, so that all steps of a batch are normalised in the same way.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from q2pi.algorithms.base import AgentSpec
from q2pi.algorithms.common.policy_based import PolicyAgent
from q2pi.algorithms.configs.reinforce import Config
from q2pi.buffers.episodes import Episodes, Trajectory
from q2pi.envs.vector import Step
from q2pi.equations import losses, returns
from q2pi.networks import optimizer
from q2pi.networks.policy import PolicyNetwork
from q2pi.networks.value import ValueNetwork
from q2pi.types import Array, Metrics, State

MAX_ROWS = 2_048
"""Number of steps per forward pass; a batch of episodes may be longer."""


@dataclass(frozen=True, slots=True)
class Credit:
    """M episodes as columns; episodes shorter than T are padded at their end."""

    returns: Tensor
    """[T, M] G_t, the discounted return from step t on."""
    value: Tensor
    """[T, M] V(s_t), 0 without a value network."""
    valid: Tensor
    """bool [T, M]: the episode has a step t."""


def weights(credit: Credit, config: Config) -> Tensor:
    """Return the weight of each log-probability, [T, M]; see the module's docstring."""
    whole = config.return_kind == "whole"
    weight = credit.returns[:1].expand_as(credit.returns) if whole else credit.returns
    if config.baseline == "value":
        weight = weight - (credit.value[:1] if whole else credit.value)
    elif config.baseline == "batch_mean":
        weight = weight - _mean_of_others(weight, torch.ones_like(credit.valid) if whole else credit.valid)
    if config.discount_states and not whole:
        weight = weight * config.gamma ** torch.arange(len(weight), dtype=weight.dtype).unsqueeze(1)
    if config.normalize_returns:
        kept = weight[credit.valid]
        weight = (weight - kept.mean()) / (kept.std(correction=0) + 1e-8)
    return weight


def _mean_of_others(weight: Tensor, valid: Tensor) -> Tensor:
    """Return the mean over the other episodes that are `valid` [T, M], 0 if there is none."""
    kept = torch.where(valid, weight, 0.0)
    others = valid.sum(dim=1, keepdim=True) - valid.to(weight.dtype)
    return (kept.sum(dim=1, keepdim=True) - kept) / others.clamp(min=1)


def credit_of(trajectories: list[Trajectory], value: list[Tensor], final_value: list[Tensor], gamma: float) -> Credit:
    """Return the returns of M episodes, each of its own length.

    Args:
        trajectories: M episodes.
        value: V(s_t) of each, [T_m].
        final_value: V of the final observation of each, []; it follows a truncated episode.
        gamma: discount factor.
    """
    valid = pad_sequence([torch.ones(len(episode.reward), dtype=torch.bool) for episode in trajectories])
    reward = pad_sequence([torch.from_numpy(episode.reward) for episode in trajectories]).to(value[0].dtype)
    ended = torch.zeros_like(valid)
    discount, next_value = torch.full_like(reward, gamma), torch.zeros_like(reward)
    for column, episode in enumerate(trajectories):
        last = len(episode.reward) - 1
        ended[last, column] = True
        discount[last, column] = gamma * episode.truncated
        next_value[last, column] = final_value[column]
    return_to_go = returns.discounted_returns(reward, discount, next_value, ended)
    return Credit(torch.where(valid, return_to_go, 0.0), pad_sequence(value), valid)


class Agent(PolicyAgent):
    """A policy that acts in N environments, trained once on each batch of whole episodes."""

    overlap = False
    config: Config

    def __init__(self, config: Config, spec: AgentSpec) -> None:
        super().__init__(config, spec)
        self.policy = spec.build(self.build_policy, "policy")
        self.optimizers = {"policy": optimizer.adam(self.policy.parameters(), lr=config.learning_rate)}
        self.value: ValueNetwork | None = None
        if config.baseline == "value":
            self.value = spec.build(lambda: ValueNetwork(spec.layout, config.hidden), "value")
            self.optimizers["value"] = optimizer.adam(self.value.parameters(), lr=config.value_learning_rate)
        self.head = self.policy.head
        columns = {
            "observation": (spec.observation_shape, spec.frame_dtype),
            "action": (self.head.action_shape, self.head.action_dtype),
        }
        self.episodes = Episodes(spec.num_envs, config.episodes_per_update // spec.num_envs, columns)
        self._acted: dict[str, Array] = {}

    def build_policy(self) -> PolicyNetwork:
        """Return a policy network with fresh weights."""
        config, spec = self.config, self.spec
        layout, actions = spec.layout, spec.action_space
        return PolicyNetwork(layout, actions, config.hidden, log_std=config.log_std, squash=config.squash)

    def cut_episodes(self, observation: Array) -> None:
        self.episodes.cut()

    def act(self, observation: Array, step: int) -> Array:
        with torch.inference_mode():
            action = self.head.sample(self.policy_at(observation), self.spec.rng("act", step))
        self._acted = {"observation": observation, "action": action.cpu().numpy()}
        return self.to_env_action(action)

    def observe(self, action: Array, step: Step) -> None:
        self.episodes.append(
            **self._acted,
            reward=step.learning_reward,
            terminated=step.terminated,
            truncated=step.truncated,
            next_observation=step.next_observation,
        )

    def learn(self, step: int) -> list[Metrics]:
        if not self.episodes.complete:
            return []
        trajectories = self.episodes.take()
        observation = np.concatenate([episode.observation for episode in trajectories])
        rows = self.tensor(observation)  # [B, ...], the steps of all episodes
        credit = self.credit(trajectories, rows)
        metrics = self.update_policy(trajectories, rows, credit)
        if self.value is not None:
            metrics["value_loss"] = self.update_value(rows, credit.returns.T[credit.valid.T])
        if self.observations is not None:
            self.observations.update(observation)
        return [metrics]

    def update_policy(self, trajectories: list[Trajectory], rows: Tensor, credit: Credit) -> Metrics:
        """Make one gradient step of the policy with all steps of M episodes."""
        action = torch.from_numpy(np.concatenate([episode.action for episode in trajectories])).to(rows.device)
        weight = weights(credit, self.config).T[credit.valid.T].to(rows.device)
        total, entropies = 0.0, 0.0
        self.optimizers["policy"].zero_grad()
        for part in _parts(len(rows)):
            with self.spec.autocast():
                policy = self.policy(rows[part])
            entropy = policy.entropy().sum() / len(rows)
            loss = self.loss(policy, action[part], weight[part], len(trajectories))
            loss = loss - self.config.entropy_coefficient * entropy
            loss.backward()
            total, entropies = total + loss.item(), entropies + entropy.item()
        self._step("policy")
        return {"policy_loss": total, "entropy": entropies, "episode_length": len(rows) / len(trajectories)}

    def loss(self, policy: Any, action: Tensor, weight: Tensor, episodes: int) -> Tensor:
        """Return minus the estimate whose gradient is the policy gradient, [].

        Equation: -(1 / M) sum over the steps of M episodes of weight * log pi(a|s). It is a sum over steps, so parts of
        a batch may be added.

        Args:
            policy: the distribution at B of the steps.
            action: [B, ...].  weight: [B].
            episodes: M.
        """
        return losses.policy_gradient_loss(policy.log_prob(action), weight).sum() / episodes

    def update_value(self, rows: Tensor, target: Tensor) -> float:
        """Move V(s) [B] towards the returns [B]; return the squared error before the first gradient step."""
        value, target, first = self.value, target.to(rows.device), float("nan")
        assert value is not None
        for update in range(self.config.value_updates):
            total = 0.0
            self.optimizers["value"].zero_grad()
            for part in _parts(len(rows)):
                with self.spec.autocast():
                    predicted = value(rows[part])
                loss = losses.value_loss(predicted, target[part]).sum() / len(rows)
                loss.backward()
                total += loss.item()
            self._step("value")
            first = total if update == 0 else first
        return first

    def credit(self, trajectories: list[Trajectory], rows: Tensor) -> Credit:
        """Return the returns and values of M episodes, whose steps are `rows` [B, ...]."""
        lengths = [len(episode.reward) for episode in trajectories]
        value = self.values(rows).split(lengths)
        final = self.values(self.tensor(np.stack([episode.final_observation for episode in trajectories])))
        return credit_of(trajectories, list(value), list(final), self.config.gamma)

    def values(self, rows: Tensor) -> Tensor:
        """Return V [B] on the CPU, 0 without a value network."""
        if self.value is None:
            return torch.zeros(len(rows))
        with torch.no_grad(), self.spec.autocast():
            return torch.cat([self.value(rows[part]) for part in _parts(len(rows))]).cpu()

    def state_value(self, inputs: Tensor) -> Tensor | None:
        if self.value is None:
            return None
        with self.spec.autocast():
            value: Tensor = self.value(inputs)
        return value

    def policy_at(self, observation: Array) -> Any:
        with self.spec.autocast():
            return self.policy(self.tensor(observation))

    def networks(self) -> Mapping[str, nn.Module]:
        return {"policy": self.policy} | ({} if self.value is None else {"value": self.value})

    def state(self) -> State:
        state: State = {name: network.state_dict() for name, network in self.networks().items()}
        state["optimizers"] = {name: optimizer.optimizer_state(one) for name, one in self.optimizers.items()}
        state["episodes"] = self.episodes.state()
        if self.observations is not None:
            state["observations"] = self.observations.state()
        return state

    def load_weights(self, state: State) -> None:
        self.load_observation_statistics(state)
        optimizer.load_weights(self.networks(), state)

    def load(self, state: State) -> None:
        optimizer.load_weights(self.networks(), state)
        for name, one in self.optimizers.items():
            optimizer.load_optimizer(one, state.get("optimizers", {}).get(name, {}))
        self.episodes.load(state["episodes"])
        if self.observations is not None:
            self.observations.load(state["observations"])

    def _step(self, name: str) -> None:
        """Make the gradient step of a network whose gradient is complete."""
        optimizer.clip_gradient(self.optimizers[name], self.config.max_grad_norm)
        self.optimizers[name].step()


def _parts(count: int) -> Iterator[slice]:
    """Yield the rows 0 .. count - 1 in parts of at most MAX_ROWS."""
    return (slice(start, start + MAX_ROWS) for start in range(0, count, MAX_ROWS))
