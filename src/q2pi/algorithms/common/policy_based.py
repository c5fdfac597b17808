"""Acting with a stochastic policy, its evaluation, and normalised observations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from q2pi.algorithms.base import AgentSpec, AlgorithmConfig, as_batch
from q2pi.algorithms.common.normalization import ObservationNormalizer
from q2pi.errors import UserError
from q2pi.types import Array


@dataclass(frozen=True, kw_only=True)
class PolicyConfig(AlgorithmConfig):
    """Options of a policy."""

    normalize_observations: bool = False
    """Normalisation of observation vectors by running mean and standard deviation."""
    squash: bool = False
    """Box actions: tanh squashing into the bounds; without it actions are clipped on their way to the environment."""
    log_std: float = 0.0
    """Box actions: logarithm of the initial standard deviation."""
    hidden: tuple[int, ...] = (64, 64)
    """Units of the hidden layers for vector observations (images use the Nature torso)."""
    evaluation_deterministic: bool = True
    """Evaluation with the policy's mode; if off, actions are sampled."""

    ACTIONS: ClassVar[str] = "Discrete, MultiDiscrete, MultiBinary, Box"
    AT_LEAST: ClassVar[Mapping[str, float]] = {"hidden": 1}
    WITHIN: ClassVar[Mapping[str, tuple[float, float]]] = {"log_std": (-20, 5)}


class PolicyAgent:
    """Base class of agents that learn a policy. A subclass has the `head` of its policy network and `policy`."""

    config: Any
    head: Any

    def __init__(self, config: Any, spec: AgentSpec) -> None:
        self.config, self.spec = config, spec
        self.observations = _normalizer(config.normalize_observations, spec)

    @property
    def evaluation_policy(self) -> str:
        return "the policy's mode" if self.config.evaluation_deterministic else "sampled from the policy"

    def begin(self, observation: Array) -> None:
        pass

    def evaluation_act(self, observation: Array, noise: np.random.Generator) -> Array:
        return self._choose(observation, None if self.config.evaluation_deterministic else noise)

    def predict(
        self, observation: Array, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Array, None]:
        """Return (the policy's mode, None); with `deterministic=False`, sampled actions."""
        batch, single = as_batch(observation, self.spec.observation_shape)
        actions = self._choose(batch, None if deterministic else np.random.default_rng())
        return (actions[0] if single else actions), None

    def policy_at(self, observation: Array) -> Any:
        """Return the distribution over actions at raw observations [B, ...]."""
        raise NotImplementedError

    def to_env_action(self, action: torch.Tensor) -> Array:
        """Return the policy's actions [B] converted for the environment."""
        env_action: Array = self.head.to_env_action(action)
        return env_action

    def tensor(self, observation: Array) -> torch.Tensor:
        """Return raw observations [B, ...] as network input: on the device, normalised if the option is on."""
        rows = observation if self.observations is None else self.observations(observation)
        return torch.from_numpy(rows).to(self.spec.device)

    def _choose(self, observation: Array, noise: np.random.Generator | None) -> Array:
        """Return actions [B] for the environment: sampled with `noise`, or the policy's mode."""
        with torch.inference_mode():
            policy = self.policy_at(observation)
            return self.to_env_action(policy.mode() if noise is None else self.head.sample(policy, noise))


def _normalizer(enabled: bool, spec: AgentSpec) -> ObservationNormalizer | None:
    if enabled and len(spec.observation_shape) == 3:
        raise UserError("--normalize-observations is for vectors: images are divided by 255")
    return ObservationNormalizer(spec.observation_shape) if enabled else None
