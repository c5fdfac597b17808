"""Epsilon-greedy action selection over Q-values, its schedule, and its evaluation."""

from typing import Any

import numpy as np
import torch

from q2pi.acceleration.cuda_graph import CudaGraph
from q2pi.algorithms.base import AgentSpec, to_metrics
from q2pi.algorithms.common.prediction import Predictor
from q2pi.equations.schedules import linear
from q2pi.networks.value import QNetwork
from q2pi.types import Array, Metrics


class EpsilonGreedyAgent(Predictor):
    """Base class of agents that learn Q-values. A subclass has a Q-network, `online`."""

    config: Any
    online: QNetwork

    def __init__(self, config: Any, spec: AgentSpec) -> None:
        self.config, self.spec = config, spec
        self.actions = int(spec.action_space.n)
        self.first_action = int(spec.action_space.start)
        """The environment's number of the first action; inside, actions count from 0."""
        self.acting_graph = CudaGraph(spec.device)
        self.explore_stream = spec.stream("explore")
        self.has_masks = spec.layout.mask_size > 0

    @property
    def acting_network(self) -> QNetwork:
        """The network that chooses actions."""
        return self.online

    @property
    def evaluation_policy(self) -> str:
        return f"epsilon-greedy, epsilon {self.config.eval_epsilon}"

    def epsilon(self, step: int) -> float:
        """Return the exploration rate at agent step `step`."""
        c, falling = self.config, max(0, step - self.config.exploration_delay)
        if c.exploration_steps:
            return linear(c.start_e, c.end_e, 1.0, c.exploration_steps, falling)
        return self.spec.linear(c.start_e, c.end_e, c.exploration_fraction, falling)

    def to_metrics(self, scalars: list[dict[str, torch.Tensor]], epsilon: float) -> list[Metrics]:
        """Return the scalars of updates as numbers, with the exploration rate."""
        return [row | {"epsilon": epsilon} for row in to_metrics(scalars)]

    def act(self, observation: Array, step: int) -> Array:
        return self.epsilon_greedy(observation, self.epsilon(step), self.explore_stream.at(step))

    def evaluation_act(self, observation: Array, noise: np.random.Generator, q: Array | None = None) -> Array:
        return self.epsilon_greedy(observation, self.config.eval_epsilon, noise, q)

    def predicted_actions(self, observation: Array, deterministic: bool) -> Array:
        """Return greedy actions [B]; with `deterministic=False`, epsilon-greedy ones at `eval_epsilon`."""
        if deterministic:
            return greedy_actions(self.q_values(observation), None) + self.first_action
        return self.epsilon_greedy(observation, self.config.eval_epsilon, np.random.default_rng())

    def tensor(self, observation: Array) -> torch.Tensor:
        """Return observations [B, ...] as network input, on the device."""
        return torch.from_numpy(observation).to(self.spec.device)

    def q_of(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return Q [B, A] of network inputs [B, ...], differentiable."""
        with self.spec.autocast():
            return self.acting_network.q_values(inputs)

    def q_values(self, observation: Array) -> Array:
        """Return Q [N, A] of observations [N, ...]."""
        with torch.inference_mode(), self.spec.autocast():
            forward = self.acting_network.q_values
            if len(observation) == self.spec.num_envs:  # the shape that the graph is captured with
                forward = self.acting_graph.wrap(forward)
            q: Array = forward(self.tensor(observation)).cpu().numpy()
        return q

    def epsilon_greedy(
        self, observation: Array, epsilon: float | Array, noise: np.random.Generator, q: Array | None = None
    ) -> Array:
        """Return actions [N] in the environment's numbering; each environment explores independently.

        Args:
            observation: [N, ...].
            epsilon: exploration rate, or one per environment [N].
            noise: source of randomness: whether to explore, the random actions, and breaking ties.
            q: Q [N, A] if known; else it is computed unless all environments explore.
        """
        explores = noise.random(len(observation)) < epsilon
        exploring = np.count_nonzero(explores)
        if exploring:
            chosen = self.random_actions(observation, noise)
        if exploring < len(observation):
            greedy = greedy_actions(self.q_values(observation) if q is None else q, noise)
            chosen = np.where(explores, chosen, greedy) if exploring else greedy
        return chosen + self.first_action

    def random_actions(self, observation: Array, noise: np.random.Generator) -> Array:
        """Return uniformly random actions [N] for observations [N, ...], none of them masked."""
        if self.has_masks:
            return random_allowed(observation[:, -self.actions :] != 0, noise)
        return noise.integers(self.actions, size=len(observation))


def random_allowed(allowed: Array, noise: np.random.Generator) -> Array:
    """Return actions [N] sampled uniformly among those that `allowed`, bool [N, A], allows: at least one each."""
    rank = (noise.random(len(allowed)) * allowed.sum(axis=1)).astype(np.int64)
    chosen: Array = (allowed.cumsum(axis=1) <= rank[:, None]).sum(axis=1)
    return chosen


def greedy_actions(q: Array, noise: np.random.Generator | None) -> Array:
    """Return the actions [N] of the greatest Q [N, A]; ties are broken uniformly, without `noise` by the lowest index.

    Random numbers are drawn only if there is a tie.

    Raises:
        FloatingPointError: a Q-value is NaN.
    """
    greatest = np.maximum.reduce(q, axis=1, keepdims=True)
    if np.count_nonzero(np.isnan(greatest)):  # NaN is not equal to itself; without the check the action would be 0
        raise FloatingPointError("a Q-value is NaN")
    best = q == greatest
    if noise is None or np.count_nonzero(best) == len(q):
        first: Array = best.argmax(axis=1)
        return first
    tied: Array = np.where(best, noise.random(q.shape), -1.0).argmax(axis=1)
    return tied
