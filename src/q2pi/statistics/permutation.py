"""Test and interval of the difference of two means that hold their level with few runs: the exact permutation test.

If two methods have the same distribution of scores, every split of the n + m scores into n and m is equally likely. The
two-sided p-value counts the splits whose difference of means is at least as far out as the observed one. The interval
contains the shifts that the test does not reject, so it excludes 0 exactly if the test is significant.

It needs no distribution and no pairs, as runs of two methods with equal seeds are not paired. Its price: n and m runs
cannot give a p-value below 2 / C(n + m, n), so 95 % needs at least four runs each.

Source: Fisher 1935, "The Design of Experiments", chapter 3; Pitman 1937, "Significance Tests Which May be Applied to
Samples from any Populations". For pairs, see `q2pi.statistics.pairs`.
"""

import math
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from q2pi.rng import stream
from q2pi.statistics.scores import Interval

EXACT_SPLITS = 13_000
"""Largest number of splits that are all computed (8 and 8 runs); more runs use this many random splits."""
ROUNDING = 1e-12
"""Relative size below which a difference is 0: rounding must not break the ties of the test."""


def least_p_value(first: int, second: int) -> float:
    """Return the smallest two-sided p-value that the test of this many runs can reach."""
    return min(1.0, 2 / min(math.comb(first + second, first), EXACT_SPLITS))


def permutation_interval(first: ArrayLike, second: ArrayLike, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Return (low, high): the interval of mean(first) - mean(second) that inverts the permutation test.

    Args:
        first: [n] scores of one method, at least one.
        second: [m] scores of the other.
        confidence: in (0, 1). If `least_p_value` is above 1 - confidence, the interval is (-inf, inf).
        seed: of the stream "permutations", used if there are more than EXACT_SPLITS splits.

    Raises:
        ValueError: a method without scores.
    """
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.size == 0 or other.size == 0:
        raise ValueError("a method has no scores")
    # A split exchanges k scores of each method. At shift s its difference of means is at least the observed one if the
    # mean of the exchanged scores of the first method, minus that of the second, is at most s. So the one-sided p-value
    # at s is (1 + number of these numbers <= s) / (1 + their number).
    leaves, enters = _exchanges(len(one), len(other), seed)
    count = leaves.sum(axis=1)
    shifts = (leaves @ one - enters @ other) / count
    shifts[np.abs(shifts) <= ROUNDING * max(np.abs(one).max(), np.abs(other).max())] = 0
    rejected = int((1 - confidence) / 2 * (1 + len(shifts)) + 1e-9)
    if rejected == 0:
        return -math.inf, math.inf
    shifts.sort()
    return float(shifts[rejected - 1]), float(shifts[-rejected])


def _exchanges(first: int, second: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return which scores of each method are exchanged, 0 or 1: [splits, first] and [splits, second]."""
    total = first + second
    if math.comb(total, first) <= EXACT_SPLITS:
        stays = np.zeros((math.comb(total, first), total))
        for row, chosen in enumerate(combinations(range(total), first)):
            stays[row, list(chosen)] = 1
    else:
        stays = np.zeros((EXACT_SPLITS, total))
        stays[:, :first] = 1
        stays = stream(seed, "permutations").permuted(stays, axis=1)
    moved = stays[:, first:].any(axis=1)
    return 1 - stays[moved, :first], stays[moved, first:]
