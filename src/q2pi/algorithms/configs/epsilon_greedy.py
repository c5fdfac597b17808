"""Options of exploration and of a Q-network."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from q2pi.algorithms.configs.base import AlgorithmConfig
from q2pi.config import RunConfig
from q2pi.equations.schedules import linear
from q2pi.networks.options import Network

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

    def for_actor(self: Own, index: int, run: RunConfig[Any]) -> Own:
        """Return the options with the exploration rates of Ape-X: epsilon^(1 + APEX_ALPHA * index / (actors - 1)).

        Paper: Horgan et al. 2018, "Distributed Prioritized Experience Replay", section 4.
        """
        exponent = 1 + APEX_ALPHA * index / max(1, run.actors - 1)
        return replace(self, start_e=self.start_e**exponent, end_e=self.end_e**exponent)


@dataclass(frozen=True, kw_only=True)
class QNetworkConfig(EpsilonGreedyConfig):
    """Options of a Q-network."""

    hidden: tuple[int, ...] = (120, 84)
    """Units of the hidden layers for observations that are not one image."""
    network: Network = "auto"
    """Convolutions for images: nature (Mnih et al. 2015), dopamine (nature with padding, as in Castro et al. 2018),
    nips (2013, a third of the arithmetic), minatar (Young and Tian 2019), data_efficient (van Hasselt et al. 2019),
    impala (Espeholt et al. 2018). auto is nature from 36 x 36 pixels on, else minatar."""

    AT_LEAST: ClassVar[Mapping[str, float]] = {"hidden": 1}

    @property
    def image_network(self) -> Network:
        return self.network
