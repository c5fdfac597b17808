"""What a run will take, said before it starts: steps, frames, updates, memory and time."""

import dataclasses
import resource
import sys
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from q2pi.algorithms.base import AlgorithmConfig
from q2pi.algorithms.registry import agent_spec
from q2pi.config import ResolvedConfig, RunConfig, flag, to_table
from q2pi.envs import make_envs
from q2pi.errors import UserError
from q2pi.evaluation.evaluate import NUM_ENVS
from q2pi.runs import checkpoint
from q2pi.training.events import Checkpoint, Diverged, Progress
from q2pi.training.loop import run

TIMING_STEPS = 1_200
TIMING_SECONDS = 10.0


@dataclass(frozen=True)
class Estimate:
    """The needs of a run."""

    steps: int
    """Agent steps."""
    frames: int
    """Emulator frames: agent steps x frame skip."""
    updates: int
    """Gradient updates."""
    storage: int
    """Bytes of the algorithm's own storage when the budget is spent."""
    memory_available: int
    """Bytes free on this machine now, this process included."""


@dataclass(frozen=True)
class TimingRun:
    """What a short run with the same work tells of a long one."""

    seconds: float
    """Seconds of training expected; NaN where there is no telling."""
    memory: int
    """Peak bytes of the process so far, without the trial's own storage."""


def estimate(config: ResolvedConfig[Any]) -> Estimate:
    """Return the needs of a run without training it.

    Raises:
        UserError: a value out of its bounds, or a buffer that cannot fit in this machine's memory.
    """
    envs = make_envs(config.env, 1, config.seed)
    spec = dataclasses.replace(agent_spec(config, envs), num_envs=config.num_envs)
    envs.close()
    hyper: AlgorithmConfig = config.hyper
    hyper.check_spaces(spec)
    needed, free = hyper.storage_bytes(spec, sys.maxsize), psutil.virtual_memory().available
    if needed > free:
        options = _options(config)
        named = " with ".join(f"{flag(name)} {options[name]}" for name in hyper.STORAGE_OPTIONS)
        raise UserError(
            f"{named} needs {gigabytes(needed)}, more than the {gigabytes(free)} of memory that are free here"
        )
    return Estimate(
        steps=config.total_timesteps,
        frames=config.total_timesteps * (config.env.frame_skip or 1),
        updates=hyper.updates_due(config.total_timesteps, config.num_envs),
        storage=hyper.storage_bytes(spec, config.total_timesteps),
        memory_available=free + psutil.Process().memory_info().rss,
    )


def check_side_by_side(needs: Collection[Estimate], workers: int, runs: int) -> None:
    """Raise a UserError where `workers` on `runs` in all, each with the largest of them, do not fit in memory."""
    process = psutil.Process().memory_info().rss
    needed = (process + max(need.storage for need in needs)) * min(workers, runs)
    free = min(need.memory_available for need in needs)
    if needed > free:
        raise UserError(
            f"--workers {workers} needs up to {gigabytes(needed)}, "
            f"more than the {gigabytes(free)} of memory that are free here"
        )


def peak_memory() -> int:
    """Return the most bytes of memory that this process has had at once."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def time_run(config: ResolvedConfig[Any]) -> TimingRun:
    """Return the time and memory expected on this machine, from a short trial of the same loop.

    The trial measures the cost of a step and of an update apart, so the time before learning starts counts too; it is
    cut short on a slow machine. Where it diverges, or comes to no update, there is no telling: NaN.
    """
    length = max(config.num_envs, min(TIMING_STEPS, config.total_timesteps))
    short = config.hyper.timing_config(dataclasses.replace(config, total_timesteps=length, evaluation_episodes=0))
    short = dataclasses.replace(short, log_frequency=max(1, length // 4), checkpoint_frequency=0)
    # The environments of an evaluation exist beside those of training, and count for the peak of memory.
    beside = make_envs(config.env, max(1, min(NUM_ENVS, config.evaluation_episodes)), config.seed)
    beside.reset()
    deadline = time.perf_counter() + TIMING_SECONDS
    rows = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for event in run(short, stop=lambda: time.perf_counter() > deadline):
                if isinstance(event, Progress):
                    rows.append(event)
                elif isinstance(event, Checkpoint):  # written for the memory that this takes
                    checkpoint.save(Path(folder), event.step, event.state)
        seconds = _seconds(config, rows)
    except Diverged:
        seconds = float("nan")
    finally:
        beside.close()
    return TimingRun(seconds, peak_memory() - estimate(short).storage)


def _seconds(config: ResolvedConfig[Any], rows: list[Progress]) -> float:
    """Return the seconds that a run takes from the rows of its trial, each part by the row in which it was quickest.

    What makes the others slower is of the start: first calls, and emulators that are built for the next episodes.
    """
    begins = [0, *(row.step for row in rows)]
    learning = [row.seconds.get("learn", 0.0) for row in rows]
    updates = [row.metrics.get("updates", 0.0) for row in rows]
    acting = min(
        (sum(row.seconds.values()) - learned) / (row.step - begin)
        for row, begin, learned in zip(rows, begins[:-1], learning, strict=True)
    )
    per_update = min(
        (learned / count for learned, count in zip(learning, updates, strict=True) if count), default=float("nan")
    )
    due = config.hyper.updates_due(config.total_timesteps, config.num_envs)
    return config.total_timesteps * acting + (due * per_update if due else 0.0)


def _options(config: RunConfig[Any]) -> dict[str, Any]:
    table = to_table(config)
    return {**table.pop("env"), **table.pop("hyper"), **table}


def gigabytes(count: int) -> str:
    """Return a byte count for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
