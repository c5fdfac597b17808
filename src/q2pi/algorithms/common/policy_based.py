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

from typing import Any

import numpy as np
import torch

from q2pi.algorithms.base import AgentSpec, as_batch
from q2pi.algorithms.common.normalization import ObservationNormalizer
from q2pi.errors import UserError
from q2pi.types import Array


class PolicyAgent:
    """What agents that learn a policy share: playing it, judging it, and reading observations.

    A subclass has a `config` with `evaluation_deterministic` and `normalize_observations`, the `head` of its policy
    network, and `_policy`.
    """

    config: Any
    spec: AgentSpec
    head: Any
    observations: ObservationNormalizer | None

    @property
    def evaluation_policy(self) -> str:
        return "the policy's mode" if self.config.evaluation_deterministic else "drawn from the policy"

    def begin(self, observation: Array) -> None:
        pass

    def evaluation_act(self, observation: Array, noise: np.random.Generator) -> Array:
        return self._choose(observation, None if self.config.evaluation_deterministic else noise)

    def predict(
        self, observation: Array, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Array, None]:
        """Return (the policy's mode, None); with `deterministic=False`, actions drawn from the policy."""
        batch, single = as_batch(observation, self.spec.observation_shape)
        actions = self._choose(batch, None if deterministic else np.random.default_rng())
        return (actions[0] if single else actions), None

    def _policy(self, observation: Array) -> Any:
        """Return the distribution over actions at raw observations [B, ...]."""
        raise NotImplementedError

    def _choose(self, observation: Array, noise: np.random.Generator | None) -> Array:
        """Return actions [B] for the game: drawn with `noise`, or the policy's mode."""
        with torch.inference_mode():
            policy = self._policy(observation)
            return self._to_env_action(policy.mode() if noise is None else self.head.sample(policy, noise))

    def _to_env_action(self, action: torch.Tensor) -> Array:
        """Return actions [B] of the policy as the game takes them."""
        to_env_action: Array = self.head.to_env_action(action)
        return to_env_action

    def _tensor(self, observation: Array) -> torch.Tensor:
        """Return raw observations [B, ...] as the networks take them."""
        rows = observation if self.observations is None else self.observations(observation)
        return torch.from_numpy(rows).to(self.spec.device)


def observation_normalizer(wanted: bool, spec: AgentSpec) -> ObservationNormalizer | None:
    """Return running statistics of observations if they are `wanted`.

    Raises:
        UserError: the observations are images.
    """
    if wanted and len(spec.observation_shape) == 3:
        raise UserError("--normalize-observations is for vectors: images are divided by 255")
    return ObservationNormalizer(spec.observation_shape) if wanted else None
