"""Where the steps of the training loop come from: environments in the loop's process, or actors elsewhere.

The loop calls, for each step of N environments: `act`, `send`, `recv`, and the agent's `observe` and `learn`.
"""

from typing import Any, Protocol

from q2pi.algorithms.base import Agent
from q2pi.algorithms.registry import build_agent, restore
from q2pi.config import ResolvedConfig
from q2pi.envs import make_envs
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

    def start(self, state: State | None) -> tuple[Agent, int, str]:
        """Return (the learner, its agent step, what to say of the environment), new or from a checkpoint's state.

        Raises:
            UserError: the algorithm does not support the environment, or another version wrote the state.
        """

    def act(self, agent: Agent, step: int) -> None:
        """Choose the actions of the next step; `step` is the agent step."""

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
        self.action: Array | None = None

    def start(self, state: State | None) -> tuple[Agent, int, str]:
        agent = build_agent(self.config, self.envs)
        if state is None:
            notice = "" if self.envs.check_reproducible() else NOT_REPRODUCIBLE
            agent.begin(self.envs.reset())
            return agent, 0, notice
        continues = self.envs.load(state["envs"])
        restore(agent, state)
        if not continues:
            agent.cut_episodes(self.envs.observation)
        return agent, state["step"], "" if continues else NEW_EPISODES

    def act(self, agent: Agent, step: int) -> None:
        self.action = agent.act(self.envs.observation, step)

    def send(self) -> None:
        assert self.action is not None
        self.envs.send(self.action)

    def recv(self) -> tuple[Array, Step]:
        assert self.action is not None
        return self.action, self.envs.recv()

    def state(self) -> State:
        return {"envs": self.envs.state()}

    def close(self) -> None:
        self.envs.close()
