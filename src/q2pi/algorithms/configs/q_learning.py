"""Hyperparameters of tabular Q-learning, see `algorithms/q_learning.py`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from q2pi.algorithms.common import search_space as space
from q2pi.algorithms.configs.base import AlgorithmConfig
from q2pi.config import RunConfig, within
from q2pi.equations.schedules import linear
from q2pi.equations.tabular import Target
from q2pi.errors import UserError
from q2pi.networks.action_spaces import kind_of

if TYPE_CHECKING:
    from q2pi.algorithms.base import AgentSpec

LARGEST_TABLE = 100_000_000
"""Entries that a table may have: 800 MB."""


@dataclass(frozen=True, kw_only=True)
class Config(AlgorithmConfig):
    """Hyperparameters; the defaults suit small, nearly deterministic environments."""

    target: Target = "q_learning"
    """Value of the next state: of the best action (q_learning), of the one taken (sarsa), the mean over the policy
    (expected_sarsa), or one table's selection evaluated by another (double_q)."""
    learning_rate: float = 0.5
    """Share of the way to its target that an entry moves."""
    final_learning_rate: float | None = None
    """Learning rate at the end of the budget, approached linearly; None keeps it constant."""
    gamma: float = 0.99
    """Discount factor per agent step."""
    start_e: float = 1.0
    """Exploration rate epsilon at the first step."""
    end_e: float = 0.05
    """Exploration rate at the end of the schedule and from then on."""
    exploration_fraction: float = 0.5
    """Share of the budget over which epsilon falls linearly."""
    eval_epsilon: float = 0.0
    """Exploration rate during evaluation."""

    OBSERVATIONS: ClassVar[str] = "Discrete, MultiDiscrete"
    ACTION_MASKS: ClassVar[bool] = False
    WITHIN: ClassVar[Mapping[str, tuple[float, float]]] = dict.fromkeys(
        ("learning_rate", "gamma", "start_e", "end_e", "exploration_fraction", "eval_epsilon"), (0, 1)
    )
    SPACE: ClassVar[space.Space] = {
        "target": space.Choice("q_learning", "sarsa", "expected_sarsa", "double_q"),
        "learning_rate": space.Float(0.02, 1.0, log=True),
        "final_learning_rate": space.Float(0.002, 1.0, log=True),
        "gamma": space.OneMinus(0.9, 0.999),
        "end_e": space.Float(0.01, 0.3, log=True),
        "exploration_fraction": space.Float(0.1, 0.9),
    }

    def check(self, run: RunConfig[Any]) -> None:
        super().check(run)
        if self.final_learning_rate is not None:
            within(self, 0, 1, "final_learning_rate")

    def repaired(self, run: RunConfig[Any]) -> RunConfig[Any]:
        """Return the run with a learning rate that does not rise."""
        if self.final_learning_rate is None:
            return run
        last = min(self.final_learning_rate, self.learning_rate)
        return replace(run, hyper=replace(self, final_learning_rate=last))

    def check_spaces(self, spec: "AgentSpec") -> None:
        env_id = spec.env.env_id
        if spec.frame_dtype != np.int64:
            shape = ", ".join(map(str, spec.observation_shape))
            raise UserError(f"--env-id {env_id} has observations Box({shape}): q_learning needs Discrete ones")
        if kind_of(spec.action_space) != "Discrete":
            raise UserError(
                f"--env-id {env_id} has actions {spec.action_space}: q_learning needs a Discrete action space"
            )
        states = float(np.prod(table_sizes(spec), dtype=np.float64))
        if states * spec.action_space.n > LARGEST_TABLE:
            raise UserError(
                f"--env-id {env_id} with --stack {spec.stack} has {states:.3g} states: "
                f"q_learning holds tables of at most {LARGEST_TABLE:,} entries"
            )

    def schedules(self, step: int, total_timesteps: int) -> dict[str, float]:
        found = super().schedules(step, total_timesteps)
        if self.exploration_fraction > 0 and self.start_e != self.end_e:
            found["epsilon"] = linear(self.start_e, self.end_e, self.exploration_fraction, total_timesteps, step)
        if self.final_learning_rate is not None:
            found["learning_rate"] = linear(self.learning_rate, self.final_learning_rate, 1.0, total_timesteps, step)
        return found

    def extended(self, budget: int, new_budget: int) -> "Config":
        if "epsilon" not in self.schedules(0, budget):
            return self
        return replace(self, exploration_fraction=self.exploration_fraction * budget / new_budget)

    def updates_due(self, step: int, num_envs: int) -> int:
        """Return one update per agent step; SARSA's newest ones wait for the next action."""
        return step

    def storage_bytes(self, spec: "AgentSpec", steps: int) -> int:
        """Return the bytes of the tables."""
        return 8 * self.tables * int(np.prod(table_sizes(spec))) * int(spec.action_space.n)

    @property
    def tables(self) -> int:
        return 2 if self.target == "double_q" else 1


def table_sizes(spec: "AgentSpec") -> tuple[int, ...]:
    """Return how many values each number of an observation can take."""
    return tuple(int(size) for size in np.tile(spec.frame_space.high + 1, spec.stack))
