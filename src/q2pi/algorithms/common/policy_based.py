"""Acting with a stochastic policy, its evaluation, and normalised observations."""

from typing import Any

import numpy as np
import torch

from q2pi.algorithms.base import AgentSpec
from q2pi.algorithms.common.normalization import ObservationNormalizer
from q2pi.algorithms.common.prediction import Predictor
from q2pi.errors import UserError
from q2pi.types import Array, State


class PolicyAgent(Predictor):
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

    def predicted_actions(self, observation: Array, deterministic: bool) -> Array:
        """Return the policy's modes [B]; with `deterministic=False`, sampled actions."""
        return self._choose(observation, None if deterministic else np.random.default_rng())

    def policy_at(self, observation: Array) -> Any:
        """Return the distribution over actions at raw observations [B, ...]."""
        raise NotImplementedError

    def to_env_action(self, action: torch.Tensor) -> Array:
        """Return the policy's actions [B] converted for the environment."""
        env_action: Array = self.head.to_env_action(action)
        return env_action

    def load_observation_statistics(self, state: State) -> None:
        """Take over the statistics of observations from another agent's state.

        Raises:
            UserError: only one of the two agents normalises observations.
        """
        if (self.observations is None) != ("observations" not in state):
            words = ["does not normalise", "normalises"]
            other = words["observations" in state]
            raise UserError(
                f"it {other} observations, this run {words[self.observations is not None]} them: "
                "--normalize-observations must be the same"
            )
        if self.observations is not None:
            self.observations.load(state["observations"])

    def tensor(self, observation: Array) -> torch.Tensor:
        """Return raw observations [B, ...] as network input: on the device, normalised if the option is on."""
        rows = observation if self.observations is None else self.observations(observation)
        return torch.from_numpy(rows).to(self.spec.device)

    def state_value(self, inputs: torch.Tensor) -> torch.Tensor | None:
        """Return V(s) [B] of network inputs [B, ...], differentiable; None without a value network."""
        return None

    def _choose(self, observation: Array, noise: np.random.Generator | None) -> Array:
        """Return actions [B] for the environment: sampled with `noise`, or the policy's mode."""
        with torch.inference_mode():
            policy = self.policy_at(observation)
            return self.to_env_action(policy.mode() if noise is None else self.head.sample(policy, noise))


def _normalizer(enabled: bool, spec: AgentSpec) -> ObservationNormalizer | None:
    if not enabled:
        return None
    if not any(part.kind == "vector" for part in spec.layout.parts):
        raise UserError("--normalize-observations is for vectors: images are scaled, and indices are one-hot")
    is_vector = len(spec.layout.parts) == 1
    return ObservationNormalizer(spec.observation_shape, None if is_vector else spec.layout.vector_entries())
