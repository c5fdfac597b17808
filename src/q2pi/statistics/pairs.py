"""Test and interval of a mean paired difference that hold their level with few pairs: the exact sign-flip test.

If the two scores of a pair have the same distribution, a difference is as likely as its negative, whatever the
distribution is: under this hypothesis all 2^n choices of signs of n differences are equally likely. The two-sided
p-value is the share of choices whose mean is at least as far from 0 as the observed mean. The interval contains the
shifts that the test does not reject, so it excludes 0 exactly when the test is significant.

Why not another method: percentile bootstrap intervals over 10 pairs have 90 % coverage in place of 95 %. A paired t
interval and a studentised bootstrap are approximate for scores at a ceiling, such as 500 in CartPole. The sign-flip
test needs no distribution. Its price: n pairs cannot give a p-value below 2^(1 - n).

Source: Fisher 1935, "The Design of Experiments", section 21; the interval: Hartigan 1969, "Using Subsample Values as
Typical Values".
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from q2pi.rng import stream

Array = NDArray[np.float64]
EXACT_PAIRS = 13
"""Largest number of pairs for which all 2^n choices of signs are computed; more pairs use 2^13 random choices."""
ROUNDING = 1e-12
"""Relative size below which a mean of differences is 0: rounding must not break the ties of the test."""


def least_p_value(pairs: int) -> float:
    """Return the smallest two-sided p-value that the sign-flip test of this many pairs can reach."""
    return 2.0 ** (1 - min(pairs, EXACT_PAIRS))


def sign_flip_interval(differences: ArrayLike, confidence: float = 0.95, seed: int = 0) -> tuple[Array, Array]:
    """Return (low, high) [...]: the interval of the mean difference that inverts the sign-flip test.

    The interval excludes 0 exactly if the two-sided p-value is at most 1 - confidence. For shifts other than 0 the
    level also needs differences that are symmetric about their mean. A NaN among the differences gives NaN.

    Args:
        differences: [n, ...], first minus second score of each of n pairs, at least one; one interval per column.
        confidence: in (0, 1). If `least_p_value` is above 1 - confidence, the interval is (-inf, inf).
        seed: of the stream "sign flips", used for more than 13 pairs.

    Raises:
        ValueError: no differences.
    """
    values = np.asarray(differences, np.float64)
    if values.size == 0:
        raise ValueError("there are no differences")
    count = len(values)
    # Flipping the signs of a subset at shift s gives a mean at least as large if the subset's mean is at most s. So the
    # one-sided p-value at s is (1 + number of subset means <= s) / (1 + number of subsets).
    subsets = _subsets(count, seed)
    sizes = subsets.sum(axis=1).reshape(-1, *[1] * (values.ndim - 1))
    means = np.tensordot(subsets, values, axes=1) / sizes
    means[np.abs(means) <= ROUNDING * np.abs(values).max(axis=0)] = 0
    rejected = int((1 - confidence) / 2 * (1 + len(subsets)) + 1e-9)
    if rejected == 0:
        infinite = np.where(np.isnan(values).any(axis=0), np.nan, np.inf)
        return -infinite, infinite
    means = np.sort(means, axis=0)
    low, high = means[rejected - 1], means[-rejected]
    return np.asarray(low), np.asarray(high)


def _subsets(count: int, seed: int) -> Array:
    """Return subsets of `count` pairs as rows of 0 and 1: all nonempty ones, or random ones of more than 13 pairs."""
    if count <= EXACT_PAIRS:
        numbers = np.arange(1, 2**count)
        return (numbers[:, np.newaxis] >> np.arange(count) & 1).astype(np.float64)
    drawn = stream(seed, "sign flips").integers(2, size=(2**EXACT_PAIRS - 1, count))
    return drawn[drawn.any(axis=1)].astype(np.float64)
