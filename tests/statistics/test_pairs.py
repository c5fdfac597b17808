"""The sign-flip test: examples by hand, an oracle that enumerates signs, scipy, and its error rates with few pairs."""

import itertools

import numpy as np
import pytest
import scipy.stats

from q2pi.statistics.pairs import EXACT_PAIRS, least_p_value, sign_flip_interval
from q2pi.statistics.scores import stratified_intervals
from q2pi.tuning.verdict import level
from q2pi.types import Array

STUDIES = 2000
TOP = 3


def p_value(differences: Array) -> float:
    """Return the two-sided p-value, by enumeration of all signs."""
    sums = [np.dot(signs, differences) for signs in itertools.product([1, -1], repeat=len(differences))]
    return float(np.mean(np.abs(sums) >= abs(differences.sum()) - 1e-9))


def test_an_interval_by_hand() -> None:
    """The means of subsets of 1, 2, 6 are 1, 3/2, 2, 3, 7/2, 4, 6; a level of 1/4 rejects one at each end."""
    assert sign_flip_interval([1, 2, 6], 0.75) == (1.0, 6.0)
    assert sign_flip_interval([1, 2, 6], 0.5) == (1.5, 4.0)
    assert sign_flip_interval([1, 2, 6], 0.76) == (-np.inf, np.inf)
    assert [least_p_value(count) for count in (1, 3, 6)] == [1.0, 0.25, 1 / 32]


@pytest.mark.parametrize("confidence", [0.8, 0.95, 1 - 0.05 / 3])
def test_the_interval_excludes_a_shift_exactly_if_the_test_rejects_it(confidence: float) -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        differences = generator.integers(-3, 8, size=7).astype(np.float64)  # with ties and zeros
        low, high = sign_flip_interval(differences, confidence)
        for shift in (0.0, 1.5, float(low), float(high), float(low) - 1e-3, float(high) + 1e-3):
            assert (low <= shift <= high) == (p_value(differences - shift) > 1 - confidence + 1e-12)


def test_the_p_value_agrees_with_scipy() -> None:
    differences = np.random.default_rng(1).normal(0.6, size=8)
    expected = scipy.stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    for confidence in np.linspace(0.5, 0.99, 20):
        low, high = sign_flip_interval(differences, confidence)
        assert (low > 0 or high < 0) == (expected.pvalue <= 1 - confidence)


def test_rounding_does_not_break_ties() -> None:
    """0.1 + 0.2 - 0.3 is 5.6e-17 in floating point; a mean of exactly 0 does not exclude 0."""
    low, _ = sign_flip_interval([0.1, 0.2, -0.3, 5.0], 0.5)
    assert low == 0  # the fourth smallest mean, after -0.3, -0.1 and -0.05
    assert sign_flip_interval([0.0] * 9) == (0.0, 0.0)


def test_more_pairs_use_random_signs() -> None:
    differences = np.random.default_rng(2).normal(1.0, size=40)
    low, high = sign_flip_interval(differences)
    expected = scipy.stats.t.interval(0.95, 39, differences.mean(), scipy.stats.sem(differences))
    assert (float(low), float(high)) == pytest.approx(expected, abs=0.03)
    assert sign_flip_interval(differences) == (low, high)
    assert sign_flip_interval(differences, seed=1) != (low, high)
    assert least_p_value(40) == least_p_value(EXACT_PAIRS)


def test_a_column_with_nan_is_nan_and_no_pairs_are_rejected() -> None:
    low, high = sign_flip_interval(np.array([[1.0, 1.0]] * 6 + [[1.0, np.nan]]))
    assert (low[0], high[0]) == (1.0, 1.0)
    assert np.isnan([low[1], high[1]]).all()
    assert np.isnan(sign_flip_interval([1.0, np.nan])).all()
    with pytest.raises(ValueError, match="no differences"):
        sign_flip_interval([])


def equal_scores(kind: str, seeds: int) -> Array:
    """Return scores [seeds, studies, candidates] of the defaults and three candidates that do not differ."""
    generator = np.random.default_rng(3)
    shape = (seeds, STUDIES, 1 + TOP)
    if kind == "normal":
        return generator.normal(size=shape)
    return np.where(generator.random(shape) < 0.8, 500.0, generator.uniform(20, 300, shape))


def errors(low: Array, high: Array) -> float:
    """Return the share of studies with any verdict of better or worse, from intervals [studies, comparisons]."""
    return float(np.mean(((low > 0) | (high < 0)).any(axis=1)))


@pytest.mark.parametrize("kind", ["normal", "cartpole"])
@pytest.mark.parametrize("seeds", [6, 8, 10])
def test_the_family_wise_error_rate_is_at_most_five_percent(kind: str, seeds: int) -> None:
    scores = equal_scores(kind, seeds)
    low, high = sign_flip_interval(scores[:, :, 1:] - scores[:, :, :1], 1 - level(TOP))
    rate = errors(low, high)
    assert rate <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / STUDIES)
    assert seeds > 6 or rate == 0, "6 seeds cannot reach the level for three candidates"


@pytest.mark.parametrize("seeds", [6, 8, 10])
def test_percentile_bootstrap_intervals_would_exceed_it(seeds: int) -> None:
    """Negative control: 10 % of studies with 10 seeds; all studies use the same resamples, in one bootstrap."""
    scores = equal_scores("normal", seeds)
    differences = scores[:, :, 1:] - scores[:, :, :1]
    low, high = stratified_intervals([differences], lambda strata: strata[0].mean(axis=0), 1 - level(TOP), 600)
    assert errors(low, high) > 0.08


def test_a_difference_of_two_standard_deviations_is_found_with_ten_seeds() -> None:
    scores = equal_scores("normal", 10)
    low, _ = sign_flip_interval(2 + scores[:, :, 1] - scores[:, :, 0], 1 - level(TOP))
    assert np.mean(low > 0) > 0.85
