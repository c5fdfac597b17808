"""Trackio: `--log trackio`. Its environment variables hold, such as TRACKIO_DIR and TRACKIO_SPACE_ID."""

import os
from typing import Any

from q2pi.config import to_table
from q2pi.runs.loggers.service import PROJECT, Service
from q2pi.training.events import Started


class Trackio(Service):
    """Sends the scalars of a run to Trackio, with the agent step as the step.

    Args:
        folder: the run's folder, whose name is that of the run; a resumed run continues it. None lets Trackio choose a
            name.
    """

    def start(self, event: Started) -> Any:
        import trackio

        return trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=self.name,
            config=to_table(event.config),
            resume="allow" if event.step else "never",
        )

    def log(self, rows: dict[str, float], step: int) -> None:
        self.run.log(rows, step=step)
