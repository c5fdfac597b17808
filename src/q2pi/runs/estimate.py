"""Estimate of a run before it starts: steps, frames, updates, memory and time."""

import dataclasses
import sys
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from q2pi.algorithms.build import agent_spec
from q2pi.algorithms.configs.base import AlgorithmConfig
from q2pi.config import ResolvedConfig, RunConfig, flag, to_table
from q2pi.envs.make import make_envs
from q2pi.envs.spec import is_atari
from q2pi.errors import UserError
from q2pi.evaluation.evaluate import NUM_ENVS
from q2pi.parallel.portable import peak_memory, psutil
from q2pi.runs import checkpoint
from q2pi.runs.cpu_usage import CpuMeter, CpuUsage
from q2pi.training.events import Checkpoint, Diverged, Progress
from q2pi.training.loop import run

TIMING_STEPS = 1_200
TIMING_SECONDS = 10.0


@dataclass(frozen=True)
class Estimate:
    """Work and memory of a run."""

    steps: int
    """Agent steps."""
    frames: int
    """Emulator frames: agent steps x frame skip."""
    updates: int
    """Gradient updates."""
    storage: int
    """Bytes of the algorithm's own storage at the end of the run."""
    memory_available: int
    """Bytes that are free on this machine now, plus the memory of this process."""


@dataclass(frozen=True)
class TimingRun:
    """Cost of a run, extrapolated from a short timing run."""

    seconds: float
    """Seconds of training; NaN if the timing run diverged or made no update."""
    rate: float
    """Agent steps per second at the end of the run, when it learns; NaN as `seconds`."""
    memory: int
    """Peak bytes of the process so far, without the storage of the timing run."""
    usage: CpuUsage
    """CPU usage during the timing run."""
    is_distorted: bool
    """Whether other programs used so much CPU time that `seconds` is too long."""


def estimate(config: ResolvedConfig[Any], is_elsewhere: bool = False) -> Estimate:
    """Return the work and memory of a run without training it.

    Args:
        config: the run.
        is_elsewhere: whether another machine trains it, so that this machine's memory does not bound it.

    Raises:
        UserError: a value out of its bounds, or a buffer that cannot fit in this machine's memory.
    """
    envs = make_envs(config.env, 1, config.seed)
    spec = dataclasses.replace(agent_spec(config, envs), num_envs=config.total_envs)
    envs.close()
    hyper: AlgorithmConfig = config.hyper
    hyper.check_spaces(spec)
    needed, free = hyper.storage_bytes(spec, sys.maxsize), psutil.virtual_memory().available
    if needed > free and not is_elsewhere:
        values = options_of(config)
        named = " with ".join(f"{flag(name)} {values[name]}" for name in hyper.STORAGE_OPTIONS)
        raise UserError(f"{named} needs {gigabytes(needed)}, more than the {gigabytes(free)} of free memory")
    return Estimate(
        steps=config.total_timesteps,
        frames=config.total_timesteps * (config.env.frame_skip or 1),
        updates=hyper.updates_due(config.total_timesteps, config.total_envs),
        storage=hyper.storage_bytes(spec, config.total_timesteps),
        memory_available=free + psutil.Process().memory_info().rss,
    )


def check_side_by_side(needs: Collection[Estimate], workers: int, runs: int) -> None:
    """Raise a UserError if `workers` processes with runs of the largest estimate do not fit in memory."""
    needed = max(map(process_memory, needs)) * min(workers, runs)
    free = min(need.memory_available for need in needs)
    if needed > free:
        raise UserError(
            f"--workers {workers} needs up to {gigabytes(needed)}, more than the {gigabytes(free)} of free memory"
        )


def process_memory(need: Estimate) -> int:
    """Return the bytes of memory of a process that trains a run: this process, which has the libraries, and storage."""
    memory: int = psutil.Process().memory_info().rss
    return memory + need.storage


def time_run(config: ResolvedConfig[Any]) -> TimingRun:
    """Return the time and memory of a run on this machine, extrapolated from a short run of the same loop.

    A step and an update are timed separately, because the steps before learning starts have no updates. The timing run
    ends early on a slow machine.
    """
    config = dataclasses.replace(config, actors=0)
    length = max(config.num_envs, min(TIMING_STEPS, config.total_timesteps))
    short = config.hyper.timing_config(dataclasses.replace(config, total_timesteps=length, evaluation_episodes=0))
    short = dataclasses.replace(short, log_frequency=max(1, length // 4), checkpoint_frequency=0)
    # Without these environments the peak would lack the memory of evaluations during training.
    # A run without evaluation makes none: of some simulators only one can exist at a time.
    count = min(NUM_ENVS, config.evaluation_episodes)
    evaluation_envs = make_envs(config.env, count, config.seed) if count else None
    if evaluation_envs is not None:
        evaluation_envs.reset()
    meter, rows = CpuMeter(), []
    deadline = time.perf_counter() + TIMING_SECONDS
    try:
        with tempfile.TemporaryDirectory() as folder:
            for event in run(short, stop=lambda: time.perf_counter() > deadline):
                if isinstance(event, Progress):
                    rows.append(event)
                elif isinstance(event, Checkpoint):  # writing it takes memory, which belongs to the peak
                    checkpoint.save(Path(folder), event.step, event.state)
        seconds, rate = _run_seconds(config, rows)
    except Diverged:
        seconds = rate = float("nan")
    finally:
        if evaluation_envs is not None:
            evaluation_envs.close()
    usage = meter.read()
    memory = peak_memory() - estimate(short).storage
    return TimingRun(seconds, rate, memory, usage, usage.is_distorting(busy_threads(config)))


def busy_threads(config: ResolvedConfig[Any]) -> int:
    """Return the number of busy threads: ALE has one per environment, torch has `threads`."""
    emulator_threads = config.num_envs if is_atari(config.env.env_id) else 1
    return max(emulator_threads, config.threads)


def _run_seconds(config: ResolvedConfig[Any], rows: list[Progress]) -> tuple[float, float]:
    """Return (seconds of a run, its agent steps per second in the second half) from the rows of its timing run.

    Both are NaN if updates are due and no row has updates.

    Seconds per step and per update are minima over rows: first calls and new emulators make other rows slower.
    """
    first_steps = [0, *(row.step for row in rows)]
    learning = [row.seconds.get("learn", 0.0) for row in rows]
    updates = [row.metrics.get("updates", 0.0) for row in rows]
    per_step = min(
        (sum(row.seconds.values()) - learn_seconds) / (row.step - first_step)
        for row, first_step, learn_seconds in zip(rows, first_steps[:-1], learning, strict=True)
    )
    per_update = min(
        (learn_seconds / count for learn_seconds, count in zip(learning, updates, strict=True) if count),
        default=float("nan"),
    )
    steps, half = config.total_timesteps, config.total_timesteps // 2
    due, due_before = (config.hyper.updates_due(step, config.num_envs) for step in (steps, half))

    def seconds(steps: int, updates: int) -> float:
        return steps * per_step + (updates * per_update if updates else 0.0)

    return seconds(steps, due), (steps - half) / seconds(steps - half, due - due_before)


def options_of(config: RunConfig[Any]) -> dict[str, Any]:
    """Return name -> value of every option of a run."""
    table = to_table(config)
    return {**table.pop("env"), **table.pop("hyper"), **table}


def gigabytes(count: int) -> str:
    """Return a byte count as text, in GB or MB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
