"""Trackio: `--log trackio`. Its environment variables hold, such as TRACKIO_DIR and TRACKIO_SPACE_ID."""

import os
from pathlib import Path
from typing import Any

from q2pi.config import to_table
from q2pi.runs.sinks import scalars
from q2pi.training.events import Event, Started

PROJECT = "q2pi"


class Trackio:
    """Sends the scalars of a run to Trackio, with the agent step as the step.

    Args:
        folder: the run's folder, whose name is that of the run; a resumed run continues it. None lets Trackio choose a
            name.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.run: Any = None

    def write(self, event: Event) -> None:
        if isinstance(event, Started):
            self._start(event)
        rows = scalars(event)
        if rows:
            self.run.log(rows, step=event.step)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if self.run is not None:
            self.run.finish()

    def _start(self, event: Started) -> None:
        import trackio

        self.run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=None if self.folder is None else self.folder.name,
            config=to_table(event.config),
            resume="allow" if event.step else "never",
        )
