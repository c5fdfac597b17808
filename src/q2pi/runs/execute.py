"""Executing a configuration in its folder, whatever a kill left there: the one seam of tuning and sweeps.

    for event in execute(config, folder):
        ...

begins a new run, continues an interrupted one from its newest checkpoint bit for bit, or yields nothing for a run that
is finished. Doing it again is always safe.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from q2pi.config import RunConfig
from q2pi.errors import UserError
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint, read_config
from q2pi.runs.manifest import steps
from q2pi.runs.recorder import record
from q2pi.training.events import Event
from q2pi.training.loop import prepare, run


def execute(config: RunConfig[Any], path: Path | str, stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """Yield the events of what is left to do of one run, recorded in its folder.

    Args:
        config: what to train.
        path: the run folder; made where it is missing.
        stop: see `loop.run`; the run then ends with a checkpoint and can be executed again.

    Raises:
        UserError: the folder holds a run of another configuration, or an option is out of its bounds.
        Diverged: a loss or a value is not finite any more.
    """
    config, folder = prepare(config), RunFolder(path)
    if not folder.config_file.is_file():
        folder = RunFolder.create(path, config)
    elif prepare(read_config(folder)) != config:
        raise UserError(f"{path} holds a run of another configuration; name another folder or remove it")
    step, state, seconds = 0, None, 0.0
    if steps(folder.checkpoints):
        step, state, info, _ = load_checkpoint(folder)
        seconds = info["seconds"]
    if step < config.total_timesteps:
        yield from record(run(config, state, stop), folder, seconds)


def is_finished(path: Path | str) -> bool:
    """Tell whether a run folder holds a run that reached its budget."""
    folder = RunFolder(path)
    if not folder.config_file.is_file():
        return False
    return max(steps(folder.checkpoints), default=-1) >= read_config(folder).total_timesteps
