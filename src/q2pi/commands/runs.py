"""q2pi runs: list the runs in a folder."""

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from q2pi.commands.options import parse
from q2pi.commands.terminal import RECENT_EPISODES
from q2pi.errors import UserError
from q2pi.runs import checkpoint
from q2pi.runs.folder import RunFolder

DESCRIPTION = """List the runs below a folder. Returns and scores are raw: "return" is the mean of the newest training
episodes, "evaluation" the newest evaluation's mean with its 95 % interval."""
COLUMNS = ("run", "algorithm", "environment", "seed", "agent steps", "return", "evaluation", "minutes", "state")
NUMBERS = ("seed", "agent steps", "return", "evaluation", "minutes")


@dataclass(frozen=True)
class Options:
    folder: Annotated[str, tyro.conf.Positional] = "runs"
    """Folder below which runs are looked for."""


def main(arguments: list[str]) -> int:
    options = parse(Options, "runs", DESCRIPTION, arguments)
    folder = Path(options.folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; q2pi train makes runs/, or name another folder")
    rows = [_row(run) for run in find_runs(folder)]
    if not rows:
        print(f"no runs below {folder}")
        return 0
    console = Console()
    if console.is_terminal:
        console.print(_table(rows))
    else:
        for row in (dict(zip(COLUMNS, COLUMNS, strict=True)), *rows):
            print("\t".join(row.get(column, "") for column in COLUMNS))
    return 0


def find_runs(folder: Path) -> Iterator[RunFolder]:
    """Yield the run folders below `folder`, itself included, in order of their paths."""
    for path, folders, files in os.walk(folder):
        folders.sort()
        if "config.toml" in files:
            folders.clear()
            yield RunFolder(path)


def _row(run: RunFolder) -> dict[str, str]:
    row = {"run": str(run.path)}
    try:
        config = run.config()
        row |= {"algorithm": config.algorithm, "environment": config.env.env_id, "seed": str(config.seed)}
        return row | _progress(run, config.total_timesteps)
    except (UserError, OSError, ValueError, KeyError, TypeError) as problem:
        reason = str(problem) if isinstance(problem, UserError) else f"{run.metrics_file.name}: {problem!r}"
        return row | {"state": f"damaged: {' '.join(reason.split())}"}


def _progress(run: RunFolder, total: int) -> dict[str, str]:
    episodes, train, evaluations = (run.rows(kind) for kind in ("episode", "train", "evaluation"))
    saved = checkpoint.steps(run.checkpoints)
    newest = max(row["step"] for row in ({"step": 0}, *episodes[-1:], *train[-1:], *evaluations[-1:]))
    row = {"agent steps": f"{newest:,} of {total:,}", "state": _state(run, saved, total)}
    if episodes:
        row["return"] = f"{np.mean([row['return'] for row in episodes[-RECENT_EPISODES:]]):.1f}"
    if train:
        row["minutes"] = f"{train[-1]['elapsed'] / 60:.1f}"
    if evaluations:
        row["evaluation"] = _score(evaluations[-1]["statistics"])
    return row


def _score(statistics: dict[str, Any]) -> str:
    low, high = statistics["mean_interval"]
    return f"{statistics['mean']:.1f} [{low:.1f}, {high:.1f}]"


def _state(run: RunFolder, saved: list[int], total: int) -> str:
    if saved and saved[-1] >= total:
        return "finished"
    if _in_use(run):
        return "training"
    return f"stopped at {saved[-1]:,}" if saved else "no checkpoint"


def _in_use(run: RunFolder) -> bool:
    """Tell whether a process trains in the folder: it then holds the lock that `RunFolder.locked` takes."""
    path = run.path / ".lock"
    if not path.is_file():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _table(rows: list[dict[str, str]]) -> Table:
    table = Table()
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in NUMBERS else "left", overflow="fold")
    for row in rows:
        table.add_row(*(row.get(column, "") for column in COLUMNS))
    return table
