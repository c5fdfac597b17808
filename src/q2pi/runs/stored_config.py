"""The typed configuration in a run folder, and what follows from it; no torch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from q2pi.algorithms.registry import default_config
from q2pi.config import RunConfig, from_table, read_toml, resolve
from q2pi.errors import UserError
from q2pi.runs.folder import RunFolder
from q2pi.runs.manifest import steps


def read_config(folder: RunFolder) -> RunConfig[Any]:
    """Return the configuration of a run.

    Raises:
        UserError: the file is not TOML, or names an algorithm or an option that does not exist.
    """
    table = read_toml(folder.config_file)
    if not isinstance(table.get("algorithm"), str):
        raise UserError(f"{folder.config_file}: the option 'algorithm' is missing")
    return from_table(default_config(table["algorithm"]), table, str(folder.config_file))


def trains_the_same(stored: RunConfig[Any], config: RunConfig[Any]) -> bool:
    """Return whether two configurations train the same run, whatever they note of a preset's name and a digest."""
    notes: dict[str, Any] = {"preset": None, "from_digest": None}
    return replace(resolve(stored), **notes) == replace(resolve(config), **notes)


def is_finished(path: Path | str) -> bool:
    """Return whether a run folder holds a run that reached its budget."""
    folder = RunFolder(path)
    if not folder.config_file.is_file():
        return False
    return max(steps(folder.checkpoints), default=-1) >= read_config(folder).total_timesteps
