"""What the loggers have in common: a run at a service, which receives the scalars of events."""

from pathlib import Path
from typing import Any

from q2pi.runs.sinks import scalars
from q2pi.training.events import Event, Started

PROJECT = "q2pi"
"""Default name of the project at a service."""


class Service:
    """A sink that sends the scalars of a run to a service.

    Args:
        folder: the run's folder, whose name is that of the run at the service; None lets the service choose a name.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.name = None if folder is None else folder.name
        self.run: Any = None

    def start(self, event: Started) -> Any:
        """Return a new run at the service, or the one that a resumed run continues."""
        raise NotImplementedError

    def log(self, rows: dict[str, float], step: int) -> None:
        """Send scalars at an agent step."""
        raise NotImplementedError

    def write(self, event: Event) -> None:
        if isinstance(event, Started):
            self.run = self.start(event)
        rows = scalars(event)
        if rows:
            self.log(rows, event.step)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if self.run is not None:
            self.run.finish()
