"""Figures from run folders: learning curves of one run, over seeds or side by side, and a run beside published points.

All is read from `config.toml` and `metrics.jsonl`. Training returns are averaged over windows of agent steps:

    agent steps    0 |<--- width --->| width |<--- width --->| 2 width
    episodes             x   x     x             x        x
    drawn                    o (mean of 3)         o (mean of 2)

An episode belongs to the window in which it ended, a window's last step included.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from q2pi.config import RunConfig, to_table
from q2pi.envs.spec import EnvSpec
from q2pi.errors import UserError
from q2pi.reports.style import (
    COLOURS,
    INK,
    _point_style,
    error_bars,
    finish_axes,
    new_figure,
    save_figure,
)
from q2pi.runs.folder import RunFolder
from q2pi.runs.history import History, read_history
from q2pi.statistics.scores import bootstrap_interval, mean
from q2pi.types import Array

PANEL_NAMES = {"loss": "loss per update", "q": "mean Q-value"}
NOT_PANELS = ("updates", "epsilon", "seconds", "elapsed", "spent", "kind", "step")
WINDOWS = 50
EPISODES_PER_WINDOW = 10
KEYS_IN_LABEL = 3


def window_means(steps: Array, values: Array, width: int, count: int) -> Array:
    """Return the mean of the values in each window, NaN where it holds none.

    Args:
        steps: [E] agent steps, each at least 1; window k holds k * width < step <= (k + 1) * width.
        values: [E]
        width: agent steps of a window.
        count: how many windows; values beyond the last are left out.

    Returns:
        [count] float64.
    """
    window = (np.asarray(steps, np.int64) - 1) // width
    totals = np.bincount(window, weights=values, minlength=count)[:count]
    sizes = np.bincount(window, minlength=count)[:count]
    means: Array = np.divide(totals, sizes, out=np.full(count, np.nan), where=sizes > 0)
    return means


def learning_curves(runs: Sequence[RunFolder], path: Path, *, width: int = 0) -> Path | None:
    """Draw training returns, evaluations and the learner's scalars, write a PNG and return its path.

    Runs that differ only in their seed become one curve: the mean over seeds, with a 95 % bootstrap interval over
    seeds, as far as all of them have come. A single run shows its episodes as dots; its evaluations' intervals are
    over episodes.

    Args:
        runs: in the order of the legend.
        path: of the PNG; missing folders are made.
        width: agent steps of a window of averaging; 0 chooses some 50 windows of ten or more episodes.

    Returns:
        `path`, or None where no run has an episode or an evaluation yet.

    Raises:
        UserError: a damaged run, or two runs of one configuration and one seed.
    """
    histories = [history for history in map(read_history, runs) if len(history.steps) or history.evaluations]
    if not histories:
        return None
    groups = _groups(histories)
    width = width or _width(histories)
    scalars = _scalars(histories)
    figure = new_figure(9.6, 7.6 if scalars else 5.4)
    mosaic: list[Any] = [["return"] * len(scalars), scalars] if scalars else [["return"]]
    axes = figure.subplot_mosaic(mosaic, height_ratios=[2.4, 1][: len(mosaic)])
    for colour, (label, group) in zip(cycle(COLOURS), groups.items(), strict=False):
        _draw_returns(axes["return"], group, width, colour, f"{label}: " if len(groups) > 1 else "")
        for name in scalars:
            _draw_scalar(axes[name], group, name, width, colour)
    finish_axes(axes["return"], "raw return per episode", _title(histories), _subtitle(histories, groups, width))
    axes["return"].legend(frameon=False, fontsize=9, labelcolor=INK)
    for name in scalars:
        finish_axes(axes[name], PANEL_NAMES.get(name, name.replace("_", " ")), small=True)
    return save_figure(figure, path)


def published_comparison(
    run: RunFolder, published: Mapping[str, Sequence[tuple[int, float]]], path: Path, *, width: int = 250_000
) -> Path | None:
    """Draw a run's mean training return in each window beside published points; write a PNG and return its path.

    Windows and points stand at the end of the steps they speak of. The run's interval (95 %, bootstrap) is over the
    episodes of one seed; what the published points are means of, their labels should say.

    Args:
        run: the run; windows that it has not completed are not drawn.
        published: label -> (agent steps, raw return) pairs.
        path: of the PNG; missing folders are made.
        width: agent steps of a window.

    Returns:
        `path`, or None where the run has not completed a window in which an episode ended.

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
    intervals = [bootstrap_interval(history.returns[(history.steps - 1) // width == k], mean) for k in windows]
    figure = new_figure(9.6, 5.8)
    axes = figure.subplots()
    styles = zip(published.items(), cycle(COLOURS[1:]), cycle("s^vDPX"), strict=False)
    for (label, points), colour, marker in styles:
        steps, scores = zip(*points, strict=True)
        axes.plot(steps, scores, color=colour, linestyle="--", linewidth=1.4, marker=marker, markersize=6, label=label)
    label = f"q2pi {history.config.algorithm}, seed {history.config.seed}"
    style = _point_style(COLOURS[0]) | {"fmt": "o-", "linewidth": 2.4, "markerfacecolor": COLOURS[0]}
    axes.errorbar(ends, means[windows], yerr=error_bars(means[windows], intervals), label=label, zorder=5, **style)
    axes.set_ylim(bottom=0)
    finish_axes(
        axes,
        "mean raw training return per episode",
        f"{_title([history])}, beside published training returns",
        f"{rules_of(history.config.env)}\n"
        f"points: mean over the training episodes that ended in the {width:,} agent steps before; "
        "bars: 95 % bootstrap over these episodes",
    )
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return save_figure(figure, path)


def _groups(histories: Sequence[History]) -> dict[str, list[History]]:
    """Return the histories that differ only in their seed, under the label of each such group."""
    groups: dict[str, dict[int, History]] = {}
    for history in histories:
        config = history.config
        group = groups.setdefault(json.dumps(to_table(dataclasses.replace(config, seed=0)), sort_keys=True), {})
        if config.seed in group:
            twin = group[config.seed].run.path
            raise UserError(f"{twin} and {history.run.path} are one run: same configuration, same seed {config.seed}")
        group[config.seed] = history
    members = [list(group.values()) for group in groups.values()]
    return dict(zip(_labels([group[0].config for group in members]), members, strict=True))


def _labels(configs: Sequence[RunConfig[Any]]) -> list[str]:
    """Return what tells each configuration from the others, in few words."""
    labels = []
    for config in configs:
        family = [peer for peer in configs if _family(peer) == _family(config)]
        tables = [dict(leaves(to_table(dataclasses.replace(peer, seed=0)))) for peer in family]
        own = tables[family.index(config)]
        names = sorted({name for table in tables for name in table})
        differing = [name for name in names if any(table.get(name) != own.get(name) for table in tables)]
        words = [f"{name.rpartition('.')[2]} {own.get(name, 'default')}" for name in differing]
        words = words if len(words) <= KEYS_IN_LABEL else [*words[:KEYS_IN_LABEL], "..."]
        alone = len({_family(peer) for peer in configs}) == 1
        labels.append(", ".join(words if alone and words else [" on ".join(_family(config)), *words]))
    return [label if labels.count(label) == 1 else f"{label} ({index})" for index, label in enumerate(labels, 1)]


def _family(config: RunConfig[Any]) -> tuple[str, str]:
    return config.algorithm, config.env.env_id


def leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of every option in nested tables."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _width(histories: Sequence[History]) -> int:
    """Return a round number of agent steps: some 50 windows, wider where episodes are few."""
    longest = max(history.newest_step for history in histories)
    sparse = max(history.newest_step / max(1, len(history.steps)) for history in histories)
    return window_width(longest, sparse)


def window_width(longest: float, sparse: float) -> int:
    """Return a round whole number: some 50 windows in `longest`, wider where there is an episode in `sparse` only."""
    wanted = min(max(longest / WINDOWS, EPISODES_PER_WINDOW * sparse), longest / 4)
    power = 10 ** max(0, math.floor(math.log10(max(1, wanted))))
    return int(next(digit * power for digit in (1, 2, 3, 4, 5, 6, 8, 10) if digit * power >= wanted or digit == 10))


def _scalars(histories: Sequence[History]) -> list[str]:
    """Return the names of the two scalars that the learners report first."""
    names = dict.fromkeys(name for history in histories for row in history.train[-1:] for name in row)
    return [name for name in names if name not in NOT_PANELS][:2]


def _draw_returns(axes: Axes, group: Sequence[History], width: int, colour: str, prefix: str) -> None:
    curves = [(history.steps, history.returns) for history in group if len(history.steps)]
    seeds = f"{len(curves)} seeds" if len(curves) > 1 else f"seed {group[0].config.seed}"
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
    axes.errorbar(steps, middle, yerr=bars, label=f"{prefix}evaluation", zorder=5, **_point_style(colour))


def _draw_scalar(axes: Axes, group: Sequence[History], name: str, width: int, colour: str) -> None:
    rows = [[(row["step"], row[name]) for row in history.train if name in row] for history in group]
    curves = [(np.array(steps), np.array(values)) for steps, values in (zip(*row, strict=True) for row in rows if row)]
    if curves:
        _draw_curve(axes, curves, width, colour)


def _draw_curve(
    axes: Axes, curves: Sequence[tuple[Array, Array]], width: int, colour: str, label: str | None = None
) -> None:
    """Draw the mean over runs of their window means, with its interval, in the windows for which every run has one."""
    count = -(-int(max(steps[-1] for steps, _ in curves)) // width)
    means = np.stack([window_means(steps, values, width, count) for steps, values in curves])
    full = np.flatnonzero(~np.isnan(means).any(axis=0))
    means, centres = means[:, full], (full + 0.5) * width
    marker = "o" if len(full) == 1 else None
    axes.plot(centres, means.mean(axis=0), color=colour, linewidth=2, marker=marker, label=label, zorder=3)
    if len(curves) > 1 and len(full):
        low, high = zip(*(bootstrap_interval(column, mean, resamples=1000) for column in means.T), strict=True)
        axes.fill_between(centres, low, high, color=colour, alpha=0.18, linewidth=0, zorder=2)


def _title(histories: Sequence[History]) -> str:
    algorithms = dict.fromkeys(history.config.algorithm for history in histories)
    envs = dict.fromkeys(history.config.env.env_id for history in histories)
    return f"{', '.join(algorithms)} on {', '.join(envs)}"


def _subtitle(histories: Sequence[History], groups: Mapping[str, Sequence[History]], width: int) -> str:
    """Return the protocol of all that is drawn."""
    rules = dict.fromkeys(rules_of(history.config.env) for history in histories)
    sizes = [len(group) for group in groups.values()]
    parts = [f"training: mean over the episodes that ended in each {width:,} agent steps"]
    parts += ["dots: single episodes"] if min(sizes) == 1 else []
    parts += ["bands: 95 % bootstrap interval over seeds"] if max(sizes) > 1 else []
    judged = sorted({statistics["n"] for history in histories for statistics in history.evaluations.values()})
    if judged:
        epsilons = dict.fromkeys(getattr(history.config.hyper, "eval_epsilon", None) for history in histories)
        exploration = f" at epsilon {next(iter(epsilons)):g}" if len(epsilons) == 1 and None not in epsilons else ""
        over = " or ".join(dict.fromkeys("seeds" if size > 1 else "episodes" for size in sizes))
        episodes = " or ".join(map(str, judged))
        parts.append(f"evaluation: {episodes} whole episodes{exploration}, 95 % interval over {over}")
    first = next(iter(rules)) if len(rules) == 1 else "the runs differ in their environments' rules"
    return f"{first}\n{'; '.join(parts)}"


def rules_of(env: EnvSpec) -> str:
    """Return an environment's rules, as far as scores depend on them."""
    if env.protocol is None:
        return f"raw rewards, {'clipped' if env.clip_rewards else 'not clipped'} for learning"
    sticky = env.repeat_action_probability
    return "; ".join(
        (
            f"{env.protocol} protocol, {f'sticky actions {sticky:g}' if sticky else 'no sticky actions'}",
            f"whole games{', a lost life ends the return for learning' if env.life_loss_discount else ''}",
            f"raw scores{' (rewards clipped for learning)' if env.clip_rewards else ''}",
            f"1 agent step = {env.frame_skip} frames",
        )
    )
