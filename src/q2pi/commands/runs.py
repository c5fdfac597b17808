"""q2pi runs: list the runs in a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from q2pi.commands.options import parse
from q2pi.errors import UserError
from q2pi.runs.find import find_runs, run_state
from q2pi.runs.folder import RunFolder
from q2pi.runs.history import History, read_history
from q2pi.runs.progress import RECENT_EPISODES

DESCRIPTION = """List the runs below a folder. The column "return" is the mean raw return of the newest training
episodes, "evaluation" the mean raw score of the newest evaluation with its 95 % interval."""
COLUMNS = ("run", "algorithm", "environment", "seed", "agent steps", "return", "evaluation", "minutes", "state")
NUMBERS = ("seed", "agent steps", "return", "evaluation", "minutes")


@dataclass(frozen=True)
class Options:
    folder: Annotated[str, tyro.conf.Positional] = "runs"
    """Folder to search for runs, at any depth."""


def main(arguments: list[str]) -> int:
    options = parse(Options, "runs", DESCRIPTION, arguments)
    folder = Path(options.folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; q2pi train creates runs/, or name another folder")
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


def _row(run: RunFolder) -> dict[str, str]:
    row = {"run": str(run.path)}
    try:
        table = run.table()
        row |= {"algorithm": table["algorithm"], "environment": table["env"]["env_id"], "seed": str(table["seed"])}
        return row | _progress(read_history(run))
    except UserError as problem:
        return row | {"state": f"damaged: {' '.join(str(problem).split())}"}
    except (OSError, ValueError, KeyError, TypeError) as problem:
        return row | {"state": f"damaged: {run.metrics_file.name}: {problem!r}"}


def _progress(history: History) -> dict[str, str]:
    total = history.total_timesteps
    row = {"agent steps": f"{history.newest_step:,} of {total:,}", "state": run_state(history.run, total)}
    recent = history.returns[-RECENT_EPISODES:]
    if recent:
        row["return"] = f"{sum(recent) / len(recent):.1f}"
    if history.train:
        row["minutes"] = f"{history.train[-1]['wall_seconds'] / 60:.1f}"
    if history.evaluations:
        row["evaluation"] = _score(history.evaluations[max(history.evaluations)])
    return row


def _score(statistics: dict[str, Any]) -> str:
    low, high = statistics["mean_interval"]
    return f"{statistics['mean']:.1f} [{low:.1f}, {high:.1f}]"


def _table(rows: list[dict[str, str]]) -> Table:
    table = Table()
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in NUMBERS else "left", overflow="fold")
    for row in rows:
        table.add_row(*(row.get(column, "") for column in COLUMNS))
    return table
