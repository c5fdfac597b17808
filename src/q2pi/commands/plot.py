"""q2pi plot: draw the learning curves of one or several runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from q2pi.commands.options import parse
from q2pi.config import at_least
from q2pi.errors import UserError
from q2pi.runs.folder import RunFolder

DESCRIPTION = """Draw the learning curves of one or several runs as a PNG. Runs that differ only in their seed become
one curve with a 95 % bootstrap interval over seeds."""


@dataclass(frozen=True)
class Options:
    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders of the runs."""
    out: str | None = None
    """File of the PNG; by default figures/learning_curve.png in the run's folder for one run, learning_curves.png in
    the working directory for several."""
    smooth: int = 0
    """Agent steps of a window for averaging training returns; 0 chooses about 50 windows of 10 or more episodes."""


def main(arguments: list[str]) -> int:
    options = parse(Options, "plot", DESCRIPTION, arguments)
    at_least(options, 0, "smooth")
    if not options.runs:
        raise UserError("plot needs the folder of at least one run (q2pi runs lists them)")
    runs = [RunFolder.open(path) for path in options.runs]
    for run in runs:
        if not run.rows("episode") and not run.rows("evaluation"):
            raise UserError(f"{run.path} has nothing to draw: no episode has ended yet")
    path = Path(options.out) if options.out else _default_path(runs)
    if path.suffix != ".png":
        raise UserError(f"--out {path} must end in .png")

    from q2pi.reports.learning_curves import learning_curves

    print(learning_curves(runs, path, width=options.smooth))
    return 0


def _default_path(runs: list[RunFolder]) -> Path:
    return runs[0].figures / "learning_curve.png" if len(runs) == 1 else Path("learning_curves.png")
