"""The permutation test: examples by hand, an oracle that enumerates splits, and its error rate with few runs."""

import math
from itertools import combinations

import numpy as np
import pytest

from q2pi.statistics.permutation import EXACT_SPLITS, least_p_value, permutation_interval
from q2pi.types import Array


def p_value(first: Array, second: Array) -> float:
    """Return the two-sided p-value: twice the smaller tail, by enumeration of all splits."""
    scores = np.concatenate([first, second])
    observed = first.mean() - second.mean()
    differences = []
    for chosen in combinations(range(len(scores)), len(first)):
        rest = [index for index in range(len(scores)) if index not in chosen]
        differences.append(scores[list(chosen)].mean() - scores[rest].mean())
    tails = (np.mean(np.array(differences) >= observed - 1e-9), np.mean(np.array(differences) <= observed + 1e-9))
    return min(1.0, 2 * float(min(tails)))


def test_an_interval_by_hand() -> None:
    """Scores 5 and 9 against 1 and 2: single exchanges give 4, 3, 8, 7, exchanging both gives 5.5."""
    assert permutation_interval([5, 9], [1, 2], 1 - 2 / 6) == (3.0, 8.0)
    assert permutation_interval([5, 9], [1, 2], 1 - 4 / 6) == (4.0, 7.0)
    assert permutation_interval([5, 9], [1, 2], 0.95) == (-math.inf, math.inf)


def test_the_least_p_value() -> None:
    assert least_p_value(4, 4) == pytest.approx(2 / 70)
    assert least_p_value(3, 3) > 0.05 > least_p_value(4, 4)
    assert math.isinf(permutation_interval([1, 2, 3], [7, 8, 9])[0])
    assert permutation_interval([1, 2, 3, 4], [7, 8, 9, 10])[1] < 0


def test_the_interval_excludes_a_shift_exactly_if_the_test_rejects_it() -> None:
    generator = np.random.default_rng(0)
    for sizes in ((4, 4), (5, 4), (3, 6)):
        for _ in range(8):
            first = generator.integers(0, 9, size=sizes[0]).astype(np.float64)  # with ties
            second = generator.integers(0, 9, size=sizes[1]).astype(np.float64)
            low, high = permutation_interval(first, second, 0.9)
            for shift in (0.0, 1.5, low, high, low - 1e-3, high + 1e-3):
                assert (low <= shift <= high) == (p_value(first - shift, second) > 0.1 + 1e-9), (low, high, shift)


def test_equal_methods_get_a_verdict_in_five_percent_of_cases_at_most() -> None:
    """Of skewed scores, five seeds each: a bootstrap interval excludes 0 more often."""
    generator = np.random.default_rng(1)
    excluded = 0
    for _ in range(400):
        low, high = permutation_interval(generator.exponential(size=5), generator.exponential(size=5))
        excluded += not low <= 0 <= high
    assert excluded / 400 < 0.075


def test_many_runs_use_random_splits() -> None:
    generator = np.random.default_rng(2)
    first, second = generator.normal(1, 1, 30), generator.normal(0, 1, 30)
    assert math.comb(60, 30) > EXACT_SPLITS
    low, high = permutation_interval(first, second)
    assert (low, high) == permutation_interval(first, second)
    difference, error = first.mean() - second.mean(), math.sqrt(first.var() / 30 + second.var() / 30)
    assert (low, high) == pytest.approx((difference - 2 * error, difference + 2 * error), abs=0.4 * error)


def test_no_scores_are_an_error() -> None:
    with pytest.raises(ValueError, match="no scores"):
        permutation_interval([], [1.0])
