"""Evaluations that a user asks for: under the run's own rules or others, stored in the run's folder `evaluations/`.

They are kept apart from the run's own score, which is in evaluation.json and metrics.jsonl and which reports read.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from q2pi.acceleration.threads import one_per_core
from q2pi.algorithms.base import Agent
from q2pi.config import from_table, to_table
from q2pi.envs.make import make_envs
from q2pi.envs.spec import EnvSpec, resolve
from q2pi.errors import UserError
from q2pi.evaluation.evaluate import Evaluation, evaluate
from q2pi.runs.files import write_atomically
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_agent
from q2pi.training.events import Diverged


@dataclass(frozen=True)
class Evaluated:
    """An evaluation of a run's newest checkpoint."""

    evaluation: Evaluation
    differences: dict[str, list[Any]]
    """Rule of the environment -> [in training, in this evaluation], if they differ."""
    warnings: list[str]
    """One line for each damaged checkpoint."""

    def report(self) -> dict[str, Any]:
        """Return the report of the evaluation, with its differences from training."""
        return self.evaluation.report() | {"differences": self.differences}


def evaluate_run(
    run: RunFolder,
    *,
    episodes: int,
    seed: int,
    rules: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Evaluated:
    """Evaluate a run's newest checkpoint on whole episodes with fixed seeds, in environments of its own.

    Args:
        run: the run's folder.
        episodes: number of whole episodes.
        seed: seed of the episodes and of the exploration.
        rules: options of the environment that replace the run's, see `other_env`.
        options: options of the run that are replaced, such as {"eval_epsilon": 0.0}.

    Raises:
        UserError: a wrong rule, or an environment whose spaces differ from those of training.
        Diverged: an action, a logit or a Q-value of the agent is NaN.
    """
    agent, config, step, warnings = load_agent(run, options)
    # Rounding depends on the number, and more threads than cores would wait for one another.
    torch.set_num_threads(min(config.threads, one_per_core()))
    spec = other_env(config.env, rules or {})
    if spec != config.env:
        _check_spaces(agent, spec)
    own, other = to_table(config.env), to_table(spec)
    names = [name for name in {**own, **other} if own.get(name) != other.get(name)]
    try:
        evaluation = evaluate(agent, spec, step=step, episodes=episodes, seed=seed)
    except FloatingPointError as problem:
        raise Diverged(f"{problem} in an evaluation of {run.path} at step {step:,}") from problem
    return Evaluated(evaluation, {name: [own.get(name), other.get(name)] for name in names}, warnings)


def other_env(own: EnvSpec, rules: Mapping[str, Any]) -> EnvSpec:
    """Return a resolved specification with some rules replaced.

    If the environment or the protocol changes, rules that had their defaults get the new defaults: a run under
    `machado` that is evaluated under `nature` has no sticky actions.

    Raises:
        UserError: an unknown rule or a wrong value.
    """
    base = own
    if rules.keys() & {"env_id", "protocol"}:
        default = resolve(EnvSpec(own.env_id, own.protocol))
        unset = EnvSpec(own.env_id, own.protocol)
        reset: dict[str, Any] = {
            name: getattr(unset, name) for name in to_table(own) if getattr(own, name) == getattr(default, name)
        }
        base = replace(own, **reset)
    return resolve(from_table(base, rules, "options"))


def _check_spaces(agent: Agent, spec: EnvSpec) -> None:
    """Raise a UserError if the agent cannot act in another environment."""
    trained = agent.spec
    with closing(make_envs(spec, 1, 0)) as envs:
        shapes = (envs.observation_shape, envs.frame_dtype, envs.action_space)
        is_table = envs.frame_dtype.kind == "i"
        same_table = not is_table or envs.frame_space == trained.frame_space
    if shapes != (trained.observation_shape, trained.frame_dtype, trained.action_space) or not same_table:
        raise UserError(
            f"--env-id {spec.env_id} has observations {shapes[0]} {shapes[1]} and actions {shapes[2]}: the run was "
            f"trained on {trained.env.env_id} with observations {trained.observation_shape} {trained.frame_dtype} and "
            f"actions {trained.action_space}{'' if same_table else ', and the tables have other sizes'}"
        )


def store(run: RunFolder, report: dict[str, Any]) -> Path:
    """Write the report of an evaluation into `evaluations/` and return the file; the same protocol has the same file.

    Raises:
        OSError: the folder cannot be written.
    """
    protocol = {name: value for name, value in report["protocol"].items() if name != "versions"}
    key = hashlib.sha256(json.dumps([report["step"], protocol], sort_keys=True).encode()).hexdigest()[:8]
    name = re.sub(r"[^\w.=+-]+", "-", protocol["env"]["env_id"])
    run.evaluations.mkdir(exist_ok=True)
    path = run.evaluations / f"{name}-step-{report['step']}-{key}.json"
    write_atomically(path, json.dumps(report, indent=1) + "\n")
    return path
