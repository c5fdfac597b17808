"""Base class of hyperparameters; the files of this package import no torch, so that options are read fast."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from q2pi.algorithms.common.search_space import Space
from q2pi.config import RunConfig, at_least, within
from q2pi.equations.schedules import linear
from q2pi.errors import UserError
from q2pi.networks.action_spaces import kind_of, serves
from q2pi.networks.options import Network, misfit

if TYPE_CHECKING:
    from q2pi.algorithms.base import AgentSpec

Own = TypeVar("Own", bound="AlgorithmConfig")


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig:
    """Hyperparameters, and the methods through which generic code uses them; subclasses override the defaults."""

    OBSERVATIONS: ClassVar[str] = "images, vectors"
    """Supported observations, in words."""
    ACTIONS: ClassVar[str] = "Discrete"
    """Supported action spaces, of `networks.action_spaces.SPACES`, separated by ", "."""
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

    def check_spaces(self, spec: "AgentSpec") -> None:
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

    def storage_bytes(self, spec: "AgentSpec", steps: int) -> int:
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

    def for_actor(self: Own, index: int, run: "RunConfig[Any]") -> Own:
        """Return the hyperparameters with which actor `index` of the run's actors acts."""
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
    def options_without_effect(cls, hyper: Mapping[str, Any]) -> frozenset[str]:
        """Return the names of the hyperparameters that change nothing beside these values; labels leave them out."""
        return frozenset()

    @classmethod
    def _bounds(cls, name: str) -> dict[str, Any]:
        """Return a table of bounds merged with the tables of the base classes."""
        bounds: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            bounds |= vars(base).get(name, {})
        return bounds


def observation_bytes(spec: "AgentSpec") -> int:
    """Return the bytes of one stacked observation."""
    return math.prod(spec.observation_shape) * spec.frame_dtype.itemsize
