"""Run folders written by hand: quick to make, many or broken ones."""

import json
from pathlib import Path
from typing import Any

import tomli_w

from q2pi.algorithms.registry import default_config
from q2pi.config import override, to_table
from q2pi.envs.spec import EnvSpec

STEPS = 1_000
CONFIG = {"env_id": "CartPole-v1", "total_timesteps": STEPS, "learning_starts": 100, "buffer_size": 500}


def episode(step: int, episode_return: float) -> dict[str, Any]:
    entry = {"kind": "episode", "step": step, "return": episode_return, "length": 10, "env_index": 0}
    return entry | {"episode_index": step, "seed": 1}


def progress(step: int, **changes: Any) -> dict[str, Any]:
    seconds = {"act": step / 1_000, "learn": step / 500}
    row = {"kind": "train", "step": step, "loss": 1 / step, "updates": 3, "epsilon": 0.1, "seconds": seconds}
    return row | {"wall_seconds": step / 100, "train_seconds": step / 100} | changes


def evaluated(step: int, mean: float) -> dict[str, Any]:
    statistics = {"mean": mean, "mean_interval": [mean - 1, mean + 1]}
    return {"kind": "evaluation", "step": step, "statistics": statistics, "scores": [mean]}


def append(path: Path, *rows: dict[str, Any]) -> None:
    with (path / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def write_run(path: Path, *rows: dict[str, Any], checkpoint: int | None = STEPS, **options: Any) -> Path:
    """Write a run folder with rows, and with an empty folder for a checkpoint."""
    config = override(default_config("dqn"), CONFIG | options)
    assert isinstance(config.env, EnvSpec)
    path.mkdir(parents=True)
    (path / "config.toml").write_text(tomli_w.dumps(to_table(config)))
    append(path, *rows)
    evaluations = [row for row in rows if row["kind"] == "evaluation"]
    if evaluations:
        (path / "evaluation.json").write_text(json.dumps({"statistics": evaluations[-1]["statistics"]}))
    if checkpoint is not None:
        (path / "checkpoints" / f"{checkpoint:012d}").mkdir(parents=True)
    return path
