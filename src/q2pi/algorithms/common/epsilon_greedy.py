"""Epsilon-greedy action selection over Q-values, its schedule, and its evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from q2pi.acceleration.cuda_graph import CudaGraph
from q2pi.algorithms.base import AgentSpec, AlgorithmConfig, to_metrics
from q2pi.algorithms.common.prediction import network_input
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

    def schedules(self, step: int, total_timesteps: int) -> dict[str, float]:
        found = super().schedules(step, total_timesteps)
        if self.exploration_steps == 0 and self.exploration_fraction > 0 and self.start_e != self.end_e:
            falling = max(0, step - self.exploration_delay)
            found["epsilon"] = linear(self.start_e, self.end_e, self.exploration_fraction, total_timesteps, falling)
        return found

    def extended(self: Own, budget: int, new_budget: int) -> Own:
        if "epsilon" not in self.schedules(0, budget):
            return self
        return replace(self, exploration_fraction=self.exploration_fraction * budget / new_budget)

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
    """Units of the hidden layers for observations that are not one image."""
    network: Network = "auto"
    """Convolutions for images: nature (Mnih et al. 2015), nips (2013, a third of the arithmetic), minatar (Young and
    Tian 2019), data_efficient (van Hasselt et al. 2019), impala (Espeholt et al. 2018). auto is nature from 36 x 36
    pixels on, else minatar."""

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
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[Array, Array | None]:
        """Return (greedy actions, state); with `deterministic=False`, epsilon-greedy ones at `eval_epsilon`."""
        batch, single, state = network_input(self.spec, observation, state, episode_start, action_masks)
        if deterministic:
            actions = greedy_actions(self.q_values(batch), None) + self.first_action
        else:
            actions = self.epsilon_greedy(batch, self.config.eval_epsilon, np.random.default_rng())
        return (actions[0] if single else actions), state

    def tensor(self, observation: Array) -> torch.Tensor:
        """Return observations [B, ...] as network input, on the device."""
        return torch.from_numpy(observation).to(self.spec.device)

    def state_value(self, inputs: torch.Tensor) -> torch.Tensor | None:
        """Return max_a Q(s, a) [B] of network inputs [B, ...], differentiable."""
        with self.spec.autocast():
            return self.acting_network.q_values(inputs).amax(dim=1)

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
            noise: source of randomness: whether to explore, and the random actions.
            q: Q [N, A] if known; else it is computed unless all environments explore.
        """
        explores = noise.random(len(observation)) < epsilon
        if self.spec.layout.mask_size:
            chosen = random_allowed(observation[:, -self.actions :] != 0, noise)
        else:
            chosen = noise.integers(self.actions, size=len(observation))
        if not explores.all():
            values = self.q_values(observation) if q is None else q
            chosen = np.where(explores, chosen, greedy_actions(values, noise))
        return chosen + self.first_action


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
    best = q == q.max(axis=1, keepdims=True)
    count = best.sum(axis=1)
    if not count.all():  # NaN is not equal to itself; without the check the action would be 0
        raise FloatingPointError("a Q-value is NaN")
    if noise is None or (count == 1).all():
        first: Array = best.argmax(axis=1)
        return first
    tied: Array = np.where(best, noise.random(q.shape), -1.0).argmax(axis=1)
    return tied
