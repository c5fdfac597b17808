"""Comparisons of methods over runs and tasks, after Agarwal et al. 2021.

Source: Agarwal, Schwarzer, Castro, Courville, Bellemare 2021, "Deep Reinforcement Learning at the Edge of the
Statistical Precipice", sections 4.1 to 4.3. Scores are one vector [n] per task; n may differ between tasks. All
intervals are 95 % percentile bootstrap intervals with the tasks as strata: they are for other runs on the same tasks,
not for other tasks. They need at least two runs of every task: check `has_interval` first.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from q2pi.statistics.scores import Interval, interquartile_mean, stratified_intervals

Array = NDArray[np.float64]


def has_interval(*methods: Sequence[ArrayLike]) -> bool:
    """Return whether every task of every method has at least two runs, as a bootstrap interval needs."""
    return all(np.size(scores) > 1 for tasks in methods for scores in tasks)


def aggregate_iqm(tasks: Sequence[ArrayLike]) -> float:
    """Return the interquartile mean of all runs of all tasks together: the mean of the middle half (section 4.3).

    Args:
        tasks: [n] for each task, normalised so that tasks are comparable; a task with more runs weighs more.
    """
    return interquartile_mean(np.concatenate([np.asarray(scores, np.float64) for scores in tasks]))


def aggregate_iqm_interval(tasks: Sequence[ArrayLike], resamples: int = 2000, seed: int = 0) -> Interval:
    """Return the stratified bootstrap interval of `aggregate_iqm`."""
    low, high = stratified_intervals(tasks, aggregate_iqm, resamples=resamples, seed=seed)
    return float(low), float(high)


def performance_profile(tasks: Sequence[ArrayLike], thresholds: ArrayLike) -> Array:
    """Return the run-score distribution: the share of runs that score more than each threshold (section 4.2).

    F(tau) = mean over tasks m of mean over runs n of [score(m, n) > tau].

    Args:
        tasks: [n] for each task.
        thresholds: [T]

    Returns:
        [T] in [0, 1].
    """
    levels = np.asarray(thresholds, np.float64)
    columns = [np.asarray(scores, np.float64)[:, np.newaxis] for scores in tasks]
    share: Array = np.mean([np.mean(np.where(np.isnan(x), np.nan, x > levels), axis=0) for x in columns], axis=0)
    return share


def performance_profile_intervals(
    tasks: Sequence[ArrayLike], thresholds: ArrayLike, resamples: int = 2000, seed: int = 0
) -> tuple[Array, Array]:
    """Return (low, high) [T]: pointwise stratified bootstrap intervals of `performance_profile`."""
    return stratified_intervals(
        tasks, lambda strata: performance_profile(strata, thresholds), resamples=resamples, seed=seed
    )


def probability_of_improvement(first: Sequence[ArrayLike], second: Sequence[ArrayLike]) -> float:
    """Return the probability that a run of the first method beats a run of the second on a random task.

    P = mean over tasks of 1 / (n k) sum over runs x of the first and y of the second of [x > y] + [x = y] / 2, which
    is Mann and Whitney's U / (n k) averaged over tasks (section 4.3). 1/2 is no difference. The size of differences
    does not matter, so scores need not be normalised.

    Args:
        first: [n] for each task.
        second: [k] for each of the same tasks.

    Raises:
        ValueError: the numbers of tasks differ or are 0.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"{len(first)} and {len(second)} tasks: they must be the same, one or more")
    return float(np.mean([_beats(x, y) for x, y in zip(first, second, strict=True)]))


def probability_of_improvement_interval(
    first: Sequence[ArrayLike], second: Sequence[ArrayLike], resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the interval of `probability_of_improvement`; the strata are the tasks of each method."""
    count = len(first)
    low, high = stratified_intervals(
        [*first, *second],
        lambda strata: probability_of_improvement(strata[:count], strata[count:]),
        resamples=resamples,
        seed=seed,
    )
    return float(low), float(high)


def mean_curve(curves: ArrayLike, resamples: int = 1000, seed: int = 0) -> tuple[Array, Array | None, Array | None]:
    """Return (mean, low, high) [T] over the curves [n, T] of n runs; the interval is pointwise, None for one run."""
    values = np.asarray(curves, np.float64)
    middle: Array = values.mean(axis=0)
    if len(values) < 2:
        return middle, None, None
    low, high = stratified_intervals([values], lambda strata: strata[0].mean(axis=0), resamples=resamples, seed=seed)
    return middle, low, high


def _beats(first: ArrayLike, second: ArrayLike) -> float:
    difference = np.subtract.outer(np.asarray(first, np.float64), np.asarray(second, np.float64))
    return float(np.mean((np.sign(difference) + 1) / 2))
