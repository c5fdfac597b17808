"""The report as a self-contained HTML page and as tables for a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from q2pi.reports import html
from q2pi.reports.html import Cells

Report = dict[str, Any]
SCORE_COLUMNS = (
    *("environment", "method", "seeds", "mean", "interquartile mean", "lowest, highest", "human-normalised"),
    *("agent steps", "minutes"),
)
PROTOCOL_COLUMNS = ("environment", "method", "agent steps", "evaluation", "rules", "seeds")
PAIR_COLUMNS = ("first", "second", "environments", "runs", "P(first beats second)")
IQM_COLUMNS = ("method", "runs", "interquartile mean")
NUMBERS = {"seeds", "mean", "interquartile mean", "agent steps", "minutes", "runs", "human-normalised"}
IQM, PAIRS = "Human-normalised interquartile mean", "Probability of improvement"
"""Titles of sections with a table and a figure."""
NO_INTERVAL = "one seed, no interval"


def report_page(report: Report, figures: Mapping[str, Path]) -> str:
    """Return the HTML page with embedded figures."""
    parts = [
        html.paragraph(
            f"{report['runs']} runs of {len(report['methods'])} methods on {len(report['environments'])} environments. "
            f"Intervals: {report['intervals']}. Intervals are shown as [low, high]."
        ),
        html.bullets(report["notes"]),
        html.section("Scores"),
        html.paragraph(
            "Raw scores of whole episodes at the end of each run; the score of a run is the mean over its episodes. "
            "Minutes: median training time over seeds, on the machine of the runs.",
            quiet=True,
        ),
        html.table(SCORE_COLUMNS, score_rows(report), NUMBERS),
        *_figure("Scores", figures),
    ]
    if report["human_normalized_iqm"] is not None:
        environments = ", ".join(report["human_normalized_iqm"]["environments"])
        parts += [html.section(IQM)]
        parts += [html.paragraph(f"Over {environments}.", quiet=True)]
        parts += [html.table(IQM_COLUMNS, iqm_rows(report), NUMBERS), *_figure(IQM, figures)]
    if report["probability_of_improvement"]:
        parts += [html.section(PAIRS), html.table(PAIR_COLUMNS, pair_rows(report), NUMBERS), *_figure(PAIRS, figures)]
    for title in figures:
        if title not in ("Scores", IQM, PAIRS):
            parts += [html.section(title), *_figure(title, figures)]
    parts += [html.section("Protocols"), html.table(PROTOCOL_COLUMNS, protocol_rows(report), NUMBERS)]
    if report["left_out"]:
        left_out = [f"{run}: {reason}" for run, reason in report["left_out"].items()]
        parts += [html.section("Left out"), html.bullets(left_out)]
    return html.page("q2pi report", f"Report on {report['runs']} runs", parts)


def _figure(title: str, figures: Mapping[str, Path]) -> list[str]:
    """Return the figure of a section, if there is one."""
    return [html.image(figures[title], title)] if title in figures else []


def print_tables(report: Report, console: Console) -> None:
    """Print the report's tables."""
    rows = score_rows(report)
    tables = [
        _rich_table(f"{env_id}, raw scores", *_narrow([row for row in rows if row[0] == env_id]))
        for env_id in report["environments"]
    ]
    if report["human_normalized_iqm"] is not None:
        environments = ", ".join(report["human_normalized_iqm"]["environments"])
        tables.append(_rich_table(f"human-normalised, over {environments}", IQM_COLUMNS, iqm_rows(report)))
    if report["probability_of_improvement"]:
        tables.append(_rich_table("probability of improvement", PAIR_COLUMNS, pair_rows(report)))
    lines = [f"[low, high]: {report['intervals']}.", *report["notes"]]
    lines += [f"left out: {run}: {reason}" for run, reason in report["left_out"].items()]
    console.print(Group(*tables, *map(Text, lines)))


def score_rows(report: Report) -> Cells:
    """Return the rows of the table of scores, one for each environment and method."""
    return [
        [
            *(env_id, method, str(len(cell["seeds"]))),
            _with_interval(cell["mean"], cell["mean_interval"]),
            _with_interval(cell["iqm"], cell["iqm_interval"]),
            f"{_short(min(cell['scores']))}, {_short(max(cell['scores']))}",
            _human(cell["human_normalized"]),
            f"{cell['protocol']['agent_steps']:,}",
            _short(cell["minutes"]) if cell["minutes"] is not None else "",
        ]
        for env_id, method, cell in _cells(report)
    ]


def iqm_rows(report: Report) -> Cells:
    """Return the rows of the table of human-normalised interquartile means, one for each method."""
    methods = report["human_normalized_iqm"]["methods"].items()
    return [[name, str(cell["runs"]), _with_interval(cell["iqm"], cell["interval"])] for name, cell in methods]


def pair_rows(report: Report) -> Cells:
    """Return the rows of the table of probabilities of improvement, one for each pair of methods."""
    return [
        [
            *(pair["first"], pair["second"], ", ".join(pair["environments"])),
            f"{pair['runs'][0]}, {pair['runs'][1]}",
            _with_interval(pair["probability"], pair["interval"]),
        ]
        for pair in report["probability_of_improvement"]
    ]


def protocol_rows(report: Report) -> Cells:
    """Return the rows of the table of protocols, one for each environment and method."""
    return [
        [
            *(env_id, method, f"{cell['protocol']['agent_steps']:,}"),
            f"{cell['protocol']['policy']}; "
            f"{' or '.join(map(str, cell['protocol']['evaluation_episodes']))} whole episodes per run",
            *(cell["protocol"]["rules"], ", ".join(map(str, cell["seeds"]))),
        ]
        for env_id, method, cell in _cells(report)
    ]


def _cells(report: Report) -> Iterable[tuple[str, str, Report]]:
    for env_id, env in report["environments"].items():
        for method, cell in env["methods"].items():
            yield env_id, method, cell


def _with_interval(value: float, interval: Sequence[float] | None) -> str:
    if interval is None:
        return f"{_short(value)} ({NO_INTERVAL})"
    return f"{_short(value)} [{_short(interval[0])}, {_short(interval[1])}]"


def _human(numbers: Report | None) -> str:
    return "" if numbers is None else _with_interval(numbers["mean"], numbers["mean_interval"])


def _short(value: float) -> str:
    """Return a number with one decimal, or with two if it is below 10."""
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _narrow(rows: Cells) -> tuple[Sequence[str], Cells]:
    """Return (columns, rows) of one environment's scores, without the columns that are too much for a terminal."""
    kept = [
        index
        for index, column in enumerate(SCORE_COLUMNS)
        if column not in ("environment", "lowest, highest") and any(row[index] for row in rows)
    ]
    return [SCORE_COLUMNS[index] for index in kept], [[row[index] for index in kept] for row in rows]


def _rich_table(title: str, columns: Sequence[str], rows: Cells) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column in NUMBERS else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
