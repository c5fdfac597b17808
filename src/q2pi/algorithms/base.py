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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from q2pi.envs.spec import EnvSpec
from q2pi.envs.vector import Step
from q2pi.errors import UserError
from q2pi.types import Array, Metrics, State


@dataclass(frozen=True)
class AgentSpec:
    """The world an agent is built for."""

    env: EnvSpec
    """Resolved specification of the environment."""
    num_envs: int
    frame_shape: tuple[int, ...]
    frame_dtype: np.dtype[Any]
    stack: int
    observation_shape: tuple[int, ...]
    action_space: Any
    """The gymnasium space of one game's action."""
    total_timesteps: int
    """Agent steps, for schedules."""
    seed: int
    device: torch.device
    precision: str


class Agent(Protocol):
    """The two phases, sampling and training, of a learner.

    The loop calls, for each step of N games: `act`, then `learn` and `observe` in the order that `overlap` says:

        overlap = True    act, send, learn (while the emulators step), recv, observe
        overlap = False   act, send, recv, observe, learn

    Either way what `learn` reads depends on the counters alone, never on how fast an emulator was. `state` can be
    asked for before any `act`, so checkpoints need no alignment with rollouts or updates.
    """

    overlap: bool

    @property
    def evaluation_policy(self) -> str:
        """How `evaluation_act` chooses, in words, for the protocol of a score."""

    def begin(self, observation: Array) -> None:
        """Take in the first observations [N, ...] of a fresh run."""

    def act(self, observation: Array, step: int) -> Array:
        """Return training actions [N] for observations [N, ...] at agent step `step`, exploring as the method does."""

    def observe(self, action: Array, result: Step) -> None:
        """Take in one step of N games."""

    def learn(self, step: int) -> list[Metrics]:
        """Do the updates that are owed after `step` agent steps; one dict of scalars for each update."""

    def evaluation_act(self, observation: Array, noise: np.random.Generator) -> Array:
        """Return actions [N] as the method is judged, drawing what randomness that takes from `noise`."""

    def predict(
        self, observation: Array, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Array, None]:
        """Return (actions, None) as Stable-Baselines3's `predict` does, for one observation or a batch."""

    def networks(self) -> Mapping[str, torch.nn.Module]:
        """Return the trained networks by name."""

    def state(self) -> State:
        """Return everything that training has changed, as nested dicts of tensors, arrays and numbers."""

    def load(self, state: State) -> None:
        """Continue from what `state` returned; without its "replay", where it has one, the agent can act, not learn."""


def precision(spec: AgentSpec) -> torch.autocast:
    """Return the context in which networks compute: bf16 autocast where the run asks for it."""
    return torch.autocast(spec.device.type, dtype=torch.bfloat16, enabled=spec.precision == "bf16")


def refuse_tables(spec: AgentSpec, name: str) -> None:
    """Raise a UserError where observations are numbers of states, which a network would read as quantities."""
    if spec.frame_dtype == np.int64:
        raise UserError(f"--env-id {spec.env.env_id} shows numbers of states: {name} needs images or vectors")


def as_batch(observation: Array, shape: tuple[int, ...]) -> tuple[Array, bool]:
    """Return (observations [B, *shape], whether a single one was given), for `predict`.

    Images with the channels last, as Stable-Baselines3 stacks them, are turned to channels first.

    Raises:
        ValueError: the observation has neither this shape nor a batch of it.
    """
    array = np.asarray(observation)
    single = array.ndim == len(shape)
    batch = array[None] if single else array
    if batch.shape[1:] != shape and len(shape) == 3 and batch.ndim == 4:
        batch = np.moveaxis(batch, -1, 1)
    if batch.shape[1:] != shape:
        raise ValueError(f"observation of shape {array.shape}: expected {shape} or a batch of it")
    return np.ascontiguousarray(batch), single
