"""Summary statistics of scores, with confidence intervals.

Source of the interquartile mean and the stratified bootstrap: Agarwal et al. 2021, "Deep Reinforcement Learning at the
Edge of the Statistical Precipice". A NaN among the scores makes every statistic of them NaN.
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
    """Return the standard deviation over all elements, divided by n, not n - 1.

    This is numpy's default, and the std of "mean - std" on Hugging Face's leaderboard. It describes the spread of the
    scores, not the uncertainty of their mean: see `bootstrap_interval`.
    """
    return float(np.std(_checked(scores)))


def median(scores: ArrayLike) -> float:
    """Return the median over all elements."""
    return float(np.median(_checked(scores)))


def interquartile_mean(scores: ArrayLike) -> float:
    """Return the mean without the floor(n / 4) lowest and the floor(n / 4) highest elements."""
    ordered = np.sort(_checked(scores), axis=None)
    if np.isnan(ordered[-1]):  # NaN sorts last: trimming would hide it
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

    Each resample draws n scores with replacement; the interval spans the central `confidence` of the statistic's values
    over the resamples. The resamples depend only on `seed`. With one score the interval has no width; with few scores
    the bootstrap interval under-covers. Source: Efron 1979.

    Args:
        scores: [n], at least one.
        statistic: [n] -> number, such as `mean` or `interquartile_mean`.
        confidence: in (0, 1).
        resamples: number of resamples, at least 1.
        seed: of the stream "bootstrap".

    Raises:
        ValueError: no scores, or `scores` is not a vector.
    """
    values = _checked(scores)
    if values.ndim != 1:
        raise ValueError(f"scores has shape {values.shape}, expected one dimension")
    low, high = stratified_intervals([values], lambda strata: statistic(strata[0]), confidence, resamples, seed)
    return float(low), float(high)


def stratified_bootstrap_interval(
    scores: ArrayLike,
    statistic: Callable[[Array], float],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return (low, high) over runs and tasks: runs are drawn with replacement within each task, never across tasks.

    The interval is for other seeds on the same tasks; differences between tasks do not widen it. Source:
    Agarwal et al. 2021, section 4.1.

    Args:
        scores: [runs, tasks], normalised so that tasks are comparable.
        statistic: [runs, tasks] -> number, such as `interquartile_mean`.
        confidence: in (0, 1).
        resamples: number of resamples, at least 1.
        seed: of the stream "bootstrap".

    Raises:
        ValueError: no scores, or `scores` is not a matrix.
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

    Each stratum is resampled with replacement to its own size; strata are not mixed.

    Args:
        strata: arrays [n, ...], such as the scores of one method's runs on one task.
        statistic: strata of the same shapes -> a number or an array; one interval per element (pointwise).
        confidence: in (0, 1).
        resamples: number of resamples, at least 1.
        seed: of the stream "bootstrap".

    Raises:
        ValueError: no strata, or an empty stratum.
    """
    values = [_checked(stratum) for stratum in strata]
    if not values:
        raise ValueError("there are no scores")
    generator = stream(seed, "bootstrap")
    statistics = [
        statistic([stratum[generator.integers(len(stratum), size=len(stratum))] for stratum in values])
        for _ in range(resamples)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.asarray(statistics, np.float64), [tail, 1 - tail], axis=0)
    return low, high


def human_normalized(score: Score, random: float, human: float) -> Score:
    """Return (score - random) / (human - random): 0 for the random policy, 1 for the human reference.

    Source: Mnih et al. 2015 (there in percent).

    Args:
        score: a raw score, or an array of them.
        random: the raw score of the random policy.
        human: the raw score of the human reference.

    Raises:
        ValueError: the two references are equal.
    """
    if human == random:
        raise ValueError(f"the reference scores of random and human are both {human}: nothing to normalise by")
    return (score - random) / (human - random)


def summary(scores: ArrayLike, seed: int = 0) -> dict[str, Any]:
    """Return the statistics of `scores` [n] as a JSON-able dict.

    Keys: n, mean, std (divided by n), median, iqm, iqm_interval and mean_interval ([low, high], 95 % percentile
    bootstrap), mean_minus_std, min, max.

    Raises:
        ValueError: no scores, or `scores` is not a vector.
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
