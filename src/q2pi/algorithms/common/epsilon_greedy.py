"""Epsilon-greedy action selection over Q-values, its schedule, and its evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from q2pi.acceleration.cuda_graph import CudaGraph
from q2pi.algorithms.base import AgentSpec, AlgorithmConfig, as_batch, to_metrics
from q2pi.equations.schedules import linear
from q2pi.networks.torsos import Network
from q2pi.networks.value import QNetwork
from q2pi.types import Array, Metrics

APEX_ALPHA = 7.0
"""Exponent alpha of the exploration rates of actors; that of Horgan et al. 2018."""
Own = TypeVar("Own", bound="EpsilonGreedyConfig")


@dataclass(frozen=True, kw_only=True)
class EpsilonGreedyConfig(AlgorithmConfig):
    """Options of exploration."""

    start_e: float = 1.0
    """Exploration rate epsilon at the first step."""
    end_e: float = 0.01
    """Exploration rate at the end of the schedule and from then on."""
    exploration_fraction: float = 0.1
    """Share of the budget over which epsilon falls linearly; without effect if `exploration_steps` is set."""
    exploration_steps: int = 0
    """Agent steps over which epsilon falls linearly, whatever the budget; 0 uses `exploration_fraction`."""
    exploration_delay: int = 0
    """Agent steps at `start_e` before epsilon begins to fall."""
    eval_epsilon: float = 0.01
    """Exploration rate during evaluation."""

    AT_LEAST: ClassVar[Mapping[str, float]] = {"exploration_steps": 0, "exploration_delay": 0}
    WITHIN: ClassVar[Mapping[str, tuple[float, float]]] = dict.fromkeys(
        ("start_e", "end_e", "exploration_fraction", "eval_epsilon"), (0, 1)
    )

    def for_actor(self: Own, index: int, actors: int) -> Own:
        """Return the options with the exploration rates of Ape-X: epsilon^(1 + APEX_ALPHA * index / (actors - 1)).

        Paper: Horgan et al. 2018, "Distributed Prioritized Experience Replay", section 4.
        """
        exponent = 1 + APEX_ALPHA * index / max(1, actors - 1)
        return replace(self, start_e=self.start_e**exponent, end_e=self.end_e**exponent)


@dataclass(frozen=True, kw_only=True)
class QNetworkConfig(EpsilonGreedyConfig):
    """Options of a Q-network."""

    hidden: tuple[int, ...] = (120, 84)
    """Units of the hidden layers for vector observations."""
    network: Network = "nature"
    """Torso for images: that of Mnih et al. 2015 (nature), or of 2013 (nips) with a third of the arithmetic."""

    AT_LEAST: ClassVar[Mapping[str, float]] = {"hidden": 1}

    @property
    def image_network(self) -> Network:
        return self.network


class EpsilonGreedyAgent:
    """Base class of agents that learn Q-values. A subclass has a Q-network, `online`."""

    config: Any
    online: QNetwork

    def __init__(self, config: Any, spec: AgentSpec) -> None:
        self.config, self.spec = config, spec
        self.actions = int(spec.action_space.n)
        self.first_action = int(spec.action_space.start)
        """The environment's number of the first action; inside, actions count from 0."""
        self.acting_graph = CudaGraph(spec.device)

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
        return self.epsilon_greedy(observation, self.epsilon(step), self.spec.rng("explore", step))

    def evaluation_act(self, observation: Array, noise: np.random.Generator) -> Array:
        return self.epsilon_greedy(observation, self.config.eval_epsilon, noise)

    def predict(
        self, observation: Array, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Array, None]:
        """Return (greedy actions, None); with `deterministic=False`, epsilon-greedy ones at `eval_epsilon`."""
        batch, single = as_batch(observation, self.spec.observation_shape)
        if deterministic:
            actions = greedy_actions(self.q_values(batch), None) + self.first_action
        else:
            actions = self.epsilon_greedy(batch, self.config.eval_epsilon, np.random.default_rng())
        return (actions[0] if single else actions), None

    def q_values(self, observation: Array) -> Array:
        """Return Q [N, A] of observations [N, ...]."""
        with torch.inference_mode(), self.spec.autocast():
            forward = self.acting_network.q_values
            if len(observation) == self.spec.num_envs:  # the shape that the graph is captured with
                forward = self.acting_graph.wrap(forward)
            q: Array = forward(torch.from_numpy(observation).to(self.spec.device)).cpu().numpy()
        return q

    def epsilon_greedy(
        self, observation: Array, epsilon: float | Array, noise: np.random.Generator, q: Array | None = None
    ) -> Array:
        """Return actions [N] in the environment's numbering; each environment explores independently.

        Args:
            observation: [N, ...].
            epsilon: exploration rate, or one per environment [N].
            noise: source of randomness: whether to explore, and the random actions.
            q: Q [N, A] if known; else it is computed unless all environments explore.
        """
        explores = noise.random(len(observation)) < epsilon
        chosen = noise.integers(self.actions, size=len(observation))
        if not explores.all():
            values = self.q_values(observation) if q is None else q
            chosen = np.where(explores, chosen, greedy_actions(values, noise))
        return chosen + self.first_action


def greedy_actions(q: Array, noise: np.random.Generator | None) -> Array:
    """Return the actions [N] of the greatest Q [N, A]; ties are broken uniformly, without `noise` by the lowest index.

    Random numbers are drawn only if there is a tie.
    """
    best = q == q.max(axis=1, keepdims=True)
    if noise is None or (best.sum(axis=1) == 1).all():
        first: Array = best.argmax(axis=1)
        return first
    tied: Array = np.where(best, noise.random(q.shape), -1.0).argmax(axis=1)
    return tied
