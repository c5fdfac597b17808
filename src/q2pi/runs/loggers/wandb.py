"""Weights & Biases: `--log wandb`. Its environment variables hold, such as WANDB_PROJECT and WANDB_MODE=offline."""

import os
import uuid
from pathlib import Path
from typing import Any

from q2pi.config import to_table
from q2pi.errors import UserError
from q2pi.runs.files import write_atomically
from q2pi.runs.sinks import scalars
from q2pi.training.events import Event, Started

PROJECT = "q2pi"
STEP = "agent_steps"


class WandB:
    """Sends the scalars of a run to W&B.

    Every row has its agent step as a value of its own: W&B would drop a row of an earlier step, such as that of an
    evaluation in the background, or of a run that was resumed from an earlier checkpoint.

    Args:
        folder: the run's folder, which keeps W&B's files and the id with which a resumed run continues; None starts a
            new run at W&B each time.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.run: Any = None

    def write(self, event: Event) -> None:
        if isinstance(event, Started):
            self._start(event)
        rows = scalars(event)
        if rows:
            self.run.log(rows | {STEP: event.step})

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if self.run is not None:
            self.run.finish()

    def _start(self, event: Started) -> None:
        import wandb

        try:
            self.run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=None if self.folder is None else self.folder.name,
                id=_id(self.folder),
                resume="allow",
                dir=self.folder,
                config=to_table(event.config),
                # Without "off" W&B records the terminal, progress bar included.
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.Error as problem:
            reason = next(iter(str(problem).splitlines()), type(problem).__name__)
            raise UserError(f"--log wandb: {reason}; WANDB_MODE=offline needs no account") from problem
        self.run.define_metric(STEP, hidden=True)
        self.run.define_metric("*", step_metric=STEP)


def _id(folder: Path | None) -> str | None:
    """Return the id of a run at W&B, which its folder keeps; None without a folder."""
    if folder is None:
        return None
    file = folder / "wandb" / "id"
    if not file.is_file():
        file.parent.mkdir(exist_ok=True)
        write_atomically(file, uuid.uuid4().hex[:8])
    return file.read_text(encoding="utf-8")
