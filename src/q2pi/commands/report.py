"""q2pi report: aggregate runs into tables, figures and an HTML page, with intervals over seeds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from q2pi.commands.options import parse
from q2pi.commands.output import prints_to_stderr
from q2pi.errors import UserError
from q2pi.runs.files import write_atomically
from q2pi.runs.find import find_runs
from q2pi.runs.folder import RunFolder

DESCRIPTION = """Aggregate finished runs by environment and method: means and interquartile means with 95 % intervals
over seeds, human-normalised scores of Atari games, performance profiles, the probability that one method beats another,
and training returns against agent steps and seconds."""


@dataclass(frozen=True)
class Options:
    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run folders, or folders that contain runs at any depth."""
    out: str = "report"
    """Folder for report.html, report.json and the PNGs."""
    json: bool = False
    """Print only the report, as JSON."""


def main(arguments: list[str]) -> int:
    options = parse(Options, "report", DESCRIPTION, arguments)
    with prints_to_stderr(options.json):
        report, text = _write(options)
    if options.json:
        print(text, end="")
    else:
        from q2pi.reports.comparison.page import print_tables

        out = Path(options.out)
        print_tables(report, Console())
        print(f"page: {out / 'report.html'}   numbers: {out / 'report.json'}   figures: {out}/*.png")
    return 0


def _write(options: Options) -> tuple[dict[str, Any], str]:
    """Write the files of the report; return its numbers, also as JSON."""
    if not options.runs:
        raise UserError("report needs at least one run, or a folder of runs (q2pi runs lists them)")
    runs = [run for path in options.runs for run in _runs_below(Path(path))]
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is not a folder")

    from q2pi.reports.comparison.figures import draw
    from q2pi.reports.comparison.numbers import summarise
    from q2pi.reports.comparison.page import report_page
    from q2pi.reports.comparison.read import collect

    report = summarise(*collect(runs))
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    figures = draw(report, out)
    write_atomically(out / "report.json", text)
    write_atomically(out / "report.html", report_page(report, figures))
    return report, text


def _runs_below(path: Path) -> list[RunFolder]:
    if not path.is_dir():
        raise UserError(f"{path} is not a folder")
    runs = list(find_runs(path))
    if not runs:
        raise UserError(f"no run below {path}")
    return runs
