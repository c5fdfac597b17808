"""The style of all figures: palette, axes, captions, creating and saving."""

import math
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

from q2pi.types import Array

COLOURS = ("#4477AA", "#EE6677", "#228833", "#AA3377", "#CCBB44", "#66CCEE", "#777777")
"""Distinguishable with colour blindness (Tol 2021, "Colour Schemes", the bright scheme)."""
BLUE, RED, GREEN = COLOURS[:3]
INK, QUIET, GRID, PAPER = "#222222", "#666666", "#E6E6E6", "#FFFFFF"
DPI = 150
LINE = 135
"""Number of characters in a line of the subtitle."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure with constrained layout; width and height are in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI)
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.15)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure in the format of the path's suffix (.png, .svg, .pdf) and return the path; missing folders are
    created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    thin_ticks(figure)
    figure.savefig(path, format=path.suffix[1:] or "png", facecolor=PAPER)
    return path


def thin_ticks(figure: Figure) -> None:
    """Reduce the number of ticks of each horizontal axis until their labels are apart from each other."""
    for count in range(7, 0, -1):
        figure.draw_without_rendering()
        crowded = [axes for axes in figure.axes if _labels_touch(axes)]
        if not crowded:
            return
        for axes in crowded:
            axes.xaxis.set_major_locator(MaxNLocator(count, min_n_ticks=1))


def _labels_touch(axes: Axes) -> bool:
    """Return whether two labels of the horizontal axis are less than half a character apart; fixed ticks are kept."""
    if isinstance(axes.xaxis.get_major_locator(), FixedLocator | NullLocator):
        return False
    low, high = sorted(axes.get_xlim())
    ticks = [tick for tick in axes.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    boxes = sorted(tuple(tick.label1.get_window_extent().intervalx) for tick in ticks if tick.label1.get_text())
    gap = 0.3 * float(axes.xaxis.get_major_ticks()[0].label1.get_fontsize()) * axes.figure.dpi / 72
    return any(right[0] - left[1] < gap for left, right in pairwise(boxes))


def grid_of_panels(figure: Figure, count: int, columns: int) -> list[Axes]:
    """Return `count` axes in rows of at most `columns`."""
    columns = min(columns, count)
    panels = list(figure.subplots(math.ceil(count / columns), columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.remove()
    return panels[:count]


def style_axes(axes: Axes, size: float = 10) -> None:
    """Apply the style to axes: pale grid behind the data, gray tick labels of a font size, no box."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=size, colors=QUIET, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#BBBBBB")


def finish_axes(
    axes: Axes,
    y: str,
    title: str = "",
    subtitle: str = "",
    small: bool = False,
    x: str = "agent steps",
    from_zero: bool = True,
) -> None:
    """Label the axes and apply the style.

    Args:
        axes: axes after drawing; the horizontal axis has whole numbers.
        y: label of the vertical axis.
        title: above the axes, in bold.
        subtitle: below the title, wrapped.
        small: whether the axes are one of several panels.
        x: label of the horizontal axis.
        from_zero: whether the horizontal axis begins at 0.
    """
    size = 9 if small else 11
    style_axes(axes, size - 1)
    axes.set_xlabel(x, fontsize=size, color=INK)
    axes.set_ylabel(y, fontsize=size, color=INK)
    if title:
        lines = [line for part in subtitle.splitlines() for line in textwrap.wrap(part, LINE, break_on_hyphens=False)]
        axes.set_title(title, loc="left", fontsize=14, fontweight="bold", color=INK, pad=14 + 13 * len(lines))
        text = axes.annotate("\n".join(lines), (0, 1), (0, 9), "axes fraction", "offset points")
        text.set(fontsize=8.5, color=QUIET, linespacing=1.45, in_layout=False)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.locator_params(axis="x", nbins=4 if small else 8)
    if from_zero:
        axes.set_xlim(left=0)


def error_bars(means: Array, intervals: Sequence[tuple[float, ...]]) -> Array:
    """Return intervals in the format of matplotlib: distances [2, n] below and above the means."""
    low, high = np.array(intervals).T
    return np.maximum(0, [means - low, high - means])


def point_style(colour: str) -> dict[str, Any]:
    """Return the keyword arguments of `Axes.errorbar` for evaluations: hollow diamonds."""
    return {
        "fmt": "D",
        "color": colour,
        "markersize": 6,
        "markerfacecolor": "white",
        "markeredgewidth": 1.6,
        "elinewidth": 1.6,
        "capsize": 3,
    }
