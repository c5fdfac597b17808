"""Finished runs for tests of reports: a final evaluation and a training curve with times."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from q2pi.algorithms.registry import default_config
from q2pi.config import RunConfig, override
from q2pi.envs.spec import resolve
from q2pi.runs.folder import RunFolder


def finished_run(
    path: Path,
    score: float,
    *,
    algorithm: str = "dqn",
    policy: str = "epsilon-greedy, epsilon 0.001",
    curve: Sequence[tuple[int, float]] = ((500, 1.0), (1_000, 2.0)),
    seconds_per_step: float = 0.01,
    reached: int | None = None,
    base: RunConfig[Any] | None = None,
    **options: Any,
) -> RunFolder:
    """Write a run of 1,000 agent steps, or of the budget of `base`, whose newest evaluation has mean `score`.

    The evaluation is at step `reached`, by default at the end.
    """
    defaults = {"total_timesteps": 1_000, "env_id": "CartPole-v1"} if base is None else {}
    config = override(base or default_config(algorithm), defaults | options)
    reached = reached or max(config.total_timesteps, 1_000)
    config = dataclasses.replace(config, env=resolve(config.env))
    run = RunFolder.create(path, config)
    rows: list[dict[str, Any]] = [{"kind": "episode", "step": step, "return": value} for step, value in curve]
    half, whole = reached // 2, reached - reached // 2
    rows.append({"kind": "train", "step": half, "train_seconds": half * seconds_per_step, "wall_seconds": 0.0})
    statistics = {"n": 30, "mean": score, "mean_interval": [score, score]}
    rows.append({"kind": "evaluation", "step": reached, "statistics": statistics, "scores": []})
    rows.append({"kind": "train", "step": reached, "train_seconds": whole * seconds_per_step, "wall_seconds": 0.0})
    run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run.evaluation_file.write_text(json.dumps({"step": reached, "protocol": {"policy": policy}}))
    return run
