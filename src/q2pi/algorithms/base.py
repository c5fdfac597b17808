"""The contract between an algorithm's file and the generic code: `Agent` and what an agent is built from.

An algorithm NAME is two modules of this package:

    configs/NAME.py    Config: frozen dataclass, a subclass of `AlgorithmConfig`, hyperparameters with a docstring each
    NAME.py            Agent: class built as Agent(config, spec), see the protocol `Agent` below

Generic code never looks for a hyperparameter by its name: it calls the methods of `AlgorithmConfig`. Hyperparameters
have a module of their own because it imports no torch: a command line is refused in a tenth of the time.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch

from q2pi.envs.layout import Layout, Part, plain_part
from q2pi.envs.spec import EnvSpec
from q2pi.envs.vector import Step
from q2pi.equations.schedules import linear
from q2pi.networks.initialisation import seeded
from q2pi.rng import Stream, stream
from q2pi.types import Array, Metrics, State

if TYPE_CHECKING:
    from q2pi.algorithms.common.actor_priorities import ActorPriorities
    from q2pi.envs.observations import ObservationReader

Module = TypeVar("Module", bound=torch.nn.Module)


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

    def stream(self, name: str) -> Stream:
        """Return the run's random stream `name` for code that needs a generator in every step."""
        return Stream(self.seed, name)

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

    def actor_priorities(self) -> "ActorPriorities | None":
        """Return what computes initial priorities on an actor; None if replay is not prioritized."""


def to_metrics(scalars: list[dict[str, torch.Tensor]]) -> list[Metrics]:
    """Return scalars [] by name as numbers, with one device-to-host sync for all updates."""
    if not scalars:
        return []
    if next(iter(scalars[0].values())).device.type == "cpu":  # no sync to save, and stacking takes three times as long
        return [{name: value.item() for name, value in row.items()} for row in scalars]
    names = list(scalars[0])
    table = torch.stack([torch.stack([row[name].detach() for name in names]) for row in scalars])
    return [dict(zip(names, values, strict=True)) for values in table.tolist()]
