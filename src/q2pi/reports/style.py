"""Figures from run folders: learning curves of one run, over seeds or side by side, and a run beside published points.

All is read from `config.toml` and `metrics.jsonl`. Training returns are averaged over windows of agent steps:

    agent steps    0 |<--- width --->| width |<--- width --->| 2 width
    episodes             x   x     x             x        x
    drawn                    o (mean of 3)         o (mean of 2)

An episode belongs to the window in which it ended, a window's last step included.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from q2pi.types import Array

COLOURS = ("#4477AA", "#EE6677", "#228833", "#AA3377", "#CCBB44", "#66CCEE", "#777777")
"""Distinct to colour-blind readers too (Tol 2021, "Colour Schemes", the bright scheme)."""
INK, QUIET, GRID = "#222222", "#666666", "#E6E6E6"
LINE = 135
"""Characters of a line of the subtitle."""


def error_bars(means: Array, intervals: Sequence[tuple[float, ...]]) -> Array:
    """Return intervals as matplotlib has them: [2, n] distances below and above the means."""
    low, high = np.array(intervals).T
    return np.maximum(0, [means - low, high - means])


def _point_style(colour: str) -> dict[str, Any]:
    return {
        "fmt": "D",
        "color": colour,
        "markersize": 6,
        "markerfacecolor": "white",
        "markeredgewidth": 1.6,
        "elinewidth": 1.6,
        "capsize": 3,
    }


def finish_axes(
    axes: Axes,
    what: str,
    title: str = "",
    subtitle: str = "",
    small: bool = False,
    x: str = "agent steps",
    from_zero: bool = True,
) -> None:
    """Name the axes and calm them down."""
    size = 9 if small else 11
    axes.set_xlabel(x, fontsize=size, color=INK)
    axes.set_ylabel(what, fontsize=size, color=INK)
    if title:
        lines = [line for part in subtitle.splitlines() for line in textwrap.wrap(part, LINE)]
        axes.set_title(title, loc="left", fontsize=14, fontweight="bold", color=INK, pad=14 + 13 * len(lines))
        text = axes.annotate("\n".join(lines), (0, 1), (0, 9), "axes fraction", "offset points")
        text.set(fontsize=8.5, color=QUIET, linespacing=1.45, in_layout=False)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=size - 1, colors=QUIET, length=0)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.locator_params(axis="x", nbins=4 if small else 8)
    if from_zero:
        axes.set_xlim(left=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#BBBBBB")


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches, laid out as its contents need."""
    figure = Figure(figsize=(width, height), dpi=150)
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.15)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG, its folder made where it is missing, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", facecolor="white")
    return path
