"""The history of a run while training writes it: read once, then only what was appended."""

import os
from typing import Any

from q2pi.errors import UserError
from q2pi.runs.find import run_state
from q2pi.runs.folder import Row, RunFolder
from q2pi.runs.history import History


class LiveHistory:
    """A run's rows so far; `update` reads the new ones.

    Args:
        run: the folder; it may be missing, half written or damaged: see `problem`.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.problem = ""
        """Why the run cannot be read, in words; "" if it can."""
        self.config: dict[str, Any] = {}
        self.state = ""
        """As `find.run_state` names it."""
        self._forget()

    def _forget(self) -> None:
        self._offset, self._file, self._config_time = 0, (0, 0), 0
        self._rows: dict[str, list[Row]] = {"episode": [], "train": [], "evaluation": []}

    def update(self) -> bool:
        """Read what is new; return whether anything changed."""
        before = (self.problem, self.state, self._offset)
        try:
            self._update()
            self.problem = ""
        except UserError as problem:
            self.problem = str(problem)
        except (OSError, ValueError, KeyError, TypeError) as problem:
            self.problem = f"{self.run.path} cannot be read: {problem!r}"
        return before != (self.problem, self.state, self._offset)

    def _update(self) -> None:
        if not self.run.config_file.is_file():
            raise UserError(f"{self.run.path} was deleted" if self.config else f"{self.run.path} is not a run folder")
        config_time = self.run.config_file.stat().st_mtime_ns
        if config_time != self._config_time:
            self._forget()
            self.config, self._config_time = self.run.table(), config_time
        file = self._identity()
        # A resumed run replaces the file: its rows after the checkpoint are gone.
        if file != self._file:
            self._offset, self._file = 0, file
            self._rows = {"episode": [], "train": [], "evaluation": []}
        rows, offset = self.run.tail(self._offset)
        if offset < self._offset:
            self._rows = {"episode": [], "train": [], "evaluation": []}
            rows, offset = self.run.tail(0)
        for row in rows:
            self._rows.setdefault(row["kind"], []).append(row)
        self._offset = offset
        self.state = run_state(self.run, int(self.config["total_timesteps"]))

    def _identity(self) -> tuple[int, int]:
        try:
            stat = os.stat(self.run.metrics_file)
        except FileNotFoundError:
            return (0, 0)
        return (stat.st_dev, stat.st_ino)

    @property
    def history(self) -> History:
        """The rows as a `History`.

        Raises:
            KeyError, TypeError, ValueError: a row lacks an entry.
        """
        episodes = self._rows["episode"]
        return History(
            self.run,
            self.config,
            steps=[int(row["step"]) for row in episodes],
            returns=[float(row["return"]) for row in episodes],
            train=self._rows["train"],
            evaluations={row["step"]: row["statistics"] for row in self._rows["evaluation"]},
        )
