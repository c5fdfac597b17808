"""Data of the charts: learning curves with intervals, training metrics, and the speed of each part of training."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from q2pi.reports.labels import curve_labels, leaves
from q2pi.reports.style import COLOURS
from q2pi.reports.windows import default_width, window_means_of_all
from q2pi.runs.history import History
from q2pi.statistics.scores import bootstrap_interval, mean

INK, LINES = "#7b828d", "#7b828d44"
"""Gray that is readable on white and on dark paper."""
POINTS = 400
"""Largest number of points of a curve that the browser gets."""
RESAMPLES = 400
"""Bootstrap resamples of a live curve; reports use more."""
NOT_METRICS = ("updates", "epsilon", "seconds", "wall_seconds", "train_seconds", "kind", "step")

Point = tuple[float, float]


@lru_cache(maxsize=4096)
def _interval(values: tuple[float, ...]) -> tuple[float, float]:
    return bootstrap_interval(np.array(values), mean, resamples=RESAMPLES)


def return_curve(histories: Sequence[History], width: int) -> list[tuple[float, float, float, float]]:
    """Return (agent step, mean, low, high) of each window of training returns.

    Of one run the 95 % interval is over the episodes of the window; of several runs, which differ in their seed, over
    the runs' means, in the windows in which every run has an episode.

    Args:
        histories: runs with at least one episode.
        width: agent steps of a window.
    """
    if len(histories) > 1:
        centres, means = window_means_of_all([(history.steps, history.returns) for history in histories], width)
        columns = [tuple(column) for column in means.T.tolist()]
    else:
        returns, window = np.array(histories[0].returns), (np.array(histories[0].steps) - 1) // width
        filled = np.unique(window)
        centres = (filled + 0.5) * width
        columns = [tuple(returns[window == index].tolist()) for index in filled]
    return [
        (float(centre), float(np.mean(column)), *_interval(column))
        for centre, column in zip(centres, columns, strict=True)
    ]


def by_configuration(histories: Sequence[History]) -> list[tuple[str, list[History]]]:
    """Return (label, runs) of each configuration: runs that differ only in their seed; no seed occurs twice."""
    groups: dict[str, dict[int, History]] = {}
    for history in histories:
        options = {name: value for name, value in leaves(history.config) if name != "seed"}
        groups.setdefault(repr(sorted(options.items(), key=str)), {}).setdefault(history.seed, history)
    runs = [list(by_seed.values()) for by_seed in groups.values()]
    labels = curve_labels([group[0] for group in runs])
    return [
        (f"{label} ({len(group)} seeds)" if len(group) > 1 else label, group)
        for label, group in zip(labels, runs, strict=True)
    ]


def thinned(points: Sequence[Point], most: int = POINTS) -> list[Point]:
    """Return at most `most` points: means of groups of neighbours."""
    if len(points) <= most:
        return [(float(x), float(y)) for x, y in points]
    groups = np.array_split(np.array(points, np.float64), most)
    return [(float(group[:, 0].mean()), float(group[:, 1].mean())) for group in groups]


def metric_names(history: History) -> list[str]:
    """Return the names of the training metrics of a run."""
    names = {name: None for row in history.train[-50:] for name in row if name not in NOT_METRICS}
    return list(names)


def metric_curve(history: History, name: str) -> list[Point]:
    """Return (agent step, value) of a training metric; rows without it, or with NaN, are left out."""
    points = [(row["step"], row[name]) for row in history.train if isinstance(row.get(name), int | float)]
    return thinned([(step, value) for step, value in points if math.isfinite(value)])


def speed_of_parts(history: History, rows: int = 20) -> dict[str, float]:
    """Return microseconds per agent step of each part of training, over the newest rows of metrics."""
    newest = history.train[-rows:]
    before = history.train[-rows - 1]["step"] if len(history.train) > rows else 0
    steps = newest[-1]["step"] - before if newest else 0
    totals: dict[str, float] = {}
    for row in newest:
        for name, seconds in row.get("seconds", {}).items():
            totals[name] = totals.get(name, 0.0) + seconds
    return {name: 1e6 * seconds / steps for name, seconds in totals.items()} if steps > 0 else {}


def steps_per_second(history: History, rows: int = 20) -> float:
    """Return agent steps per wall-clock second over the newest rows of metrics, NaN if there are fewer than two."""
    newest = history.train[-rows:]
    if len(newest) < 2:
        return float("nan")
    seconds = newest[-1]["wall_seconds"] - newest[0]["wall_seconds"]
    return float(newest[-1]["step"] - newest[0]["step"]) / seconds if seconds > 0 else float("nan")


def axes(x: str) -> dict[str, Any]:
    """Return the options that all charts share; `x` is the label of the horizontal axis."""
    text = {"color": INK}
    line = {"lineStyle": {"color": LINES}}
    shared = {"axisLabel": text, "axisLine": line, "splitLine": line, "nameTextStyle": text, "nameGap": 28}
    return {
        "animation": False,
        "color": list(COLOURS),
        "grid": {"left": 56, "right": 18, "top": 34, "bottom": 52},
        "legend": {"textStyle": text, "top": 0, "type": "scroll"},
        "tooltip": {"trigger": "axis", "confine": True},
        "xAxis": {"type": "value", "name": x, "nameLocation": "middle", **shared, "min": 0},
        "yAxis": {"type": "value", **shared, "scale": True},
        "series": [],
    }


def empty(options: dict[str, Any], words: str) -> dict[str, Any]:
    """Return the options of a chart, with words in its middle if it has no data."""
    if not any(series["data"] for series in options["series"]):
        style = {"color": INK, "fontSize": 13, "fontWeight": "normal"}
        options["title"] = {"text": words, "left": "center", "top": "middle", "textStyle": style}
    return options


def band(name: str, colour: str, points: Sequence[tuple[float, float, float, float]]) -> list[dict[str, Any]]:
    """Return the series of a curve with its interval, from (x, mean, low, high)."""
    hidden = {"lineStyle": {"opacity": 0}, "symbol": "none", "silent": True, "tooltip": {"show": False}}
    return [
        {"type": "line", "name": name, "data": [[x, y] for x, y, _, _ in points], "itemStyle": {"color": colour},
         "lineStyle": {"color": colour, "width": 2.2}, "symbolSize": 4, "showSymbol": len(points) < 3, "z": 3},
        {"type": "line", "name": f"{name} low", "stack": name, "stackStrategy": "all",
         "data": [[x, low] for x, _, low, _ in points], **hidden},
        {"type": "line", "name": f"{name} interval", "stack": name, "stackStrategy": "all",
         "data": [[x, high - low] for x, _, low, high in points],
         "areaStyle": {"color": colour, "opacity": 0.18}, **hidden},
    ]  # fmt: skip


def evaluation_points(name: str, colour: str, history: History) -> list[dict[str, Any]]:
    """Return the series of a run's evaluations: hollow diamonds, with 95 % intervals over episodes as bars."""
    rows = sorted(history.evaluations.items())
    if not rows:
        return []
    data = [[step, s["mean"], *s["mean_interval"]] for step, s in rows]
    lines = [[{"coord": [step, low]}, {"coord": [step, high]}] for step, _, low, high in data]
    return [
        {"type": "scatter", "name": name, "data": [[step, value] for step, value, _, _ in data], "symbol": "diamond",
         "symbolSize": 11, "itemStyle": {"color": "#00000000", "borderColor": colour, "borderWidth": 2}, "z": 4,
         "markLine": {"symbol": "none", "silent": True, "animation": False, "label": {"show": False}, "data": lines,
                      "lineStyle": {"color": colour, "width": 2, "type": "solid"}}},
    ]  # fmt: skip


def returns_chart(named: Sequence[tuple[str, Sequence[History]]], with_evaluations: bool) -> dict[str, Any]:
    """Return the options of the chart of returns.

    Args:
        named: (label, runs that differ only in their seed) of each curve.
        with_evaluations: whether to draw the evaluations of curves of one run.
    """
    options = axes("agent steps")
    filled = [(name, [history for history in group if len(history.steps)]) for name, group in named]
    drawn = [history for _, group in filled for history in group]
    width = default_width(drawn) if drawn else 1
    for index, (name, group) in enumerate(filled):
        colour = COLOURS[index % len(COLOURS)]
        if group:
            options["series"] += band(name, colour, return_curve(group, width))
        if with_evaluations and len(named[index][1]) == 1:
            options["series"] += evaluation_points(f"{name}: evaluation", colour, named[index][1][0])
    shown = [series["name"] for series in options["series"] if series["type"] == "scatter" or "symbolSize" in series]
    options["legend"]["data"] = shown
    return empty(options, "no episode has ended yet")


def metric_chart(named: Sequence[tuple[str, History]], name: str) -> dict[str, Any]:
    """Return the options of the chart of one training metric."""
    options = axes("agent steps")
    options["series"] = [
        {"type": "line", "name": label, "data": [list(point) for point in metric_curve(history, name)],
         "symbol": "none", "lineStyle": {"width": 2}}
        for label, history in named
    ]  # fmt: skip
    return empty(options, "no metrics yet")


def speed_chart(named: Sequence[tuple[str, History]]) -> dict[str, Any]:
    """Return the options of the chart of the time per agent step, by part of training."""
    options = axes("microseconds per agent step")
    parts = {label: speed_of_parts(history) for label, history in named}
    names = list(dict.fromkeys(name for by_part in parts.values() for name in by_part))
    options["xAxis"]["splitNumber"] = 4
    options["yAxis"] = {
        "type": "category",
        "data": list(parts),
        "axisLabel": {"color": INK, "width": 90, "overflow": "truncate"},
    }
    options["grid"]["left"] = 100
    options["series"] = [
        {"type": "bar", "name": name, "stack": "all", "barMaxWidth": 34,
         "data": [round(by_part.get(name, 0.0), 2) for by_part in parts.values()]}
        for name in names
    ]  # fmt: skip
    return empty(options, "no metrics yet")
