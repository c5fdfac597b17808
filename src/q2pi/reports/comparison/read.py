"""Grouping of run folders into cells: one environment and one method, with runs that differ only in their seeds.

A method is an algorithm, the name of its preset if runs with several presets are compared, and the options in which its
runs with one preset on one environment differ. Options that differ only between environments or presets do not
distinguish methods: a preset that differs by environment is one method. Rules of the environment (sticky actions, ...)
distinguish methods if any two runs on one environment differ in them, so no cell mixes two protocols. The number of
evaluation episodes is no property of a method.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q2pi.errors import UserError
from q2pi.reports.labels import Options, differing, options_of, refuse_same_seeds, short, without_effect
from q2pi.runs.folder import RunFolder
from q2pi.runs.history import History, evaluation_policy, read_history

RULES = (
    *("env.protocol", "env.repeat_action_probability", "env.noop_max", "env.fire_on_reset"),
    *("env.frame_skip", "env.max_frames_per_episode", "env.full_action_space", "env.env_options"),
)
"""Rules of the environment that scores depend on, for all algorithms. The policy in evaluation is an option of the
algorithm; it is reported with every cell, as are the budget and the number of evaluation episodes."""


@dataclass(frozen=True)
class Sample:
    """A finished run and its score."""

    history: History
    score: float
    """Mean raw score over the episodes of the evaluation at the end of training."""
    episodes: int
    policy: str
    """Policy in the evaluation, such as "epsilon-greedy, epsilon 0.001"."""

    @property
    def seconds(self) -> NDArray[np.float64]:
        """[E] seconds of training, without evaluations, at the end of each training episode."""
        steps = [0, *(row["step"] for row in self.history.train)]
        total = np.cumsum([0.0, *(row.get("train_seconds", np.nan) for row in self.history.train)])
        seconds: NDArray[np.float64] = np.interp(self.history.steps, steps, total)
        return seconds

    @property
    def minutes(self) -> float:
        """Minutes of training, without evaluations; NaN if the run did not record them."""
        return float(sum(row.get("train_seconds", np.nan) for row in self.history.train)) / 60


Cells = dict[str, dict[str, list[Sample]]]
"""Environment -> method -> runs by seed."""


def collect(runs: Iterable[RunFolder]) -> tuple[Cells, dict[str, str]]:
    """Return (cells, run -> reason for leaving it out); environments and methods are in order of first occurrence.

    Raises:
        UserError: a damaged run, two runs of one configuration and one seed, or no run with a score.
    """
    samples, left_out = [], {}
    for run in runs:
        sample = _read(run)
        if isinstance(sample, str):
            left_out[str(run.path)] = sample
        else:
            samples.append(sample)
    if not samples:
        first = next(iter(left_out.items()), None)
        raise UserError(f"no run has a score to report: {': '.join(first)}" if first else "no run to report on")
    cells: Cells = {}
    for sample, method in zip(samples, method_names([sample.history for sample in samples]), strict=True):
        cells.setdefault(sample.history.env_id, {}).setdefault(method, []).append(sample)
    for methods in cells.values():
        for cell in methods.values():
            refuse_same_seeds(sample.history for sample in cell)
            cell.sort(key=lambda sample: sample.history.seed)
    return cells, left_out


def method_names(histories: Sequence[History]) -> list[str]:
    """Return the name of each run's method: its algorithm, its preset and the options that distinguish methods."""
    options = [options_of(history) for history in histories]
    rules = _differing_rules(histories, options)
    groups: dict[tuple[str, str, str | None], list[Options]] = {}
    presets: dict[tuple[str, str], set[str | None]] = {}
    for history, table in zip(histories, options, strict=True):
        groups.setdefault((history.algorithm, history.env_id, history.preset), []).append(table)
        presets.setdefault((history.algorithm, history.env_id), set()).add(history.preset)
    distinguishing = {history.algorithm: set(rules) for history in histories}
    for (algorithm, _, _), tables in groups.items():
        distinguishing[algorithm] |= differing(tables)
    compared = {algorithm for (algorithm, _), found in presets.items() if len(found) > 1}
    names = []
    for history, table in zip(histories, options, strict=True):
        wanted = sorted(distinguishing[history.algorithm] - without_effect(history))
        words = [f"{short(name)} {_text(table.get(name))}" for name in wanted]
        if history.algorithm in compared:
            words.insert(0, f"preset {history.preset or 'none'}")
        names.append(", ".join([history.algorithm, *words]))
    return names


def _differing_rules(histories: Sequence[History], options: Sequence[Options]) -> set[str]:
    """Return the options of `RULES` in which any two runs of one environment differ."""
    by_env: dict[str, list[Options]] = {}
    for history, table in zip(histories, options, strict=True):
        by_env.setdefault(history.env_id, []).append(table)
    return set().union(*map(differing, by_env.values())) & set(RULES)


def _read(run: RunFolder) -> Sample | str:
    """Return a finished run with its score, or the reason why it has none."""
    history = read_history(run)
    budget = history.total_timesteps
    if history.newest_step < budget:
        return f"not finished: at step {history.newest_step:,} of {budget:,}"
    last = max(history.evaluations, default=0)
    if last < budget:
        return "not evaluated at its end (evaluation_episodes is 0)"
    statistics = history.evaluations[last]
    policy = evaluation_policy(run)
    if policy is None:
        raise UserError(f"{run.evaluation_file} is missing")
    try:
        return Sample(history, float(statistics["mean"]), int(statistics["n"]), policy)
    except (ValueError, KeyError, TypeError) as problem:
        raise UserError(f"{run.metrics_file} is damaged: {problem!r}") from problem


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(_text, value))
    return "default" if value is None else f"{value:,}" if type(value) is int else str(value)
