"""Learning from a rollout in shuffled minibatches: its options, their bounds, and short rollouts for timing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from q2pi.algorithms.configs.base import AlgorithmConfig
from q2pi.config import RunConfig
from q2pi.errors import UserError


@dataclass(frozen=True, kw_only=True)
class MinibatchConfig(AlgorithmConfig):
    """Options of rollouts and their minibatches."""

    num_steps: int = 128
    """Steps of each environment per rollout."""
    num_minibatches: int = 4
    """Number of minibatches per rollout, one update each."""
    update_epochs: int = 4
    """Number of passes over each rollout (epochs)."""

    AT_LEAST: ClassVar[Mapping[str, float]] = dict.fromkeys(("num_steps", "num_minibatches", "update_epochs"), 1)

    def check(self, run: RunConfig[Any]) -> None:
        super().check(run)
        rows = self.num_steps * run.num_envs
        if rows > run.total_timesteps:
            raise UserError(
                f"--num-steps {self.num_steps} of --num-envs {run.num_envs} environments are {rows} agent steps, "
                f"beyond --total-timesteps {run.total_timesteps}"
            )
        if rows % self.num_minibatches:
            raise UserError(
                f"--num-minibatches {self.num_minibatches} does not divide the {rows} agent steps of a rollout "
                f"(--num-steps {self.num_steps} x --num-envs {run.num_envs})"
            )

    def repaired(self, run: RunConfig[Any]) -> RunConfig[Any]:
        """Return the run with a rollout within the budget, and with minibatches, no more than given, that divide it."""
        steps = max(1, min(self.num_steps, run.total_timesteps // run.num_envs))
        parts = self.num_minibatches
        while parts > 1 and (steps * run.num_envs) % parts:
            parts -= 1
        return replace(run, hyper=replace(self, num_steps=steps, num_minibatches=parts))

    def updates_due(self, step: int, num_envs: int) -> int:
        return step // (self.num_steps * num_envs) * self.update_epochs * self.num_minibatches

    def gradient_batch(self, num_envs: int) -> int:
        return self.num_steps * num_envs // self.num_minibatches

    def timing_config(self, run: RunConfig[Any]) -> RunConfig[Any]:
        """Return a run with short rollouts and minibatches of the same size."""
        unit = math.gcd(self.num_steps, self.num_minibatches)
        steps, parts = self.num_steps // unit, self.num_minibatches // unit
        units = max(1, min(unit, run.total_timesteps // 4 // (steps * run.num_envs)))
        return replace(run, hyper=replace(self, num_steps=steps * units, num_minibatches=parts * units))
