"""Figures of a study's report."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from q2pi.algorithms.common.search_space import Choice, Float, Int, OneMinus, PowerOfTwo, Range, Space
from q2pi.reports.style import BLUE, GREEN, INK, QUIET, RED, grid_of_panels, new_figure, save_figure, style_axes
from q2pi.tuning.objective import Curve
from q2pi.tuning.records import Record

COLUMNS = 4


def history(records: Sequence[Record], path: Path, name: str) -> None:
    """Draw the objective over trials, the best so far, and the defaults."""
    figure, (axes,) = _figure(8, 3.6)
    for state, colour, text in (("pruned", QUIET, "pruned, last value"), ("complete", BLUE, "complete")):
        trials = _with_value(records, state)
        mark = "x" if state == "pruned" else "o"
        axes.plot([r.number for r, _ in trials], [value for _, value in trials], mark, color=colour, ms=5, label=text)
    done = _with_value(records, "complete")
    axes.step(
        [record.number for record, _ in done],
        np.maximum.accumulate([value for _, value in done]),
        where="post",
        color=BLUE,
        alpha=0.6,
        label="best so far",
    )
    if done and done[0][0].number == 0:
        axes.axhline(done[0][1], color=RED, lw=1, ls="--", label="defaults")
    axes.set_xlabel("trial")
    axes.set_ylabel(name)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def importance(shares: Mapping[str, float], path: Path) -> None:
    """Draw the importance of each option: its share of the variance of the objective."""
    figure, (axes,) = _figure(8, 0.8 + 0.28 * len(shares))
    names = list(shares)[::-1]
    axes.barh(names, [shares[name] for name in names], color=BLUE)
    axes.set_xlabel("share of the variance of the objective (PED-ANOVA)")
    save_figure(figure, path)


def slices(records: Sequence[Record], space: Space, path: Path, name: str) -> None:
    """Draw the objective over each option."""
    groups = {state: _with_value(records, state) for state in ("pruned", "complete")}
    shown = [record for group in groups.values() for record, _ in group]
    defaults = [(record, value) for record, value in groups["complete"] if record.number == 0]
    figure, panels = _figure(11, 2.5 * math.ceil(len(space) / COLUMNS), len(space))
    for axes, (option, values) in zip(panels, space.items(), strict=True):
        for state, colour, mark in (("pruned", QUIET, "x"), ("complete", BLUE, "o")):
            x = [_coordinate(values, record.options[option]) for record, _ in groups[state]]
            axes.plot(x, [value for _, value in groups[state]], mark, color=colour, ms=4, alpha=0.8)
        for record, value in defaults:
            axes.plot([_coordinate(values, record.options[option])], [value], "s", color=RED, ms=6)
        _scale(axes, values, [record.options[option] for record in shown])
        axes.set_title(option, fontsize=9, color=INK)
        axes.tick_params(labelsize=7)
    figure.supylabel(name, fontsize=9)
    save_figure(figure, path)


def parallel(records: Sequence[Record], space: Space, path: Path, name: str) -> None:
    """Draw each completed trial as a line through its options, coloured by its objective."""
    from matplotlib import colormaps

    done = sorted(_with_value(records, "complete"), key=lambda pair: pair[1])
    figure, (axes,) = _figure(11, 4.2)
    low, high = done[0][1], done[-1][1]
    columns = [_column(values, [record.options[option] for record, _ in done]) for option, values in space.items()]
    for index, (record, value) in enumerate(done):
        share = (value - low) / (high - low or 1)
        heights = [column[index] for column in columns]
        line = {"color": RED, "ls": "--"} if record.number == 0 else {"color": colormaps["viridis"](share)}
        axes.plot(range(len(space)), heights, alpha=0.8, lw=1 + share, **line)
    axes.set_xticks(range(len(space)), space, rotation=30, ha="right", fontsize=8)
    axes.set_yticks([0, 1], ["lowest", "highest"], fontsize=8)
    axes.set_title(f"{name} from {low:.1f} (dark) to {high:.1f} (bright); the defaults dashed", fontsize=9)
    save_figure(figure, path)


def curves(records: Sequence[Record], path: Path) -> None:
    """Draw the learning curve of each trial: means of evaluations, averaged over its seeds."""
    figure, (axes,) = _figure(8, 4)
    best, _ = max(_with_value(records, "complete"), key=lambda pair: pair[1], default=(None, None))
    for record in records:
        line: dict[str, Any] = {"color": BLUE, "alpha": 0.35, "lw": 1}
        if record.state == "pruned":
            line = {"color": QUIET, "alpha": 0.6, "lw": 1, "ls": ":"}
        if record.number == 0:
            line = {"color": RED, "lw": 2, "label": "defaults"}
        elif record is best:
            line = {"color": GREEN, "lw": 2, "label": f"best, trial {record.number}"}
        for steps, means in _averaged(record.curves):
            axes.plot(steps, means, **line)
    axes.plot([], [], color=BLUE, alpha=0.5, label="complete")
    axes.plot([], [], color=QUIET, ls=":", label="pruned")
    axes.set_xlabel("agent steps")
    axes.set_ylabel("evaluation: mean return over episodes and seeds")
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def final(result: dict[str, Any], path: Path) -> None:
    """Draw each candidate's estimate on held-out seeds with its interval, and one dot per seed."""
    entries = result["candidates"]
    figure, (axes,) = _figure(8, 1.2 + 0.55 * len(entries))
    for row, entry in enumerate(reversed(entries)):
        colour = RED if entry["label"] == "defaults" else BLUE
        axes.plot(entry["by_seed"], [row] * len(entry["by_seed"]), "o", color=colour, alpha=0.3, ms=4)
        axes.plot(entry["interval"], [row, row], color=colour, lw=3, solid_capstyle="butt")
        axes.plot([entry["estimate"]], [row], "D", color=INK, ms=5)
    axes.set_yticks(range(len(entries)), [entry["label"] for entry in reversed(entries)])
    axes.set_xlabel(f"{result['objective']} on {len(result['seeds'])} held-out seeds, 95 % interval over seeds")
    save_figure(figure, path)


def _figure(width: float, height: float, count: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels; width and height are in inches."""
    figure = new_figure(width, height)
    panels = grid_of_panels(figure, count, COLUMNS)
    for axes in panels:
        style_axes(axes, 8)
    return figure, panels


def _with_value(records: Sequence[Record], state: str) -> list[tuple[Record, float]]:
    """Return (trial, objective) of the trials in a state that have an objective."""
    return [(record, record.value) for record in records if record.state == state and record.value is not None]


def _averaged(curves: Sequence[Curve]) -> list[tuple[list[int], list[float]]]:
    """Return [(steps, means over seeds)] up to the last evaluation that all seeds have; [] without seeds."""
    if not curves:
        return []
    count = min(len(curve) for curve in curves)
    steps = [point.step for point in curves[0][:count]]
    return [(steps, [float(np.mean([curve[index].mean for curve in curves])) for index in range(count)])]


def _coordinate(values: Range, value: Any) -> Any:
    """Return the coordinate of an option's value on its axis."""
    if isinstance(values, OneMinus):
        return 1 - value
    return _text(value) if isinstance(values, Choice) else np.nan if value is None else value


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _scale(axes: Axes, values: Range, shown: Sequence[Any]) -> None:
    """Set the scale of an axis to the scale on which the option is sampled, with three ticks."""
    numbers = [_coordinate(values, value) for value in shown if value is not None]
    match values:
        case OneMinus():
            axes.set_xlabel("1 - value", fontsize=7)
        case PowerOfTwo() | Float(log=True) | Int(log=True):
            pass
        case _:
            return
    if not numbers or min(numbers) <= 0:
        return
    axes.set_xscale("log")
    low, high = min(numbers), max(numbers)
    ticks = sorted({low, math.sqrt(low * high), high})
    axes.set_xticks(ticks, [f"{tick:.2g}" if tick < 100 else f"{tick:.0f}" for tick in ticks])
    axes.set_xticks([], minor=True)


def _column(values: Range, shown: Sequence[Any]) -> list[float]:
    """Return the height of each value, from 0 (lowest value tried) to 1, on the scale of its range."""
    if isinstance(values, Choice):
        texts = sorted({_text(value) for value in shown} | {_text(value) for value in values.options})
        return [texts.index(_text(value)) / max(1, len(texts) - 1) for value in shown]
    numbers = np.array([values.low if value is None else value for value in shown], np.float64)
    if isinstance(values, OneMinus):
        numbers = -np.log(np.maximum(1 - numbers, 1e-9))
    elif isinstance(values, PowerOfTwo) or values.log:
        numbers = np.log(np.maximum(numbers, 1e-12))
    span = float(np.ptp(numbers))
    return [float(share) for share in (numbers - numbers.min()) / (span or 1)]
