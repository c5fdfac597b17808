"""The run folder: all that a run leaves behind, readable with no tool of ours.

    runs/<name>/
        config.toml        the whole configuration
        metrics.jsonl      one JSON object a line: training rows, episodes, evaluations
        tensorboard/       the same as TensorBoard events
        episodes/          newest.json and best.json: seeds and actions, enough to create those episodes again
        evaluation.json    the newest evaluation
        figures/  videos/  pictures of the run
        checkpoints/       the newest two, see checkpoint.py

`record` writes it from the events of the loop; viewers, plots, reports and the tuner read it and nothing else.
"""

import fcntl
import json
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from q2pi.algorithms.registry import default_config
from q2pi.config import RunConfig, from_table, to_table
from q2pi.errors import UserError
from q2pi.runs import checkpoint
from q2pi.types import State


class RunFolder:
    """The paths of a run folder and what is read from them."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.toml"
        self.metrics_file = self.path / "metrics.jsonl"
        self.evaluation_file = self.path / "evaluation.json"
        self.checkpoints = self.path / "checkpoints"
        self.episodes = self.path / "episodes"
        self.figures = self.path / "figures"
        self.videos = self.path / "videos"
        self.tensorboard = self.path / "tensorboard"

    @classmethod
    def create(cls, path: Path | str, config: RunConfig[Any]) -> "RunFolder":
        """Make the folder of a new run and write its config.

        Raises:
            UserError: the folder exists and is not empty, or cannot be made.
        """
        run = cls(path)
        run.check_new()
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            _replace(run.config_file, tomli_w.dumps(to_table(config)))
        except OSError as problem:
            reason = (problem.strerror or str(problem)).lower()
            raise UserError(f"--run-dir {path} cannot be made: {reason}") from problem
        return run

    def check_new(self) -> None:
        """Raise a UserError where the folder of a new run cannot be made: it is in use, or no folder can be there."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.glob("[!.]*"))):
            raise UserError(
                f"--run-dir {self.path} exists already; resume it (q2pi resume {self.path}) or name another folder"
            )
        nearest = next(parent for parent in [self.path, *self.path.absolute().parents] if parent.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise UserError(f"--run-dir {self.path} cannot be made: {nearest} is no folder that can be written to")

    @classmethod
    def open(cls, path: Path | str) -> "RunFolder":
        """Return the run folder at `path`.

        Raises:
            UserError: there is none.
        """
        run = cls(path)
        if not run.config_file.is_file():
            raise UserError(f"{path} is not a run folder: it has no config.toml")
        return run

    def config(self) -> RunConfig[Any]:
        """Read the configuration.

        Raises:
            UserError: the file is not TOML, or names what does not exist.
        """
        return read_config(self.config_file)

    def newest_checkpoint(self) -> tuple[int, State, dict[str, Any], list[str]]:
        """Return (step, state, info, warnings), see `checkpoint.load_newest`."""
        return checkpoint.load_newest(self.checkpoints)

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """Return the rows of one kind ("train", "episode", "evaluation") of metrics.jsonl, oldest first."""
        if not self.metrics_file.is_file():
            return []
        with self.metrics_file.open() as file:
            rows = [json.loads(line) for line in file if line.endswith("\n")]
        return [row for row in rows if row["kind"] == kind]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against a second process that would train in it.

        Raises:
            UserError: another process trains in it now.
        """
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as problem:
                raise UserError(f"{self.path} is in use: another process is training in it") from problem
            yield


def read_config(path: Path) -> RunConfig[Any]:
    """Read a complete configuration from a TOML file."""
    try:
        table = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise UserError(f"{path} is not valid TOML: {problem}") from problem
    if not isinstance(table.get("algorithm"), str):
        raise UserError(f"{path}: the option 'algorithm' is missing")
    return from_table(default_config(table["algorithm"]), table, str(path))


def _replace(path: Path, text: str) -> None:
    """Write a small text file whole or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
