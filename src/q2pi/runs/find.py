"""Finding runs below a folder, and their states, without importing torch."""

import os
from collections.abc import Iterator
from pathlib import Path

from q2pi.runs.folder import RunFolder
from q2pi.runs.locks import is_held
from q2pi.runs.manifest import steps


def find_runs(folder: Path) -> Iterator[RunFolder]:
    """Yield the run folders below `folder`, itself included, in order of their paths."""
    for path, folders, files in os.walk(folder):
        folders.sort()
        if "config.toml" in files:
            folders.clear()
            yield RunFolder(path)


def run_state(run: RunFolder, total_timesteps: int) -> str:
    """Return "finished", "training", "stopped at <step>" or "no checkpoint".

    Args:
        run: the run's folder.
        total_timesteps: the run's budget in agent steps.
    """
    saved = steps(run.checkpoints)
    if saved and saved[-1] >= total_timesteps:
        return "finished"
    if is_in_use(run):
        return "training"
    return f"stopped at {saved[-1]:,}" if saved else "no checkpoint"


def is_in_use(run: RunFolder) -> bool:
    """Return whether a process trains in the folder."""
    return is_held(run.lock)
