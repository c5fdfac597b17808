"""The figures of a report, drawn from its numbers in the style of `reports.style`."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, ScalarFormatter

from q2pi.reports.style import (
    COLOURS,
    GRID,
    INK,
    QUIET,
    error_bars,
    finish_axes,
    grid_of_panels,
    new_figure,
    save_figure,
)

Report = dict[str, Any]
LINES = ("-", "--")
COLUMNS = 3
MOST_PAIRS = 24
"""Largest number of pairs of methods in the figure; the report's numbers have all pairs."""
BANDS = "lines: mean over seeds; bands: 95 % bootstrap interval over seeds, if there are two or more"


@dataclass(frozen=True)
class Row:
    """A row of a figure: an estimate, its interval, and the scores of single seeds as dots."""

    label: str
    value: float
    interval: Sequence[float] | None
    colour: str
    dots: Sequence[float] = ()


def draw(report: Report, folder: Path) -> dict[str, Path]:
    """Write every figure for which the report has numbers and return title -> PNG."""
    figures = {"Scores": scores(report, folder / "scores.png")}
    if report["human_normalized_iqm"] is not None:
        figures["Human-normalised interquartile mean"] = normalised_iqm(report, folder / "human_normalized_iqm.png")
    figures["Performance profiles"] = profiles(report, folder / "performance_profiles.png")
    if report["probability_of_improvement"]:
        path = folder / "probability_of_improvement.png"
        figures["Probability of improvement"] = improvements(report, path)
    for title, key, name, x in (
        ("Sample efficiency", "curve_steps", "sample_efficiency.png", "agent steps"),
        ("Wall clock", "curve_seconds", "wall_clock.png", "seconds of training"),
    ):
        picture = curves(report, key, folder / name, title, x)
        if picture is not None:
            figures[title] = picture
    return figures


def scores(report: Report, path: Path) -> Path:
    """Draw the scores of each environment: every seed, the mean over seeds and its interval."""
    colours = _styles(report["methods"])
    panels = {
        env_id: [
            Row(
                _numbered(method, len(cell["seeds"])),
                cell["mean"],
                cell["mean_interval"],
                colours[method][0],
                cell["scores"],
            )
            for method, cell in env["methods"].items()
        ]
        for env_id, env in report["environments"].items()
    }
    caption = (
        "dots: mean raw score of each seed's evaluation; diamonds: mean over seeds; "
        "bars: 95 % bootstrap interval over seeds, if there are two or more"
    )
    return save_figure(_rows_figure(panels, "Scores at the end of training", caption, "raw score per episode"), path)


def normalised_iqm(report: Report, path: Path) -> Path:
    """Draw the interquartile mean of human-normalised scores of each method."""
    numbers, colours = report["human_normalized_iqm"], _styles(report["methods"])
    rows = [
        Row(f"{method} ({cell['runs']} runs)", cell["iqm"], cell["interval"], colours[method][0])
        for method, cell in numbers["methods"].items()
    ]
    caption = (
        f"over {', '.join(numbers['environments'])}; bars: 95 % stratified bootstrap interval over seeds; "
        "0 is a random agent, 1 a human tester"
    )
    title = "Interquartile mean of human-normalised scores"
    return save_figure(_rows_figure({"": rows}, title, caption, "human-normalised score"), path)


def improvements(report: Report, path: Path) -> Path:
    """Draw the probability of improvement of each pair of methods."""
    pairs = report["probability_of_improvement"]
    colours = _styles(report["methods"])
    rows = [
        Row(
            f"{_wrapped(pair['first'])}\nbeats {_wrapped(pair['second'])}",
            pair["probability"],
            pair["interval"],
            colours[pair["first"]][0],
        )
        for pair in pairs[:MOST_PAIRS]
    ]
    caption = (
        "probability that a run of the first method scores more than one of the second, on a random "
        "environment (a tie counts half); bars: 95 % stratified bootstrap interval over seeds"
    )
    if len(pairs) > MOST_PAIRS:
        caption += f"; the first {MOST_PAIRS} of {len(pairs)} pairs"
    figure = _rows_figure({"": rows}, "Probability of improvement", caption, "probability", height=0.62)
    axes = figure.axes[0]
    axes.axvline(0.5, color=QUIET, linewidth=1.2, linestyle="--", zorder=1)
    axes.set_xlim(-0.03, 1.03)
    return save_figure(figure, path)


def profiles(report: Report, path: Path) -> Path:
    """Draw the share of runs above each score."""
    styles = _styles(report["methods"])
    figure, panels = _grid(len(report["profiles"]))
    for axes, profile in zip(panels, report["profiles"], strict=True):
        thresholds = profile["thresholds"]
        for method, cell in profile["methods"].items():
            _line(axes, thresholds, cell["share"], cell["low"], cell["high"], styles[method], method, step=True)
        finish_axes(axes, "share of runs above", small=True, x=profile["scale"], from_zero=False)
        _plain_axis(axes)
        axes.set_xlim(thresholds[0], thresholds[-1])
        axes.set_ylim(-0.03, 1.03)
        _panel_title(axes, ", ".join(profile["environments"]))
    _head(figure, panels, "Performance profiles", "bands: 95 % stratified bootstrap interval, pointwise")
    return save_figure(figure, path)


def curves(report: Report, key: str, path: Path, title: str, x: str) -> Path | None:
    """Draw training returns of each environment against agent steps or seconds; return None if there are none."""
    styles = _styles(report["methods"])
    drawn = {
        env_id: {method: cell[key] for method, cell in env["methods"].items() if cell[key] is not None}
        for env_id, env in report["environments"].items()
    }
    drawn = {env_id: methods for env_id, methods in drawn.items() if methods}
    if not drawn:
        return None
    figure, panels = _grid(len(drawn))
    for axes, (env_id, methods) in zip(panels, drawn.items(), strict=True):
        for method, curve in methods.items():
            _line(axes, curve["x"], curve["mean"], curve["low"], curve["high"], styles[method], method)
        finish_axes(axes, "raw training return", small=True, x=x)
        if key == "curve_seconds":
            _plain_axis(axes)
        _panel_title(axes, env_id)
    _head(figure, panels, f"{title}: training return against {x}", BANDS)
    return save_figure(figure, path)


def _rows_figure(panels: Mapping[str, Sequence[Row]], title: str, caption: str, x: str, height: float = 0.42) -> Figure:
    sizes = [len(rows) for rows in panels.values()]
    figure = new_figure(9.6, 1.5 + sum(0.75 + height * size for size in sizes))
    column = figure.subplots(len(panels), squeeze=False, height_ratios=[0.75 + height * size for size in sizes])[:, 0]
    for axes, (name, rows) in zip(column, panels.items(), strict=True):
        _draw_rows(axes, rows)
        finish_axes(axes, "", small=True, x=x if axes is column[-1] else "", from_zero=False)
        _plain_axis(axes)
        axes.set_yticks(range(len(rows)), [_wrapped(row.label) for row in rows], color=INK, fontsize=9)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.margins(x=0.08)
        _panel_title(axes, name)
    _head(figure, [], title, caption)
    return figure


def _draw_rows(axes: Axes, rows: Sequence[Row]) -> None:
    for place, row in enumerate(rows):
        if len(row.dots) > 1:
            axes.plot(row.dots, [place] * len(row.dots), "o", color=row.colour, alpha=0.35, markersize=6, zorder=2)
        bars = error_bars(np.array([row.value]), [tuple(row.interval)]) if row.interval is not None else None
        style: dict[str, Any] = {"fmt": "D", "color": row.colour, "markersize": 7, "elinewidth": 2.2, "capsize": 4}
        axes.errorbar([row.value], [place], xerr=bars, markeredgecolor="white", zorder=4, **style)
        text = axes.annotate(
            f"{row.value:.{4 if abs(row.value) >= 10 else 3}g}",
            (row.value, place),
            (0, 8),
            "data",
            "offset points",
            zorder=5,
        )
        text.set(ha="center", fontsize=8, color=INK, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6})


def _line(
    axes: Axes,
    x: Sequence[float],
    middle: Sequence[float],
    low: Sequence[float] | None,
    high: Sequence[float] | None,
    style: tuple[str, str],
    label: str,
    step: bool = False,
) -> None:
    colour, line = style
    how = "steps-post" if step else "default"
    marker = "o" if len(x) == 1 else None
    axes.plot(x, middle, color=colour, linestyle=line, linewidth=2, drawstyle=how, marker=marker, label=label, zorder=3)
    if low is not None and high is not None:
        fill: Any = "post" if step else None
        axes.fill_between(x, low, high, step=fill, color=colour, alpha=0.16, linewidth=0, zorder=2)


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    rows = math.ceil(count / COLUMNS)
    figure = new_figure(max(7.2, 4.3 * min(COLUMNS, count)), 1.3 + 3.4 * rows)
    return figure, grid_of_panels(figure, count, COLUMNS)


def _head(figure: Figure, panels: Sequence[Axes], title: str, caption: str) -> None:
    """Set the title and one legend of all lines above the panels, and the caption below them."""
    width = figure.get_figwidth()
    lines = "\n".join(textwrap.wrap(caption, int(14 * width)))
    figure.supxlabel(lines, x=0.012, ha="left", fontsize=8.5, color=QUIET)
    handles = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if not handles:
        figure.suptitle(title, x=0.012, ha="left", fontsize=14, fontweight="bold", color=INK)
        return
    columns = max(1, min(len(handles), int(13 * width / (max(map(len, handles)) + 8))))
    style: dict[str, Any] = {"loc": "outside upper left", "frameon": False, "fontsize": 9, "labelcolor": INK}
    heading: dict[str, Any] = {"title": title, "title_fontproperties": {"size": 14, "weight": "bold"}}
    legend = figure.legend(list(handles.values()), list(handles), ncols=columns, alignment="left", **style, **heading)
    legend.get_title().set_color(INK)


def _panel_title(axes: Axes, name: str) -> None:
    axes.set_title("\n".join(textwrap.wrap(name, 44)), loc="left", fontsize=10.5, fontweight="bold", color=INK)


def _plain_axis(axes: Axes) -> None:
    """Format the horizontal axis for fractions and negative numbers."""
    axes.xaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    axes.xaxis.set_major_locator(AutoLocator())
    axes.grid(color=GRID, linewidth=0.8)


def _styles(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return method -> (colour, line style); dashes show a line below them if two lines overlap."""
    return {method: (COLOURS[index % len(COLOURS)], LINES[index % len(LINES)]) for index, method in enumerate(methods)}


def _numbered(method: str, seeds: int) -> str:
    return f"{method} ({seeds} seed{'s' if seeds > 1 else ''})"


def _wrapped(label: str) -> str:
    return "\n".join(line for part in label.splitlines() for line in textwrap.wrap(part, 40))
