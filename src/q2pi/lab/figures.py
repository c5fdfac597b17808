"""Parts of the lab's figures: readable in black and white, with intervals over seeds and units on the axes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from q2pi.reports.style import COLOURS, INK, QUIET, grid_of_panels, new_figure, style_axes
from q2pi.statistics.pairs import sign_flip_interval
from q2pi.types import Array

LINES = ("-", "--", ":", "-.", (0, (1, 1)), (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo")
SIGNIFICANT_SEEDS = 6
"""Fewest seeds with a finite 95 % interval of the sign-flip test."""


def panels(count: int, width: float = 4.6, height: float = 3.5) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` axes, at most three in a row; width and height are those of one panel, in inches.

    On a page four panels in a row would be too small to read.
    """
    rows = math.ceil(count / 3)
    figure = new_figure(width * math.ceil(count / rows), height * rows)
    return figure, grid_of_panels(figure, count, math.ceil(count / rows))


def interval(values: Any) -> tuple[Array, Array]:
    """Return (low, high) [...] of the mean of values [n, ...] over n seeds: 95 %, or the range of fewer than 6."""
    rows = np.asarray(values, np.float64)
    if len(rows) < SIGNIFICANT_SEEDS:
        return rows.min(axis=0), rows.max(axis=0)
    return sign_flip_interval(rows)


def interval_words(seeds: int) -> str:
    """Return what `interval` is for this many seeds, in words."""
    if seeds < SIGNIFICANT_SEEDS:
        return f"mean and range of {seeds} seed{'s' if seeds > 1 else ''}"
    return f"mean over {seeds} seeds with 95 % interval"


def curve(axes: Axes, x: Any, values: Any, label: str, style: int = 0) -> None:
    """Draw the mean of curves [n, T] over n seeds against x [T], with a band for its interval."""
    rows = np.asarray(values, np.float64)
    low, high = interval(rows)
    colour, count = COLOURS[style % len(COLOURS)], len(rows[0])
    axes.fill_between(x, low, high, color=colour, alpha=0.22, linewidth=0)
    every = max(1, count // 8)
    axes.plot(
        x,
        rows.mean(axis=0),
        linestyle=LINES[style % len(LINES)],
        marker=MARKERS[style % len(MARKERS)],
        markevery=(style % every, every),
        markersize=5,
        color=colour,
        label=label,
    )


def bars(axes: Axes, labels: Sequence[str], values: Any, first_style: int = 0) -> None:
    """Draw the mean of values [n, K] over n seeds as K bars with intervals and the value of each seed as a dot."""
    rows = np.asarray(values, np.float64)
    low, high = interval(rows)
    means = rows.mean(axis=0)
    places = np.arange(len(labels))
    for place in places:
        style = first_style + int(place)
        axes.bar(
            place,
            means[place],
            0.66,
            color=COLOURS[style % len(COLOURS)],
            hatch=HATCHES[style % len(HATCHES)],
            edgecolor="white",
            alpha=0.75,
        )
    errors = np.maximum(0, [means - low, high - means])
    axes.errorbar(places, means, errors, fmt="none", color=INK, capsize=4, linewidth=1.4)
    spread = np.linspace(-0.2, 0.2, len(rows)) if len(rows) > 1 else np.zeros(1)
    for place in places:
        axes.plot(place + spread, rows[:, place], ".", color=INK, markersize=3.5, alpha=0.6)
    axes.set_xticks(places, labels)


def log_x(axes: Axes, values: Sequence[float]) -> None:
    """Make the horizontal axis logarithmic, with ticks at `values` alone: matplotlib's own labels overlap."""
    axes.set_xscale("log")
    axes.set_xticks(list(values), [f"{value:g}" for value in values])
    axes.xaxis.set_minor_locator(NullLocator())


def label(axes: Axes, x: str, y: str, title: str, legend: bool = False) -> None:
    """Name the axes with their units, and apply the style of all figures.

    Args:
        axes: axes after drawing.
        x, y: names with units.
        title: above the axes.
        legend: whether to draw a legend.
    """
    style_axes(axes, 8.5)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold", color=INK)
    if legend:
        axes.legend(fontsize=8, frameon=False, handlelength=3.2)


def footnote(figure: Figure, text: str) -> None:
    """Write a line below all panels."""
    figure.supxlabel(text, fontsize=8.5, color=QUIET)
