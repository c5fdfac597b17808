"""Where the steps of the training loop come from: environments in the loop's process, or actors elsewhere.

The loop calls, for each step of N environments: `act`, `send`, `recv`, and the agent's `observe` and `learn`.
"""

from typing import Any, Protocol

from q2pi.algorithms.base import Agent
from q2pi.algorithms.build import build_agent, restore, start_from
from q2pi.config import ResolvedConfig
from q2pi.envs.make import make_envs
from q2pi.envs.vector import Step
from q2pi.errors import UserError
from q2pi.types import Array, State

NOT_REPRODUCIBLE = (
    "is not reproducible: episodes with the same seed and actions differ (are there random numbers that do not follow "
    "reset(seed)?). It can be trained; a resumed run begins new episodes, and no video of an episode can be made"
)
NEW_EPISODES = (
    "is not reproducible, so the episodes in progress cannot be restored: new ones begin, and the run is no longer "
    "exactly what it would have been without the interruption"
)


class Source(Protocol):
    """Steps of N environments at a time."""

    @property
    def largest_reward(self) -> float:
        """Largest absolute reward so far."""

    def start(self, state: State | None, weights: State | None = None) -> tuple[Agent, int, str]:
        """Return (the learner, its agent step, what to say of the environment), new or from a checkpoint's state.

        Args:
            state: of a checkpoint; None starts a new run.
            weights: state of an agent; a new run starts from its weights.

        Raises:
            UserError: the algorithm does not support the environment, or another version wrote the state.
        """

    def act(self, agent: Agent, step: int) -> None:
        """Choose the actions of the next step, unless they are chosen; `step` is the agent step."""

    def finish(self, agent: Agent, step: int) -> None:
        """Prepare an extension of the run, after its last step and before its last updates."""

    def send(self) -> None:
        """Start the next step."""

    def recv(self) -> tuple[Array, Step]:
        """Wait for the step; return its actions [N] and its results."""

    def state(self) -> State:
        """Return the part of a checkpoint that is not the learner's."""

    def close(self) -> None:
        """Free the environments."""


class Environments:
    """A `Source`: `config.num_envs` environments in this process, in which the learner itself acts.

    Raises:
        UserError: the run has actors, which need a cluster.
    """

    def __init__(self, config: ResolvedConfig[Any]) -> None:
        if config.actors:
            raise UserError(f"--actors {config.actors} needs a cluster: name it with --ray, or --ray local")
        self.config = config
        self.envs = make_envs(config.env, config.num_envs, config.seed)
        self.agent: Agent
        self.action: Array | None = None
        """[N] actions of the next step if they are chosen."""

    @property
    def largest_reward(self) -> float:
        return self.envs.largest_reward

    def start(self, state: State | None, weights: State | None = None) -> tuple[Agent, int, str]:
        self.agent = agent = build_agent(self.config, self.envs)
        if state is None:
            if weights is not None:
                start_from(agent, weights, str(self.config.from_run))
            notice = "" if self.envs.check_reproducible() else NOT_REPRODUCIBLE
            agent.begin(self.envs.reset())
            return agent, 0, notice
        continues = self.envs.load(state["envs"])
        restore(agent, state)
        if not continues:
            agent.cut_episodes(self.envs.observation)
            return agent, state["step"], NEW_EPISODES
        self.action = state.get("action")
        return agent, state["step"], ""

    def act(self, agent: Agent, step: int) -> None:
        if self.action is None:
            self.action = agent.act(self.envs.observation, step)

    def finish(self, agent: Agent, step: int) -> None:
        # If the run is extended, its next action must be that of the weights before the last updates, as in a run with
        # the larger budget from the start.
        self.act(agent, step)

    def send(self) -> None:
        assert self.action is not None
        self.envs.send(self.action)

    def recv(self) -> tuple[Array, Step]:
        assert self.action is not None
        result = self.envs.recv()
        action, self.action = self.action, None
        return action, result

    def state(self) -> State:
        # An agent whose updates do not overlap with the environments keeps more than the action when it acts, so it
        # acts again.
        pending = {} if self.action is None or not self.agent.overlap else {"action": self.action}
        return {"envs": self.envs.state(), **pending}

    def close(self) -> None:
        self.envs.close()
