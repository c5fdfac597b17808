"""Weights & Biases: `--log wandb`. Its environment variables hold, such as WANDB_PROJECT and WANDB_MODE=offline."""

import os
import uuid
from pathlib import Path
from typing import Any

from q2pi.config import to_table
from q2pi.errors import UserError
from q2pi.runs.files import write_atomically
from q2pi.runs.loggers.service import PROJECT, Service
from q2pi.training.events import Started

STEP = "agent_steps"


class WandB(Service):
    """Sends the scalars of a run to W&B.

    Every row has its agent step as a value of its own: W&B would drop a row of an earlier step, such as that of an
    evaluation in the background, or of a run that was resumed from an earlier checkpoint.

    Args:
        folder: the run's folder, which keeps W&B's files and the id with which a resumed run continues; None starts a
            new run at W&B each time.
    """

    def start(self, event: Started) -> Any:
        import wandb

        try:
            run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=self.name,
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
        run.define_metric(STEP, hidden=True)
        run.define_metric("*", step_metric=STEP)
        return run

    def log(self, rows: dict[str, float], step: int) -> None:
        self.run.log(rows | {STEP: step})


def _id(folder: Path | None) -> str | None:
    """Return the id of a run at W&B, which its folder keeps; None without a folder."""
    if folder is None:
        return None
    file = folder / "wandb" / "id"
    if not file.is_file():
        file.parent.mkdir(exist_ok=True)
        write_atomically(file, uuid.uuid4().hex[:8])
    return file.read_text(encoding="utf-8")
