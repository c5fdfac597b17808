"""The run folder: all files of a run, readable with common tools.

    runs/<name>/
        config.toml        the whole configuration
        metrics.jsonl      one JSON object a line: training rows, episodes, evaluations
        tensorboard/       the same as TensorBoard events
        episodes/          newest.json and best.json: seeds and actions, enough to recreate the episodes
        extensions.json    old and new budget of each extension; no file if the budget was never changed
        evaluation.json    the newest evaluation of training: the run's own score
        diagnostics.csv    rows of `train --diagnostics`; diagnostics.safetensors is for resuming them
        evaluations/       evaluations by q2pi evaluate, each with its protocol; reports do not read them
        figures/  videos/  pictures of the run
        checkpoints/       the newest two, see checkpoint.py

`recorder.Recorder` writes it from the events of the training loop. Viewers, plots, reports and the tuner read only this
folder. Reading imports no torch; `load` reads what needs an algorithm: the typed configuration and the agent.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from q2pi.config import RunConfig, from_table, read_toml, to_table
from q2pi.envs.spec import EnvSpec
from q2pi.errors import UserError
from q2pi.parallel.portable import quoted
from q2pi.runs.files import write_atomically
from q2pi.runs.locks import take

Row = dict[str, Any]


class RunFolder:
    """The paths of a run folder, and its configuration and metrics."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.toml"
        self.metrics_file = self.path / "metrics.jsonl"
        self.evaluation_file = self.path / "evaluation.json"
        self.extensions_file = self.path / "extensions.json"
        self.diagnostics_file = self.path / "diagnostics.csv"
        self.evaluations = self.path / "evaluations"
        self.checkpoints = self.path / "checkpoints"
        self.episodes = self.path / "episodes"
        self.figures = self.path / "figures"
        self.videos = self.path / "videos"
        self.tensorboard = self.path / "tensorboard"
        self.lock = self.path / ".lock"

    @classmethod
    def create(cls, path: Path | str, config: RunConfig[Any]) -> "RunFolder":
        """Create the folder of a new run and write its config.toml.

        Raises:
            UserError: the folder exists and is not empty, or cannot be created.
        """
        run = cls(path)
        run.check_new()
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            write_atomically(run.config_file, tomli_w.dumps(to_table(config)))
        except OSError as problem:
            reason = (problem.strerror or str(problem)).lower()
            raise UserError(f"--run-dir {path} cannot be created: {reason}") from problem
        return run

    def check_new(self) -> None:
        """Raise a UserError if no new run can be created in the folder: it is not empty, or not writable."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.glob("[!.]*"))):
            resume = f"q2pi resume {quoted(self.path)}"
            raise UserError(f"--run-dir {self.path} exists already; resume it ({resume}) or name another folder")
        nearest = next(parent for parent in [self.path, *self.path.absolute().parents] if parent.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise UserError(f"--run-dir {self.path} cannot be created: {nearest} is not a writable folder")

    @classmethod
    def open(cls, path: Path | str) -> "RunFolder":
        """Return the run folder at `path`.

        Raises:
            UserError: the folder has no config.toml.
        """
        run = cls(path)
        if not run.config_file.is_file():
            raise UserError(f"{path} is not a run folder: it has no config.toml")
        return run

    def table(self) -> dict[str, Any]:
        """Return config.toml as a dict; `load.read_config` returns the typed configuration.

        Raises:
            UserError: the file is not TOML, or a required option is missing or of the wrong type.
        """
        table = read_toml(self.config_file)
        _require(self.config_file, table, {"algorithm": str, "seed": int, "total_timesteps": int, "env": dict})
        _require(self.config_file, table["env"], {"env_id": str})
        return table

    def env(self) -> EnvSpec:
        """Return the specification of the run's environment.

        Raises:
            UserError: config.toml is damaged, or its table [env] holds unknown options or values of the wrong type.
        """
        return from_table(EnvSpec(), self.table()["env"], str(self.config_file))

    def rows(self, kind: str) -> list[Row]:
        """Return the rows of one kind ("train", "episode", "evaluation") of metrics.jsonl, oldest first."""
        return [row for row in self.tail()[0] if row["kind"] == kind]

    def tail(self, offset: int = 0) -> tuple[list[Row], int]:
        """Return (rows, next offset): the rows of metrics.jsonl that were appended since a byte offset.

        An incomplete last line is left for the next call. A resumed run removes the rows after its checkpoint; if
        `offset` is then no longer the start of a line, the result is ([], 0): discard the earlier rows and read again
        from 0.

        Args:
            offset: 0, or the next offset of an earlier call.

        Raises:
            ValueError: a complete line is not JSON.
        """
        if not self.metrics_file.is_file():
            return [], 0
        with self.metrics_file.open("rb") as file:
            if offset:
                file.seek(offset - 1)
                if file.read(1) != b"\n":
                    return [], 0
            lines, _, _ = file.read().rpartition(b"\n")
        rows = [json.loads(line.decode()) for line in lines.split(b"\n")] if lines else []
        return rows, offset + (len(lines) + 1 if lines else 0)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock, so that no other process trains in the folder.

        Raises:
            UserError: another process holds the lock.
        """
        file = take(self.lock)
        if file is None:
            raise UserError(f"{self.path} is in use: another process is training in it")
        with file:
            yield


def _require(file: Path, table: dict[str, Any], options: dict[str, type]) -> None:
    """Raise a UserError unless the table has all options with values of the given types."""
    for name, kind in options.items():
        if name not in table:
            raise UserError(f"{file}: the option {name!r} is missing")
        if not isinstance(table[name], kind):
            raise UserError(f"{file}: {name} = {table[name]!r}: it must be of type {kind.__name__}")
