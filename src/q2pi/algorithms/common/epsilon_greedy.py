"""What every algorithm is given and what it must offer: the contract between an algorithm's file and the one loop.

An algorithm's module holds

    OBSERVATIONS, ACTIONS              the spaces it serves, in words, for `q2pi algorithms`
    Config                             frozen dataclass of hyperparameters, each with a docstring
    SPACE                              name of an option -> the range to search it in, see `q2pi.search`; an option is a
                                       field of Config, or `num_envs`
    settle(run)                        the nearest RunConfig whose options fit each other, where they were drawn apart;
                                       options that the others leave without effect get their defaults
    check(run)                         UserError for the first hyperparameter of a RunConfig that is out of its bounds
    check_spaces(setting)              UserError where it cannot serve the environment's spaces
    updates_owed(run, step)            gradient updates of a RunConfig after `step` agent steps, for the forecast
    memory_needed(config, setting)     bytes of its own storage when full
    calibration(run)                   a short run with the same work per step and per update, to be timed
    Agent(config, setting)             see `Agent` below
"""

from typing import Any

import numpy as np

from q2pi.algorithms.base import AgentSpec, as_batch
from q2pi.equations.schedules import linear
from q2pi.types import Array


class ValueAgent:
    """What agents that learn Q-values share: epsilon-greedy play, its schedule, and judging it.

    A subclass has a `config` with `start_e`, `end_e`, `exploration_fraction` and `evaluation_e`, and `_q`.
    """

    config: Any
    spec: AgentSpec
    actions: int
    first_action: int
    """The number that the game's first action has; inside, actions count from 0."""

    @property
    def evaluation_policy(self) -> str:
        return f"epsilon-greedy, epsilon {self.config.eval_epsilon}"

    def epsilon(self, step: int) -> float:
        """Return the exploration rate at agent step `step`."""
        c = self.config
        return linear(c.start_e, c.end_e, c.exploration_fraction, self.spec.total_timesteps, step)

    def evaluation_act(self, observation: Array, noise: np.random.Generator) -> Array:
        return self._epsilon_greedy(observation, self.config.eval_epsilon, noise)

    def predict(
        self, observation: Array, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Array, None]:
        """Return (greedy actions, None); with `deterministic=False`, epsilon-greedy ones at `evaluation_e`."""
        batch, single = as_batch(observation, self.spec.observation_shape)
        rate = 0.0 if deterministic else self.config.eval_epsilon
        actions = self._epsilon_greedy(batch, rate, np.random.default_rng())
        return (actions[0] if single else actions), None

    def _q(self, observation: Array) -> Array:
        """Return Q [N, A] of observations [N, ...]."""
        raise NotImplementedError

    def _epsilon_greedy(
        self, observation: Array, epsilon: float | Array, noise: np.random.Generator, q: Array | None = None
    ) -> Array:
        """Return actions [N] as the game counts them: each game has a coin of its own.

        Args:
            observation: [N, ...].
            epsilon: exploration rate, or one for each game [N].
            noise: source of the coins and of the random actions.
            q: Q [N, A] where it is known already; else it is worked out unless all games explore.
        """
        explores = noise.random(len(observation)) < epsilon
        chosen = noise.integers(self.actions, size=len(observation))
        if not explores.all():
            values = self._q(observation) if q is None else q
            chosen = np.where(explores, chosen, values.argmax(axis=1))
        return chosen + self.first_action
