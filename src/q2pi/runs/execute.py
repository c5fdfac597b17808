"""Executing a run: the one way in which train, resume, sweep, tune and the Python interface do it.

    execute(config, folder, sinks=[sink])

begins a new run, continues an interrupted one from its newest checkpoint bit for bit, or does nothing if the run is
finished. Calling it again is always safe.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path
from typing import Any

from q2pi.config import ResolvedConfig, resolve
from q2pi.errors import UserError
from q2pi.runs import checkpoint
from q2pi.runs.folder import RunFolder
from q2pi.runs.recorder import Recorder
from q2pi.runs.sinks import Sink, TensorBoard
from q2pi.training.events import Checkpoint, Event, Finished, Interrupted
from q2pi.training.loop import run
from q2pi.types import State


def execute(
    config: ResolvedConfig[Any],
    path: Path | str | None,
    *,
    sinks: Sequence[Sink] = (),
    stop: Callable[[], bool] = lambda: False,
    warn: Callable[[str], None] = lambda text: None,
) -> Finished | Interrupted | None:
    """Train what is left of one run; return its last event, or None if it was finished already.

    Args:
        config: what to train.
        path: the run folder, made if it is missing; None records nothing.
        sinks: take the run's events, after the folder's own sinks.
        stop: see `loop.run`; the run then ends with a checkpoint and can be executed again.
        warn: called with a line for each damaged checkpoint that is passed over.

    Raises:
        UserError: the folder holds a run of another configuration or is in use, or the algorithm cannot serve the
            environment.
        Diverged: a loss, a value or a weight is not finite.
    """
    last: Event | None = None
    with ExitStack() as resources:
        folder = None if path is None else _open(Path(path), config)
        step, state, seconds_before = _newest(folder, warn)
        if step >= config.total_timesteps:
            return None
        if folder is not None:
            resources.enter_context(folder.locked())
        # A sink's exception keeps the suspended generator alive, and with it the environments and the evaluator.
        events = resources.enter_context(closing(run(config, state, stop)))
        # The loop checks the state and the environment's spaces before its first event: no sink has written by then.
        started = next(events)
        if folder is not None:
            folder.tensorboard.mkdir(exist_ok=True)
            sinks = [TensorBoard(folder.tensorboard, step), Recorder(folder, step, seconds_before), *sinks]
        for sink in sinks:
            resources.callback(sink.close)
        for event in chain([started], events):
            if isinstance(event, Checkpoint | Finished):
                for sink in sinks:
                    sink.flush()
            for sink in sinks:
                sink.write(event)
            last = event
    assert isinstance(last, Finished | Interrupted)
    return last


def is_finished(path: Path | str) -> bool:
    """Return whether a run folder holds a run that reached its budget."""
    folder = RunFolder(path)
    if not folder.config_file.is_file():
        return False
    return max(checkpoint.steps(folder.checkpoints), default=-1) >= folder.config().total_timesteps


def _open(path: Path, config: ResolvedConfig[Any]) -> RunFolder:
    """Return the run folder at `path`, new or with a run of this configuration."""
    folder = RunFolder(path)
    if not folder.config_file.is_file():
        return RunFolder.create(path, config)
    if resolve(folder.config()) != config:
        raise UserError(f"{path} holds a run of another configuration; name another folder or remove it")
    return folder


def _newest(folder: RunFolder | None, warn: Callable[[str], None]) -> tuple[int, State | None, float]:
    """Return (agent step, state, wall-clock seconds so far) of a folder's newest checkpoint; (0, None, 0) without."""
    if folder is None or not checkpoint.steps(folder.checkpoints):
        return 0, None, 0.0
    step, state, info, warnings = folder.newest_checkpoint()
    for warning in warnings:
        warn(warning)
    return step, state, info["seconds"]
