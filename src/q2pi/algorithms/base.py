"""The contract between an algorithm's file and the generic code: `Config`, `Agent` and what an agent is built from.

An algorithm is a module of this package that holds

    Config     frozen dataclass, a subclass of `AlgorithmConfig`: hyperparameters, each with a docstring
    Agent      class built as Agent(config, spec), see the protocol `Agent` below

Generic code never looks for a hyperparameter by its name: it calls the methods of `AlgorithmConfig`.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch

from q2pi.algorithms.common.search_space import Space
from q2pi.config import RunConfig, at_least, within
from q2pi.envs.layout import Layout, Part, plain_part
from q2pi.envs.spec import EnvSpec
from q2pi.envs.vector import Step
from q2pi.equations.schedules import linear
from q2pi.errors import UserError
from q2pi.networks.initialisation import seeded
from q2pi.networks.policy import kind_of, serves
from q2pi.networks.torsos import Network, misfit
from q2pi.rng import stream
from q2pi.types import Array, Metrics, State

if TYPE_CHECKING:
    from q2pi.envs.observations import ObservationReader

Module = TypeVar("Module", bound=torch.nn.Module)
Own = TypeVar("Own", bound="AlgorithmConfig")


@dataclass(frozen=True)
class AgentSpec:
    """What an agent needs to know about its environment and its run."""

    env: EnvSpec
    """Resolved specification of the environment."""
    num_envs: int
    frame_space: Any
    """The gymnasium Box of one frame (or vector, or row of table indices)."""
    stack: int
    """Frames per observation."""
    action_space: Any
    """The gymnasium space of one environment's action."""
    total_timesteps: int
    """Budget in agent steps, for schedules."""
    seed: int
    device: torch.device
    precision: str
    """fp32 or bf16."""
    parts: tuple[Part, ...] = ()
    """What one frame consists of; empty for one image of bytes, one vector or one row of indices."""
    observation_space: Any = None
    """The gymnasium space of what the environment returns; None if it is not known, as for Atari games."""

    @property
    def layout(self) -> Layout:
        """The parts of one stacked observation, for networks."""
        return Layout(self.parts or (plain_part(self.frame_space),), self.stack)

    @cached_property
    def reader(self) -> "ObservationReader | None":
        """Turns what the environment returns into frames; None if its space is not known."""
        if self.observation_space is None:
            return None
        from q2pi.envs.observations import ObservationReader  # loads Gymnasium

        return ObservationReader(self.env, self.observation_space, self.layout.mask_size)

    @property
    def frame_shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.frame_space.shape
        return shape

    @property
    def frame_dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self.frame_space.dtype)
        return dtype

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one stacked observation: stacks are concatenated along the frame's first axis."""
        first, *rest = self.frame_shape
        return (self.stack * first, *rest)

    def rng(self, name: str, *counters: int) -> np.random.Generator:
        """Return the run's random stream `name` at up to three counters, see `q2pi.rng.stream`."""
        return stream(self.seed, name, *counters)

    def build(self, build: Callable[[], Module], name: str) -> Module:
        """Return `build()` on the device, with initial weights from the run's random stream `name`."""
        return seeded(build, self.seed, name).to(self.device)

    def linear(self, start: float, end: float, fraction: float, step: int) -> float:
        """Return the value at agent step `step` of a linear schedule over a share of the budget."""
        return linear(start, end, fraction, self.total_timesteps, step)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which networks compute: bf16 autocast if the run's precision is bf16."""
        if self.precision == "fp32":
            return nullcontext()  # entering a disabled autocast costs a tenth of a small network's forward pass
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig:
    """Hyperparameters, and the methods through which generic code uses them; subclasses override the defaults."""

    OBSERVATIONS: ClassVar[str] = "images, vectors"
    """Supported observations, in words."""
    ACTIONS: ClassVar[str] = "Discrete"
    """Supported action spaces, of `networks.policy.SPACES`, separated by ", "."""
    ACTION_MASKS: ClassVar[bool] = True
    """Whether masked actions are never taken and never in a target; else masks are not read."""
    SPACE: ClassVar[Space] = {}
    """Option -> range that `q2pi tune` searches; an option is a field, or `num_envs`."""
    AT_LEAST: ClassVar[Mapping[str, float]] = {}
    """Option -> its least value."""
    WITHIN: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Option -> its least and its greatest value."""
    REWARD_OPTIONS: ClassVar[tuple[str, ...]] = ()
    """Flags that make rewards smaller for learning, besides --clip-rewards."""
    STORAGE_OPTIONS: ClassVar[tuple[str, ...]] = ("num_envs",)
    """Options to name if the agent's storage does not fit in memory."""
    HAS_ACTORS: ClassVar[bool] = False
    """Whether actors elsewhere may collect with slightly old weights: the agent is an `ActorAgent`."""

    def check(self, run: RunConfig[Any]) -> None:
        """Raise a UserError for the first hyperparameter that is out of its bounds."""
        for name, bound in self._bounds("AT_LEAST").items():
            at_least(self, bound, name)
        for name, (low, high) in self._bounds("WITHIN").items():
            within(self, low, high, name)

    def repaired(self, run: RunConfig[Any]) -> RunConfig[Any]:
        """Return the nearest run whose options are compatible; a tuner samples each option independently."""
        return run

    def resolved(self: Own, run: RunConfig[Any]) -> Own:
        """Return the hyperparameters with `auto` values resolved for this machine."""
        return self

    def check_spaces(self, spec: AgentSpec) -> None:
        """Raise a UserError if the algorithm does not support the environment's spaces."""
        env_id, name = spec.env.env_id, self.algorithm
        kinds = self.ACTIONS.split(", ")
        if kind_of(spec.action_space) not in kinds or not serves(spec.action_space):
            needed = "a Discrete action space" if len(kinds) == 1 else f"{', '.join(kinds[:-1])} or {kinds[-1]} actions"
            raise UserError(f"--env-id {env_id} has actions {spec.action_space}: {name} needs {needed}")
        problem = misfit(spec.layout, self.image_network)
        if problem is not None:
            raise UserError(f"--env-id {env_id} has {problem}")

    def updates_due(self, step: int, num_envs: int) -> int:
        """Return the number of gradient updates due after `step` agent steps."""
        raise NotImplementedError

    def storage_bytes(self, spec: AgentSpec, steps: int) -> int:
        """Return the bytes of the agent's own storage after `steps` agent steps."""
        raise NotImplementedError

    def gradient_batch(self, num_envs: int) -> int:
        """Return about the number of observations in the batch of a gradient, with which threads are timed."""
        return 32

    def timing_config(self, run: RunConfig[Any]) -> RunConfig[Any]:
        """Return a short run with the same work per step and per update, for timing."""
        return run

    def schedules(self, step: int, total_timesteps: int) -> dict[str, float]:
        """Return name -> value at agent step `step` of each schedule in use that depends on the budget."""
        return {}

    @staticmethod
    def decayed(value: float, step: int, total_timesteps: int) -> float:
        """Return `value` at agent step `step` of its linear decay to 0 over the budget."""
        return linear(value, 0.0, 1.0, total_timesteps, step)

    def extended(self: Own, budget: int, new_budget: int) -> Own:
        """Return the hyperparameters of a run whose budget is extended, in agent steps.

        A schedule of exploration keeps its length in agent steps, so an agent that has stopped exploring does not begin
        again; every other schedule follows the new budget.
        """
        return self

    def for_actor(self: Own, index: int, actors: int) -> Own:
        """Return the hyperparameters with which actor `index` of `actors` acts."""
        return self

    def ablations(self: Own) -> dict[str, Own]:
        """Return configurations by name: all, no SWITCH and only SWITCH for each switch, none; {} without switches."""
        return {}

    @property
    def image_network(self) -> Network:
        """The torso for images, whose precision is measured before a run."""
        return "auto"

    @property
    def storage_note(self) -> str:
        """How the storage keeps its data, in words, or ""."""
        return ""

    @property
    def method(self) -> str:
        """The method that these hyperparameters train, in words, for the table that a run prints first."""
        return self.algorithm

    @property
    def algorithm(self) -> str:
        """Name of the algorithm: its file."""
        return type(self).__module__.rpartition(".")[2]

    @classmethod
    def _bounds(cls, name: str) -> dict[str, Any]:
        """Return a table of bounds merged with the tables of the base classes."""
        bounds: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            bounds |= vars(base).get(name, {})
        return bounds


class Agent(Protocol):
    """A learner with two phases, sampling and training.

    For each step of N environments the loop calls `act`, then `learn` and `observe` in the order given by `overlap`:

        overlap = True    act, send, learn (while the emulators step), recv, observe
        overlap = False   act, send, recv, observe, learn

    The data of `learn` depends only on counters, never on the speed of an emulator. `state` may be called before any
    `act`, so checkpoints need no alignment with rollouts or updates.
    """

    overlap: bool
    spec: AgentSpec

    @property
    def evaluation_policy(self) -> str:
        """How `evaluation_act` chooses actions, in words, for the protocol of a score."""

    def begin(self, observation: Array) -> None:
        """Receive the first observations [N, ...] of a new run."""

    def cut_episodes(self, observation: Array) -> None:
        """Receive the first observations [N, ...] of new episodes in place of those in progress, which are lost.

        Called after `load`, if the environments cannot be restored. No transition may join two episodes.
        """

    def act(self, observation: Array, step: int) -> Array:
        """Return training actions [N] for observations [N, ...] at agent step `step`, with exploration."""

    def observe(self, action: Array, step: Step) -> None:
        """Store one step of N environments."""

    def learn(self, step: int) -> list[Metrics]:
        """Make the updates that are due after `step` agent steps; return one dict of scalars for each update."""

    def evaluation_act(self, observation: Array, noise: np.random.Generator) -> Array:
        """Return the evaluation policy's actions [N]; `noise` is its only source of randomness."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[Array, Array | None]:
        """Return (actions, state) as Stable-Baselines3's `predict` does, for one observation or a batch.

        The arguments are those of `common.prediction.network_input`; the state is None unless frames are stacked here.
        """

    def networks(self) -> Mapping[str, torch.nn.Module]:
        """Return the trained networks by name."""

    def state(self) -> State:
        """Return everything that training has changed, as nested dicts of tensors, arrays and numbers."""

    def load_weights(self, state: State) -> None:
        """Take over the networks and the statistics of normalisation of another agent's `state`, and nothing else.

        Raises:
            UserError: the other agent has other statistics or a table of another shape.
        """

    def load(self, state: State) -> None:
        """Restore what `state` returned; without its "replay" the agent can act, not learn."""


class ActorAgent(Agent, Protocol):
    """A learner whose steps may come from actors, which own a part of the environments each."""

    @property
    def acting_network(self) -> torch.nn.Module:
        """The network that chooses actions."""

    def begin(self, observation: Array, env_indices: Array | None = None) -> None:
        """Receive the first observations [n, ...] of environments `env_indices` [n], by default of all.

        An unfinished episode of these environments is cut, as if it were truncated: its actor was lost.
        """


def to_metrics(scalars: list[dict[str, torch.Tensor]]) -> list[Metrics]:
    """Return scalars [] by name as numbers, with one device-to-host sync for all updates."""
    if not scalars:
        return []
    names = list(scalars[0])
    table = torch.stack([torch.stack([row[name].detach() for name in names]) for row in scalars])
    return [dict(zip(names, values, strict=True)) for values in table.tolist()]


def observation_bytes(spec: AgentSpec) -> int:
    """Return the bytes of one stacked observation."""
    return math.prod(spec.observation_shape) * spec.frame_dtype.itemsize
