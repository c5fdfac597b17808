"""Scores in few numbers, each with its uncertainty.

Source of the interquartile mean and the stratified bootstrap: Agarwal et al. 2021, "Deep Reinforcement Learning at the
Edge of the Statistical Precipice". A score that is NaN makes every number that depends on the scores NaN.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from q2pi.rng import stream

Array = NDArray[np.float64]
Interval = tuple[float, float]
Score = TypeVar("Score", float, NDArray[Any])


def mean(scores: ArrayLike) -> float:
    """Return the arithmetic mean over all elements."""
    return float(np.mean(_checked(scores)))


def std(scores: ArrayLike) -> float:
    """Return the standard deviation over all elements, divided by n and not n - 1.

    It is numpy's default and the one behind "mean - std" on Hugging Face's leaderboard; it describes these episodes,
    and is no estimate of the uncertainty of their mean: see `bootstrap_interval`.
    """
    return float(np.std(_checked(scores)))


def median(scores: ArrayLike) -> float:
    """Return the median over all elements."""
    return float(np.median(_checked(scores)))


def interquartile_mean(scores: ArrayLike) -> float:
    """Return the mean of what is left without the floor(n / 4) lowest and the floor(n / 4) highest elements."""
    ordered = np.sort(_checked(scores), axis=None)
    if np.isnan(ordered[-1]):  # NaN sorts last, where trimming would hide it
        return float("nan")
    cut = len(ordered) // 4
    return float(np.mean(ordered[cut : len(ordered) - cut]))


def bootstrap_interval(
    scores: ArrayLike,
    statistic: Callable[[Array], float],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return (low, high): the percentile bootstrap interval of `statistic`.

    The scores are drawn n at a time with replacement; the interval spans the central `confidence` of the statistic's
    values on the draws. The draws depend on `seed` alone. With one score the interval has no width, and with few it
    is too narrow: it cannot know of what was never seen. Source: Efron 1979.

    Args:
        scores: [n], at least one.
        statistic: [n] -> number, such as `mean` or `interquartile_mean`.
        confidence: in (0, 1).
        resamples: how many draws, at least 1.
        seed: of the stream "bootstrap".

    Raises:
        ValueError: where there are no scores or `scores` is not a vector.
    """
    values = _checked(scores)
    if values.ndim != 1:
        raise ValueError(f"scores has shape {values.shape}, expected one dimension")
    low, high = stratified_intervals([values], lambda strata: statistic(strata[0]), confidence, resamples, seed)
    return float(low), float(high)


def paired_bootstrap_interval(
    first: ArrayLike,
    second: ArrayLike,
    statistic: Callable[[Array], float],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return (low, high) of statistic(first) - statistic(second) over pairs that are drawn together.

    What the two of a pair share, such as a seed, so cancels. Where the interval leaves 0 out, the difference is more
    than the choice of pairs. Source: Efron and Tibshirani 1993, chapter 8 (one-sample resampling of pairs).

    Args:
        first: [n, ...] for instance the scores of each seed's episodes.
        second: [n, ...] in the same order of pairs.
        statistic: [n, ...] -> number.
        confidence: in (0, 1).
        resamples: how many draws, at least 1.
        seed: of the stream "bootstrap".

    Raises:
        ValueError: where there are no scores or the numbers of pairs differ.
    """
    ours, theirs = _checked(first), _checked(second)
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} scores cannot be paired with {len(theirs)}")

    def difference(rows: Array) -> float:
        drawn = rows.astype(np.int64)
        return statistic(ours[drawn]) - statistic(theirs[drawn])

    return bootstrap_interval(np.arange(len(ours)), difference, confidence, resamples, seed)


def stratified_bootstrap_interval(
    scores: ArrayLike,
    statistic: Callable[[Array], float],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return (low, high) over runs and tasks: runs are drawn with replacement within each task, never across tasks.

    So the interval speaks of other seeds on the same tasks, and the tasks' differences do not widen it. Source:
    Agarwal et al. 2021, section 4.1.

    Args:
        scores: [runs, tasks], normalised so that tasks compare.
        statistic: [runs, tasks] -> number, such as `interquartile_mean`.
        confidence: in (0, 1).
        resamples: how many draws, at least 1.
        seed: of the stream "bootstrap".

    Raises:
        ValueError: where there are no scores or `scores` is not a matrix.
    """
    values = _checked(scores)
    if values.ndim != 2:
        raise ValueError(f"scores has shape {values.shape}, expected (runs, tasks)")
    low, high = stratified_intervals(
        list(values.T), lambda strata: statistic(np.stack(strata, axis=1)), confidence, resamples, seed
    )
    return float(low), float(high)


def stratified_intervals(
    strata: Sequence[ArrayLike],
    statistic: Callable[[list[Array]], ArrayLike],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[Array, Array]:
    """Return (low, high) [...]: percentile bootstrap intervals of a statistic [...] of strata of any sizes.

    Each stratum is drawn anew from itself, as often as it has elements; elements of two strata never change places.

    Args:
        strata: arrays [n, ...], such as the scores of one method's runs on one task.
        statistic: strata of the same shapes -> a number or an array; its elements have an interval each (pointwise).
        confidence: in (0, 1).
        resamples: how many draws, at least 1.
        seed: of the stream "bootstrap".

    Raises:
        ValueError: where there are no strata or one of them is empty.
    """
    values = [_checked(stratum) for stratum in strata]
    if not values:
        raise ValueError("there are no scores")
    generator = stream(seed, "bootstrap")
    draws = [
        statistic([stratum[generator.integers(len(stratum), size=len(stratum))] for stratum in values])
        for _ in range(resamples)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.asarray(draws, np.float64), [tail, 1 - tail], axis=0)
    return low, high


def human_normalized(score: Score, random: float, human: float) -> Score:
    """Return (score - random) / (human - random): 0 for a random player, 1 for the human reference.

    Source: Mnih et al. 2015 (there in percent).

    Args:
        score: a raw score, or an array of them.
        random: the raw score of a random player.
        human: the raw score of the human reference.

    Raises:
        ValueError: where the two references are equal.
    """
    if human == random:
        raise ValueError(f"the reference scores of random and human are both {human}: nothing to normalise by")
    return (score - random) / (human - random)


def summary(scores: ArrayLike, seed: int = 0) -> dict[str, Any]:
    """Return the statistics of `scores` [n] as a dict that is ready for JSON.

    Keys: n, mean, std (divided by n), median, iqm, iqm_interval and mean_interval ([low, high], 95 % percentile
    bootstrap), mean_minus_std, min, max.

    Raises:
        ValueError: where there are no scores or `scores` is not a vector.
    """
    values = _checked(scores)
    return {
        "n": len(values),
        "mean": mean(values),
        "std": std(values),
        "median": median(values),
        "iqm": interquartile_mean(values),
        "iqm_interval": list(bootstrap_interval(values, interquartile_mean, seed=seed)),
        "mean_interval": list(bootstrap_interval(values, mean, seed=seed)),
        "mean_minus_std": mean(values) - std(values),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
    }


def _checked(scores: ArrayLike) -> Array:
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0:
        raise ValueError("there are no scores")
    return values
