"""Tabular Q-learning, SARSA, Expected SARSA and Double Q-learning.

Papers: Watkins 1989, "Learning from Delayed Rewards" (Q-learning); Rummery and Niranjan 1994 (SARSA); van Seijen et al.
2009 (Expected SARSA); van Hasselt 2010, "Double Q-learning".

In one paragraph: a table holds Q(s, a) for every state and action; play epsilon-greedily, and after every agent step
move the one entry that was tried a share `learning_rate` of the way towards r + gamma * (value of the next state). The
methods differ in that value, which is one function, `equations.tabular.tabular_target`. Q-learning takes the best
action's and so learns about greedy play while exploring; SARSA takes that of the action chosen next and so learns about
the play that explores. Double Q-learning keeps two tables, tosses a coin over which one is updated, lets that one
choose the next action and the other one value it, and plays by the mean of both.

Differences from the papers: exploration falls linearly over the run; several games may share the table, each making one
update per step, in the order of the games; equal values share the greedy probability while training. Where time runs
out the target bootstraps from the final state; SARSA, which will never act there, takes the mean over its policy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from q2pi.algorithms.base import AgentSpec, as_batch
from q2pi.algorithms.common.search_space import Choice, Float, OneMinus, Space
from q2pi.config import RunConfig, within
from q2pi.envs import make_envs
from q2pi.envs.vector import Step
from q2pi.equations.schedules import linear
from q2pi.equations.tabular import Target, epsilon_greedy, tabular_target
from q2pi.errors import UserError
from q2pi.rng import stream
from q2pi.types import Array, Metrics, State

OBSERVATIONS = "Discrete, MultiDiscrete"
ACTIONS = "Discrete"
LARGEST_TABLE = 100_000_000
"""Entries that a table may have: 800 MB."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyperparameters; the defaults suit small worlds with little chance in them."""

    target: Target = "q_learning"
    """What an entry is moved towards: the best next action (q_learning), the one taken (sarsa), the mean over the
    policy (expected_sarsa), or one table's choice valued by another (double_q)."""
    learning_rate: float = 0.5
    """Share of the way to its target that an entry moves."""
    final_learning_rate: float | None = None
    """Learning rate at the end of the budget, approached linearly; None keeps it constant."""
    gamma: float = 0.99
    """Discount factor per agent step."""
    start_e: float = 1.0
    """Exploration rate epsilon at the first step."""
    end_e: float = 0.05
    """Exploration rate at the end of the schedule, and from then on."""
    exploration_fraction: float = 0.5
    """Share of the budget over which epsilon falls linearly."""


SPACE: Space = {
    "target": Choice("q_learning", "sarsa", "expected_sarsa", "double_q"),
    "learning_rate": Float(0.02, 1.0, log=True),
    "final_learning_rate": Float(0.002, 1.0, log=True),
    "gamma": OneMinus(0.9, 0.999),
    "end_e": Float(0.01, 0.3, log=True),
    "exploration_fraction": Float(0.1, 0.9),
}


def check(run: RunConfig[Config]) -> None:
    """Raise a UserError for the first hyperparameter that is out of its bounds."""
    config = run.hyper
    within(config, 0, 1, "learning_rate", "gamma", "start_e", "end_e", "exploration_fraction")
    if config.final_learning_rate is not None:
        within(config, 0, 1, "final_learning_rate")


def settle(run: RunConfig[Config]) -> RunConfig[Config]:
    """Return the nearest run whose options fit each other: a learning rate that does not rise."""
    config = run.hyper
    if config.final_learning_rate is None:
        return run
    return replace(
        run, hyper=replace(config, final_learning_rate=min(config.final_learning_rate, config.learning_rate))
    )


def check_spaces(spec: AgentSpec) -> None:
    """Raise a UserError where the environment's spaces are not ones that a table can serve."""
    env_id = spec.env.env_id
    if spec.frame_dtype != np.int64:
        shape = ", ".join(map(str, spec.observation_shape))
        raise UserError(f"--env-id {env_id} has observations Box({shape}): q_learning needs Discrete ones")
    if type(spec.action_space).__name__ != "Discrete":
        raise UserError(f"--env-id {env_id} has actions {spec.action_space}: q_learning needs a Discrete action space")
    states = float(np.prod(_sizes(spec), dtype=np.float64))
    if states * spec.action_space.n > LARGEST_TABLE:
        raise UserError(
            f"--env-id {env_id} with --stack {spec.stack} has {states:.3g} states: "
            f"q_learning holds tables of at most {LARGEST_TABLE:,} entries"
        )


def updates_due(run: RunConfig[Config], step: int) -> int:
    """Return how many updates a run has made after `step` agent steps; SARSA's newest ones wait for the next action."""
    return step


def timing_config(run: RunConfig[Config]) -> RunConfig[Config]:
    """Return a short run with the same work per step and per update, to be timed."""
    return run


def memory_needed(config: Config, spec: AgentSpec) -> int:
    """Return the bytes of the tables."""
    states = int(np.prod(_sizes(spec)))
    return 8 * _tables(config) * states * int(spec.action_space.n)


class Transition(NamedTuple):
    """One step of one game, in numbers of table rows."""

    state: int
    action: int
    reward: float
    discount: float
    next_state: int


class Agent:
    """Epsilon-greedy play over N games, and the table that they share."""

    overlap = False

    def __init__(self, config: Config, spec: AgentSpec) -> None:
        self.config, self.spec = config, spec
        self.actions = int(spec.action_space.n)
        self.sizes = _sizes(spec)
        self.q = np.zeros((_tables(config), int(np.prod(self.sizes)), self.actions))
        """[1, S, A], or [2, S, A] for double_q."""
        self.now = np.zeros(spec.num_envs, np.int64)
        """[N] the state that each game's next action is taken in."""
        self.half: list[Transition | None] = [None] * spec.num_envs
        """SARSA's newest transition of each game, which waits for the next action."""
        self.ready: list[tuple[Transition, int | None]] = []
        """Transitions, with SARSA's next action, between `observe` and `learn`; empty at every checkpoint."""
        self.updates = 0

    @property
    def evaluation_policy(self) -> str:
        return "greedy, the first of equals"

    @property
    def table(self) -> Array:
        """[S, A] the values that the agent plays by."""
        mean: Array = self.q.mean(axis=0)
        return mean

    def epsilon(self, step: int) -> float:
        """Return the exploration rate at agent step `step`."""
        c = self.config
        return linear(c.start_e, c.end_e, c.exploration_fraction, self.spec.total_timesteps, step)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate at agent step `step`."""
        first, last = self.config.learning_rate, self.config.final_learning_rate
        return first if last is None else linear(first, last, 1.0, self.spec.total_timesteps, step)

    def begin(self, observation: Array) -> None:
        self.now = self._rows(observation)

    def act(self, observation: Array, step: int) -> Array:
        return self._explore(observation, self.epsilon(step), stream(self.spec.seed, "explore", step))

    def observe(self, action: Array, result: Step) -> None:
        reward = np.sign(result.reward) if self.spec.env.clip_rewards else result.reward
        discount = np.where(result.terminated, 0.0, self.config.gamma)
        next_state = self._rows(result.next_observation)
        for game, ended in enumerate(result.ended):
            taken = int(action[game])
            before = self.half[game]
            if before is not None:
                self.ready.append((before, taken))
                self.half[game] = None
            now = Transition(
                int(self.now[game]), taken, float(reward[game]), float(discount[game]), int(next_state[game])
            )
            if self.config.target == "sarsa" and not ended:
                self.half[game] = now
            else:
                self.ready.append((now, None))
        self.now = self._rows(result.observation)

    def learn(self, step: int) -> list[Metrics]:
        epsilon, rate = self.epsilon(step), self.learning_rate(step)
        coins = np.zeros(len(self.ready), np.int64)
        if self.config.target == "double_q":
            coins = stream(self.spec.seed, "double", step).integers(2, size=len(self.ready))
        metrics = []
        for (transition, next_action), coin in zip(self.ready, coins, strict=True):
            error = self._update(transition, next_action, int(coin), epsilon, rate)
            metrics.append({"td_error": abs(error), "epsilon": epsilon, "learning_rate": rate})
        self.ready.clear()
        return metrics

    def evaluation_act(self, observation: Array, noise: np.random.Generator) -> Array:
        return self._greedy(observation)

    def predict(
        self, observation: Array, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Array, None]:
        """Return (greedy actions, None); with `deterministic=False`, epsilon-greedy ones at `end_e`.

        A Discrete observation is a number; several of them may come as [B] or as [B, 1].
        """
        array = np.asarray(observation)
        if self.spec.observation_shape == (1,) and array.shape != (1,) and array.ndim < 2:
            array = array[..., None]
        batch, single = as_batch(array, self.spec.observation_shape)
        if deterministic:
            actions = self._greedy(batch)
        else:
            actions = self._explore(batch, self.config.end_e, np.random.default_rng())
        return (actions[0] if single else actions), None

    def networks(self) -> Mapping[str, nn.Module]:
        """Return nothing: a table is no network."""
        return {}

    def state(self) -> State:
        waiting = [[np.nan] * len(Transition._fields) if half is None else list(half) for half in self.half]
        return {"q": self.q, "now": self.now, "half": np.array(waiting, np.float64), "updates": self.updates}

    def load(self, state: State) -> None:
        """Continue from a `state()`.

        Raises:
            UserError: the table belongs to another world or to another number of tables.
        """
        if state["q"].shape != self.q.shape:
            raise UserError(
                f"the checkpoint's tables have shape {state['q'].shape}, those of config.toml {self.q.shape}: "
                "--env-id and --target must be those of the saved run"
            )
        self.q = np.array(state["q"])
        self.now = np.array(state["now"])
        self.half = [
            None if np.isnan(row[0]) else Transition(int(row[0]), int(row[1]), row[2], row[3], int(row[4]))
            for row in state["half"].tolist()
        ]
        self.updates = state["updates"]

    def _rows(self, observation: Array) -> Array:
        """Return the table rows [N] of observations [N, D]."""
        rows: Array = np.ravel_multi_index(tuple(observation.T), self.sizes)
        return rows

    def _values(self, observation: Array) -> Array:
        """Return Q [N, A] of observations [N, D]."""
        values: Array = self.q[:, self._rows(observation)].mean(axis=0)
        return values

    def _greedy(self, observation: Array) -> Array:
        best: Array = self._values(observation).argmax(axis=1)
        return best

    def _explore(self, observation: Array, epsilon: float, noise: np.random.Generator) -> Array:
        """Return actions [N] drawn from the epsilon-greedy policy: each game has a coin of its own."""
        thresholds = epsilon_greedy(self._values(observation), epsilon).cumsum(axis=1)
        coins = noise.random((len(observation), 1))
        drawn: Array = np.minimum((coins >= thresholds).sum(axis=1), self.actions - 1)
        return drawn

    def _update(self, t: Transition, next_action: int | None, coin: int, epsilon: float, rate: float) -> float:
        """Move the entry of one transition towards its target and return the error that it had."""
        updated, valuing = self.q[coin], self.q[-1 - coin]
        goal = tabular_target(
            self.config.target,
            t.reward,
            t.discount,
            valuing[t.next_state],
            q_selector=updated[t.next_state] if self.config.target == "double_q" else None,
            next_action=next_action,
            epsilon=epsilon,
        )
        error = goal - float(updated[t.state, t.action])
        updated[t.state, t.action] += rate * error
        self.updates += 1
        return error


def _sizes(spec: AgentSpec) -> tuple[int, ...]:
    """Return how many values each number of an observation can take."""
    envs = make_envs(spec.env, 1, spec.seed)
    sizes = np.tile(envs.frame_space.high + 1, spec.stack)
    envs.close()
    return tuple(int(size) for size in sizes)


def _tables(config: Config) -> int:
    return 2 if config.target == "double_q" else 1
