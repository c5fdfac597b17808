"""Learning curves from run folders: one run, a mean over seeds, several configurations, or published results.

The data are in `config.toml`, `metrics.jsonl` and `evaluation.json`. Training returns are averaged over windows of
agent steps, see `windows`.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from q2pi.reports.labels import curve_labels, leaves, refuse_same_seeds, rules_of
from q2pi.reports.style import COLOURS, INK, error_bars, finish_axes, new_figure, point_style, save_figure
from q2pi.reports.windows import Numbers, default_width, window_means, window_means_of_all
from q2pi.runs.folder import RunFolder
from q2pi.runs.history import History, evaluation_policy, read_history
from q2pi.statistics.scores import bootstrap_interval, mean

PANEL_NAMES = {"loss": "loss per update", "q": "mean Q-value"}
NOT_PANELS = ("updates", "epsilon", "seconds", "wall_seconds", "train_seconds", "kind", "step")


def learning_curves(runs: Sequence[RunFolder], path: Path, *, width: int = 0) -> Path | None:
    """Draw training returns, evaluations and training metrics, write a PNG and return its path.

    Runs that differ only in their seed become one curve: the mean over seeds, with a 95 % bootstrap interval over
    seeds, up to the last step that all of them have reached. A single run shows its episodes as dots, and the intervals
    of its evaluations are over episodes.

    Args:
        runs: in the order of the legend.
        path: file of the PNG; missing folders are created.
        width: agent steps of a window for averaging; 0 chooses about 50 windows of 10 or more episodes.

    Returns:
        `path`, or None if no run has an episode or an evaluation yet.

    Raises:
        UserError: a damaged run, or two runs of one configuration and one seed.
    """
    histories = [history for history in map(read_history, runs) if len(history.steps) or history.evaluations]
    if not histories:
        return None
    groups = _groups(histories)
    width = width or default_width(histories)
    metrics = _metrics(histories)
    figure = new_figure(9.6, 7.6 if metrics else 5.4)
    mosaic: list[Any] = [["return"] * len(metrics), metrics] if metrics else [["return"]]
    axes = figure.subplot_mosaic(mosaic, height_ratios=[2.4, 1][: len(mosaic)])
    for colour, (label, group) in zip(cycle(COLOURS), groups.items(), strict=False):
        _draw_returns(axes["return"], group, width, colour, f"{label}: " if len(groups) > 1 else "")
        for name in metrics:
            _draw_metric(axes[name], group, name, width, colour)
    finish_axes(axes["return"], "raw return per episode", _title(histories), _subtitle(histories, groups, width))
    axes["return"].legend(frameon=False, fontsize=9, labelcolor=INK)
    for name in metrics:
        finish_axes(axes[name], PANEL_NAMES.get(name, name.replace("_", " ")), small=True)
    return save_figure(figure, path)


def published_comparison(
    run: RunFolder, published: Mapping[str, Sequence[tuple[int, float]]], path: Path, *, width: int = 250_000
) -> Path | None:
    """Draw a run's mean training return in each window and published results; write a PNG and return its path.

    A window is drawn at its last agent step. The run's interval (95 %, bootstrap) is over the episodes of one seed; the
    labels of the published results should name what they average over.

    Args:
        run: the run; incomplete windows are not drawn.
        published: label -> (agent steps, raw return) pairs.
        path: file of the PNG; missing folders are created.
        width: agent steps of a window.

    Returns:
        `path`, or None if no episode ended in a complete window.

    Raises:
        UserError: a damaged run.
    """
    history = read_history(run)
    count = history.newest_step // width
    means = window_means(history.steps, history.returns, width, count)
    windows = np.flatnonzero(~np.isnan(means))
    if not len(windows):
        return None
    ends = (windows + 1) * width
    returns, window = np.array(history.returns), (np.array(history.steps) - 1) // width
    intervals = [bootstrap_interval(returns[window == k], mean) for k in windows]
    figure = new_figure(9.6, 5.8)
    axes = figure.subplots()
    styles = zip(published.items(), cycle(COLOURS[1:]), cycle("s^vDPX"), strict=False)
    for (label, points), colour, marker in styles:
        steps, scores = zip(*points, strict=True)
        axes.plot(steps, scores, color=colour, linestyle="--", linewidth=1.4, marker=marker, markersize=6, label=label)
    label = f"q2pi {history.algorithm}, seed {history.seed}"
    style = point_style(COLOURS[0]) | {"fmt": "o-", "linewidth": 2.4, "markerfacecolor": COLOURS[0]}
    axes.errorbar(ends, means[windows], yerr=error_bars(means[windows], intervals), label=label, zorder=5, **style)
    axes.set_ylim(bottom=0)
    finish_axes(
        axes,
        "mean raw training return per episode",
        f"{_title([history])}, and published training returns",
        f"{rules_of(history.run.env())}\n"
        f"points: mean over the training episodes that ended in the last {width:,} agent steps; "
        "bars: 95 % bootstrap over these episodes",
    )
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return save_figure(figure, path)


def _groups(histories: Sequence[History]) -> dict[str, list[History]]:
    """Return label -> runs that differ only in their seed."""
    groups: dict[str, list[History]] = {}
    for history in histories:
        table = sorted(item for item in leaves(history.config) if item[0] != "seed")
        groups.setdefault(repr(table), []).append(history)
    for group in groups.values():
        refuse_same_seeds(group)
    labels = curve_labels([group[0] for group in groups.values()])
    return dict(zip(labels, groups.values(), strict=True))


def _metrics(histories: Sequence[History]) -> list[str]:
    """Return the names of the first two training metrics."""
    names = dict.fromkeys(name for history in histories for row in history.train[-1:] for name in row)
    return [name for name in names if name not in NOT_PANELS][:2]


def _draw_returns(axes: Axes, group: Sequence[History], width: int, colour: str, prefix: str) -> None:
    curves = [(history.steps, history.returns) for history in group if len(history.steps)]
    seeds = f"{len(curves)} seeds" if len(curves) > 1 else f"seed {group[0].seed}"
    if len(curves) == 1:
        axes.plot(*curves[0], ".", color=colour, alpha=0.35, markersize=5, markeredgewidth=0, zorder=1)
    if curves:
        _draw_curve(axes, curves, width, colour, f"{prefix}training, {seeds}")
    steps = sorted(set.intersection(*(set(history.evaluations) for history in group)))
    if not steps:
        return
    means = np.array([[history.evaluations[step]["mean"] for step in steps] for history in group])
    if len(group) > 1:
        intervals = [bootstrap_interval(scores, mean) for scores in means.T]
    else:
        intervals = [tuple(group[0].evaluations[step]["mean_interval"]) for step in steps]
    middle = means.mean(axis=0)
    bars = error_bars(middle, intervals)
    axes.errorbar(steps, middle, yerr=bars, label=f"{prefix}evaluation", zorder=5, **point_style(colour))


def _draw_metric(axes: Axes, group: Sequence[History], name: str, width: int, colour: str) -> None:
    rows = [[(row["step"], row[name]) for row in history.train if name in row] for history in group]
    curves = [(np.array(steps), np.array(values)) for steps, values in (zip(*row, strict=True) for row in rows if row)]
    if curves:
        _draw_curve(axes, curves, width, colour)


def _draw_curve(
    axes: Axes, curves: Sequence[tuple[Numbers, Numbers]], width: int, colour: str, label: str | None = None
) -> None:
    """Draw the mean of several runs with its interval, in the windows in which every run has a value."""
    centres, means = window_means_of_all(curves, width)
    marker = "o" if len(centres) == 1 else None
    axes.plot(centres, means.mean(axis=0), color=colour, linewidth=2, marker=marker, label=label, zorder=3)
    if len(curves) > 1 and len(centres):
        low, high = zip(*(bootstrap_interval(column, mean, resamples=1000) for column in means.T), strict=True)
        axes.fill_between(centres, low, high, color=colour, alpha=0.18, linewidth=0, zorder=2)


def _title(histories: Sequence[History]) -> str:
    algorithms = dict.fromkeys(history.algorithm for history in histories)
    envs = dict.fromkeys(history.env_id for history in histories)
    return f"{', '.join(algorithms)} on {', '.join(envs)}"


def _subtitle(histories: Sequence[History], groups: Mapping[str, Sequence[History]], width: int) -> str:
    """Return the protocol of the curves and evaluations."""
    rules = dict.fromkeys(rules_of(history.run.env()) for history in histories)
    sizes = [len(group) for group in groups.values()]
    parts = [f"training: mean over the episodes that ended in each {width:,} agent steps"]
    parts += ["dots: single episodes"] if min(sizes) == 1 else []
    parts += ["bands: 95 % bootstrap interval over seeds"] if max(sizes) > 1 else []
    episodes = sorted({statistics["n"] for history in histories for statistics in history.evaluations.values()})
    if episodes:
        policies = {evaluation_policy(history.run) for history in histories if history.evaluations}
        policy = policies.pop() if len(policies) == 1 else None
        over = " or ".join(dict.fromkeys("seeds" if size > 1 else "episodes" for size in sizes))
        parts.append(
            f"evaluation: {' or '.join(map(str, episodes))} whole episodes{f' ({policy})' if policy else ''}, "
            f"95 % interval over {over}"
        )
    first = next(iter(rules)) if len(rules) == 1 else "the runs differ in their environments' rules"
    return f"{first}\n{'; '.join(parts)}"
