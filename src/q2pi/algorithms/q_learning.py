"""Tabular Q-learning, SARSA, Expected SARSA and Double Q-learning.

Papers: Watkins 1989, "Learning from Delayed Rewards" (Q-learning); Rummery and Niranjan 1994 (SARSA); van Seijen et al.
2009 (Expected SARSA); van Hasselt 2010, "Double Q-learning".

In one paragraph: a table holds Q(s, a) for every state and action; act epsilon-greedily, and after every agent step
move the entry of the action taken by the share `learning_rate` towards r + gamma * (value of the next state). The
methods differ in that value, which is one function, `equations.tabular.tabular_target`. Q-learning takes the best
action's and so learns about the greedy policy while exploring; SARSA takes that of the action chosen next and so learns
about the policy that explores. Double Q-learning has two tables; a coin selects the one to update, which selects the
next action while the other one evaluates it; it acts by the mean of both.

Differences from the papers: epsilon falls linearly over the run; several environments may share the table, each making
one update per step, in their order; actions of equal value share the greedy probability during training. A truncated
episode bootstraps from the final state; SARSA, which will never act there, takes the mean over its policy.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from torch import nn

from q2pi.algorithms.base import AgentSpec
from q2pi.algorithms.common.prediction import Predictor
from q2pi.algorithms.configs.q_learning import Config, table_sizes
from q2pi.envs.vector import Step
from q2pi.equations.tabular import epsilon_greedy, tabular_target
from q2pi.errors import UserError
from q2pi.types import Array, Metrics, State


class Transition(NamedTuple):
    """One step of one environment; states are table rows."""

    state: int
    action: int
    reward: float
    discount: float
    next_state: int


class Agent(Predictor):
    """Epsilon-greedy actions in N environments, and the table that they share."""

    overlap = False

    def __init__(self, config: Config, spec: AgentSpec) -> None:
        self.config, self.spec = config, spec
        self.actions = int(spec.action_space.n)
        self.first_action = int(spec.action_space.start)
        """The environment's number of the first action; in the tables, actions count from 0."""
        self.sizes = table_sizes(spec)
        self.q = np.zeros((config.tables, int(np.prod(self.sizes)), self.actions))
        """[1, S, A], or [2, S, A] for double_q."""
        self.states = np.zeros(spec.num_envs, np.int64)
        """[N] the state in which each environment takes its next action."""
        self.pending: list[Transition | None] = [None] * spec.num_envs
        """SARSA's newest transition of each environment, which waits for the next action."""
        self.ready: list[tuple[Transition, int | None]] = []
        """Transitions, with SARSA's next action, between `observe` and `learn`; empty at every checkpoint."""
        self.updates = 0

    @property
    def evaluation_policy(self) -> str:
        epsilon = self.config.eval_epsilon
        return f"epsilon-greedy, epsilon {epsilon}" if epsilon else "greedy, ties broken at random"

    @property
    def table(self) -> Array:
        """[S, A] the values that the agent acts by."""
        mean: Array = self.q.mean(axis=0)
        return mean

    def epsilon(self, step: int) -> float:
        """Return the exploration rate at agent step `step`."""
        c = self.config
        return self.spec.linear(c.start_e, c.end_e, c.exploration_fraction, step)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate at agent step `step`."""
        first, last = self.config.learning_rate, self.config.final_learning_rate
        return first if last is None else self.spec.linear(first, last, 1.0, step)

    def begin(self, observation: Array) -> None:
        self.states = self._rows(observation)

    def cut_episodes(self, observation: Array) -> None:
        self.states = self._rows(observation)
        self.pending = [None] * self.spec.num_envs

    def act(self, observation: Array, step: int) -> Array:
        return self._explore(observation, self.epsilon(step), self.spec.rng("explore", step))

    def observe(self, action: Array, step: Step) -> None:
        reward = step.learning_reward
        discount = np.where(step.continuation > 0, self.config.gamma, 0.0)
        next_state = self._rows(step.next_observation)
        for env, ended in enumerate(step.ended):
            taken = int(action[env]) - self.first_action
            pending = self.pending[env]
            if pending is not None:
                self.ready.append((pending, taken))
                self.pending[env] = None
            transition = Transition(
                int(self.states[env]), taken, float(reward[env]), float(discount[env]), int(next_state[env])
            )
            if self.config.target == "sarsa" and not ended:
                self.pending[env] = transition
            else:
                self.ready.append((transition, None))
        self.states = self._rows(step.observation)

    def learn(self, step: int) -> list[Metrics]:
        epsilon, rate = self.epsilon(step), self.learning_rate(step)
        coins = np.zeros(len(self.ready), np.int64)
        if self.config.target == "double_q":
            coins = self.spec.rng("double", step).integers(2, size=len(self.ready))
        metrics = []
        for (transition, next_action), coin in zip(self.ready, coins, strict=True):
            error = self.update(transition, next_action, int(coin), epsilon, rate)
            metrics.append({"td_error": abs(error), "epsilon": epsilon, "learning_rate": rate})
        self.ready.clear()
        return metrics

    def evaluation_act(self, observation: Array, noise: np.random.Generator) -> Array:
        return self._explore(observation, self.config.eval_epsilon, noise)

    def predicted_actions(self, observation: Array, deterministic: bool) -> Array:
        """Return greedy actions [B], ties to the lowest; with `deterministic=False`, epsilon-greedy ones at `end_e`."""
        if deterministic:
            greedy: Array = self.q_values(observation).argmax(axis=1) + self.first_action
            return greedy
        return self._explore(observation, self.config.end_e, np.random.default_rng())

    def networks(self) -> Mapping[str, nn.Module]:
        """Return nothing: a table is no network."""
        return {}

    def state(self) -> State:
        waiting = [[np.nan] * len(Transition._fields) if one is None else list(one) for one in self.pending]
        return {"q": self.q, "states": self.states, "pending": np.array(waiting, np.float64), "updates": self.updates}

    def load_weights(self, state: State) -> None:
        if state["q"].shape != self.q.shape:
            raise UserError(
                f"the saved tables have shape {state['q'].shape}, this run needs {self.q.shape}: "
                "--env-id and --target must be those of the saved run"
            )
        self.q = np.array(state["q"])

    def load(self, state: State) -> None:
        """Continue from a `state()`.

        Raises:
            UserError: the table belongs to another environment or another --target.
        """
        self.load_weights(state)
        self.states = np.array(state["states"])
        self.pending = [
            None if np.isnan(row[0]) else Transition(int(row[0]), int(row[1]), row[2], row[3], int(row[4]))
            for row in state["pending"].tolist()
        ]
        self.updates = state["updates"]

    def _rows(self, observation: Array) -> Array:
        """Return the table rows [N] of observations [N, D]."""
        rows: Array = np.ravel_multi_index(tuple(observation.T), self.sizes)
        return rows

    def q_values(self, observation: Array) -> Array:
        """Return Q [N, A] of observations [N, D]."""
        values: Array = self.q[:, self._rows(observation)].mean(axis=0)
        return values

    def _explore(self, observation: Array, epsilon: float, noise: np.random.Generator) -> Array:
        """Return the environment's epsilon-greedy actions [N]: each environment explores independently."""
        thresholds = epsilon_greedy(self.q_values(observation), epsilon).cumsum(axis=1)
        coins = noise.random((len(observation), 1))
        drawn: Array = np.minimum((coins >= thresholds).sum(axis=1), self.actions - 1)
        return drawn + self.first_action

    def update(self, t: Transition, next_action: int | None, coin: int, epsilon: float, rate: float) -> float:
        """Move the entry of one transition towards its target and return the error that it had."""
        updated, evaluating = self.q[coin], self.q[-1 - coin]
        target = tabular_target(
            self.config.target,
            t.reward,
            t.discount,
            evaluating[t.next_state],
            q_selector=updated[t.next_state] if self.config.target == "double_q" else None,
            next_action=next_action,
            epsilon=epsilon,
        )
        error = target - float(updated[t.state, t.action])
        updated[t.state, t.action] += rate * error
        self.updates += 1
        return error
