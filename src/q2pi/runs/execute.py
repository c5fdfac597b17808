"""Executing a run: train, resume, sweep, tune and the Python interface all call `execute`.

    execute(config, folder, sinks=[sink])

starts a new run, continues an interrupted run bit for bit from its newest checkpoint, or does nothing if the run is
finished. It can be called again at any time.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from q2pi.acceleration.device import device_of
from q2pi.algorithms.registry import default_config
from q2pi.config import ResolvedConfig, from_table, resolve, to_table
from q2pi.envs.errors import EnvError
from q2pi.errors import UserError
from q2pi.evaluation.evaluate import time_limit_notice
from q2pi.parallel.executor import Emit, Job, Message, Stop, never
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint
from q2pi.runs.manifest import steps
from q2pi.runs.recorder import Recorder
from q2pi.runs.sinks import Sink, TensorBoard
from q2pi.runs.source import load_source
from q2pi.runs.stored_config import read_config, trains_the_same
from q2pi.training.events import Checkpoint, Diverged, EpisodeEnded, Evaluated, Event, Finished, Interrupted, Notice
from q2pi.training.loop import run
from q2pi.training.source import Source
from q2pi.types import State

EMIT_SECONDS = 0.5
"""Seconds between two messages of a job."""


def execute(
    config: ResolvedConfig[Any],
    path: Path | str | None,
    *,
    sinks: Sequence[Sink] = (),
    stop: Stop = never,
    warn: Callable[[str], None] = lambda text: None,
    source: Callable[[], Source] | None = None,
) -> Finished | Interrupted | None:
    """Train the rest of a run; return its last event, or None if the run was finished before.

    Args:
        config: configuration of the run.
        path: the run folder, made if it is missing; None records nothing.
        sinks: receive the run's events, after the folder's own sinks.
        stop: see `loop.run`; when it returns true, the run ends with a checkpoint and can be executed again.
        warn: called with one line for each damaged checkpoint and `Notice`, and once if the default time limit cuts
            an episode.
        source: returns the source of the run's steps; by default environments in this process.

    Raises:
        UserError: the folder holds a run of another configuration or is in use, or the algorithm does not support
            the environment.
        EnvError: an environment failed; the folder has a checkpoint of the last complete step.
        Diverged: a loss, a value or a weight is not finite.
    """
    last: Event | None = None
    with ExitStack() as resources:
        folder = None if path is None else RunFolder(path)
        is_new = folder is None or not folder.config_file.is_file()
        if folder is not None and is_new:
            folder.check_new()
        elif folder is not None:
            resources.enter_context(_opened(folder, config))
        step, state, seconds_before = _newest(folder, warn)
        if step >= config.total_timesteps:
            return None
        weights = None
        if config.from_run is not None and state is None:
            config, weights = load_source(config)
        # Without `closing`, the traceback of a sink's exception keeps the generator and its environments alive.
        events = resources.enter_context(closing(run(config, state, stop, weights, source and source())))
        # The loop checks state and spaces before its first event, so an invalid run writes nothing.
        started = next(events)
        if folder is not None:
            if is_new:
                resources.enter_context(RunFolder.create(folder.path, config).locked())
            folder.tensorboard.mkdir(exist_ok=True)
            sinks = [TensorBoard(folder.tensorboard, step), Recorder(folder, step, seconds_before), *sinks]
        sinks = [*sinks, _TimeLimitNotice(config, warn)]
        for sink in sinks:
            resources.callback(sink.close)
        for event in chain([started], events):
            if isinstance(event, Checkpoint | Finished):
                for sink in sinks:
                    sink.flush()
            for sink in sinks:
                sink.write(event)
            if isinstance(event, Notice):
                warn(event.text)
            last = event
    assert isinstance(last, Finished | Interrupted)
    return last


def run_job(name: str, path: Path | str, config: ResolvedConfig[Any]) -> Job:
    """Return a job that trains the rest of a run; `name` appears in messages."""
    arguments = {"path": str(path), "config": to_table(config)}
    return Job(
        name,
        "q2pi.runs.execute:execute_job",
        arguments,
        threads=config.threads,
        cpus=config.threads,
        gpus=1 if device_of(config.device).type == "cuda" else 0,
        folder="path",
    )


def execute_job(arguments: dict[str, Any], emit: Emit, stop: Stop) -> Message:
    """Task of `run_job`: execute a run.

    Args:
        arguments: `path` of the run folder and the run's `config` as a table.
        emit: receives {"step": agent steps} at most twice a second.
        stop: see `execute`.

    Returns:
        The agent steps at the end, and whether the run was stopped before its end.

    Raises:
        UserError: see `execute`; also if training diverged.
        RuntimeError: an environment raised an exception, which is the cause.
    """
    path, table = arguments["path"], arguments["config"]
    config = resolve(from_table(default_config(table["algorithm"]), table, path))
    try:
        last = execute(config, path, sinks=[_StepMessages(emit)], stop=stop, warn=_warn)
    except Diverged as problem:
        raise UserError(f"training diverged: {problem}") from problem
    except EnvError as problem:
        if problem.__cause__ is None:
            raise
        raise RuntimeError(str(problem)) from problem.__cause__
    step = config.total_timesteps if last is None else last.step
    return {"step": step, "stopped": isinstance(last, Interrupted)}


def _warn(line: str) -> None:
    print(line, file=sys.stderr)


class _TimeLimitNotice:
    """A sink that warns once if episodes are cut at the limit for environments that have none."""

    def __init__(self, config: ResolvedConfig[Any], warn: Callable[[str], None]) -> None:
        self.config, self.warn, self.has_warned = config, warn, False

    def write(self, event: Event) -> None:
        if self.has_warned or not isinstance(event, EpisodeEnded | Evaluated):
            return
        episodes = (event.episode,) if isinstance(event, EpisodeEnded) else event.evaluation.episodes
        if notice := time_limit_notice(self.config.env, episodes):
            self.has_warned = True
            self.warn(notice)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class _StepMessages:
    """A sink that emits the agent steps at most twice a second."""

    def __init__(self, emit: Emit) -> None:
        self.emit = emit
        self.last_emit = -EMIT_SECONDS

    def write(self, event: Event) -> None:
        if time.monotonic() - self.last_emit > EMIT_SECONDS:
            self.last_emit = time.monotonic()
            self.emit({"step": event.step})

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


@contextmanager
def _opened(folder: RunFolder, config: ResolvedConfig[Any]) -> Iterator[None]:
    """Hold the lock of a run folder with a run of this configuration."""
    if not trains_the_same(read_config(folder), config):
        raise UserError(f"{folder.path} holds a run of another configuration; name another folder or remove it")
    with folder.locked():
        yield


def _newest(folder: RunFolder | None, warn: Callable[[str], None]) -> tuple[int, State | None, float]:
    """Return (agent step, state, wall-clock seconds so far) of a folder's newest checkpoint; (0, None, 0) without."""
    if folder is None or not steps(folder.checkpoints):
        return 0, None, 0.0
    step, state, info, warnings = load_checkpoint(folder)
    for warning in warnings:
        warn(warning)
    return step, state, info["seconds"]
