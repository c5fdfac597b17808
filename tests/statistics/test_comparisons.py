"""Statistics over runs and tasks: examples by hand, slow oracles, scipy, and the coverage of intervals."""

import itertools

import numpy as np
import pytest
import scipy.stats

from q2pi.statistics.comparisons import (
    aggregate_iqm,
    aggregate_iqm_interval,
    has_interval,
    mean_curve,
    performance_profile,
    performance_profile_intervals,
    probability_of_improvement,
    probability_of_improvement_interval,
)
from q2pi.statistics.scores import bootstrap_interval, interquartile_mean, mean, stratified_intervals


def test_the_interquartile_mean_is_over_all_runs_of_all_tasks_together() -> None:
    assert aggregate_iqm([[1000, 1, 4, 3], [2, 5, 6, -500]]) == 3.5  # 2, 3, 4, 5 are left
    # The mean of the tasks' interquartile means, a wrong definition, agrees here only by chance: (3.5 + 3.5) / 2.
    tasks = [[0, 0, 0, 8], [4, 4, 4, 100]]
    assert aggregate_iqm(tasks) == 3.0  # 0, 4, 4, 4
    assert np.mean([interquartile_mean(scores) for scores in tasks]) == 2.0


def test_the_interquartile_mean_is_scipys_trimmed_mean() -> None:
    scores = np.random.default_rng(0).normal(size=(7, 5))
    assert aggregate_iqm(list(scores.T)) == pytest.approx(scipy.stats.trim_mean(scores, 0.25, axis=None), abs=1e-12)


def test_tasks_do_not_widen_a_stratified_interval_and_do_widen_one_that_mixes_them() -> None:
    """Every run scores 0 on one task and 1 on the other: no seed is better than another."""
    tasks = [[0.0] * 5, [1.0] * 5]
    assert aggregate_iqm_interval(tasks) == (0.5, 0.5)
    low, high = bootstrap_interval(np.concatenate(tasks), interquartile_mean)
    assert (low, high) != (0.5, 0.5)


def test_strata_may_differ_in_size() -> None:
    """The mean of [0, 1] is 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4, and [7, 7, 7] adds nothing to that."""
    low, high = stratified_intervals([[0, 1], [7, 7, 7]], lambda s: s[0].mean() + s[1].mean())
    assert (low, high) == (7.0, 8.0)


def test_intervals_of_an_array_are_those_of_its_elements() -> None:
    rows = np.random.default_rng(1).normal(size=(6, 3))
    low, high = stratified_intervals([rows], lambda strata: strata[0].mean(axis=0), resamples=300)
    for column, ends in zip(rows.T, zip(low, high, strict=True), strict=True):
        assert ends == pytest.approx(bootstrap_interval(column, mean, resamples=300))


@pytest.mark.parametrize("strata", [[], [[1.0], []]])
def test_empty_strata_are_rejected(strata: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="no scores"):
        stratified_intervals(strata, lambda values: 0.0)


def test_a_profile_by_hand() -> None:
    """A score at a threshold is not above it; each task weighs the same, however many runs it has."""
    shares = performance_profile([[0.0, 1.0, 2.0, 3.0], [1.0, 5.0]], [-1.0, 1.0, 2.5, 5.0])
    np.testing.assert_array_equal(shares, [1.0, (2 / 4 + 1 / 2) / 2, (1 / 4 + 1 / 2) / 2, 0.0])


def test_a_profile_against_its_slow_definition() -> None:
    generator = np.random.default_rng(2)
    tasks = [generator.normal(size=size) for size in (3, 4, 9)]
    thresholds = np.linspace(-2, 2, 17)
    expected = [np.mean([sum(x > tau for x in scores) / len(scores) for scores in tasks]) for tau in thresholds]
    np.testing.assert_allclose(performance_profile(tasks, thresholds), expected)
    assert np.isnan(performance_profile([[float("nan"), 1.0]], [0.0])).all()


def test_a_profiles_interval_by_hand() -> None:
    """Of two runs, 0 and 2, a resample has two, one or no scores above 1 with probabilities 1/4, 1/2, 1/4."""
    low, high = performance_profile_intervals([[0.0, 2.0]], [-1.0, 1.0, 2.0])
    np.testing.assert_array_equal([low, high], [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])


def test_probability_of_improvement_by_hand() -> None:
    assert probability_of_improvement([[3.0, 1.0]], [[2.0, 0.0]]) == 0.75  # 3 > 2, 3 > 0, 1 < 2, 1 > 0
    assert probability_of_improvement([[1.0, 1.0]], [[1.0]]) == 0.5
    # Probability 1 on the first task, 0 on the second: the size of differences does not matter.
    assert probability_of_improvement([[1e9], [0.0]], [[0.0], [1e-9]]) == 0.5
    # Tasks weigh the same, however many runs they have: (1 + 1/4) / 2.
    assert probability_of_improvement([[5.0] * 9, [1.0, 9.0]], [[4.0], [8.0, 9.5]]) == (1 + 1 / 4) / 2


def test_probability_of_improvement_is_mann_and_whitneys_u_for_each_task() -> None:
    generator = np.random.default_rng(3)
    first = [generator.integers(0, 5, size=size).astype(float) for size in (4, 7)]
    second = [generator.integers(0, 5, size=size).astype(float) for size in (6, 3)]
    shares = [scipy.stats.mannwhitneyu(x, y).statistic / (len(x) * len(y)) for x, y in zip(first, second, strict=True)]
    assert probability_of_improvement(first, second) == pytest.approx(np.mean(shares))
    assert probability_of_improvement(second, first) == pytest.approx(1 - np.mean(shares))


def test_probability_of_improvement_needs_the_same_tasks() -> None:
    with pytest.raises(ValueError, match="2 and 1 tasks"):
        probability_of_improvement([[1.0], [2.0]], [[1.0]])
    with pytest.raises(ValueError, match="0 and 0 tasks"):
        probability_of_improvement([], [])


def test_the_interval_of_an_improvement_against_all_resamples() -> None:
    first, second = np.array([1.0, 4.0, 6.0]), np.array([2.0, 3.0, 5.0])
    draws = [
        probability_of_improvement([x], [y])
        for x in itertools.product(first, repeat=3)
        for y in itertools.product(second, repeat=3)
    ]
    expected = np.quantile(draws, [0.025, 0.975])
    assert probability_of_improvement_interval([first], [second], resamples=20_000) == pytest.approx(expected, abs=0.02)


def test_both_methods_are_resampled() -> None:
    """If only the first method were resampled, the interval would be half as wide."""
    generator = np.random.default_rng(4)
    x, y = generator.normal(size=10), generator.normal(size=10)
    low, high = probability_of_improvement_interval([x], [y])
    held = stratified_intervals([x], lambda strata: probability_of_improvement(strata, [y]))
    assert high - low > 1.15 * (held[1] - held[0])


@pytest.mark.parametrize("statistic", ["iqm", "improvement"])
def test_intervals_have_their_nominal_coverage(statistic: str) -> None:
    """200 intervals of 95 % over 3 tasks of 10 runs; with so few runs the bootstrap interval is a little too narrow."""
    generator = np.random.default_rng(5)
    covered = 0
    for seed in range(200):
        x, y = generator.normal(size=(2, 3, 10))
        if statistic == "iqm":
            low, high = aggregate_iqm_interval(list(x), resamples=200, seed=seed)
            covered += low <= 0.0 <= high
        else:
            low, high = probability_of_improvement_interval(list(x), list(y), resamples=200, seed=seed)
            covered += low <= 0.5 <= high
    assert 0.88 <= covered / 200 <= 0.99  # standard error 0.016


@pytest.mark.parametrize(("seeds", "coverage"), [(2, 0.50), (3, 0.75), (5, 0.84), (10, 0.90)])
def test_coverage_with_few_seeds(seeds: int, coverage: float) -> None:
    """The coverages in reports. For 2 and 3 seeds the ends are the minimum and the maximum: exactly 1/2 and 3/4."""
    generator = np.random.default_rng(6)
    # All 1000 samples use the same resamples, in one bootstrap.
    covered = []
    for seed in range(10):
        scores = generator.normal(size=(seeds, 1000))
        low, high = stratified_intervals([scores], lambda strata: strata[0].mean(axis=0), resamples=1000, seed=seed)
        covered.append(np.mean((low <= 0) & (high >= 0)))
    assert np.mean(covered) == pytest.approx(coverage, abs=0.02)


def test_a_curve_over_runs_by_hand() -> None:
    middle, low, high = mean_curve([[0.0, 10.0], [2.0, 30.0]])
    assert middle.tolist() == [1.0, 20.0]
    assert low is not None
    assert high is not None
    assert (low.tolist(), high.tolist()) == ([0.0, 10.0], [2.0, 30.0])
    assert mean_curve([[1.0, 2.0]])[1:] == (None, None)


def test_a_task_with_one_run_has_no_interval() -> None:
    assert has_interval([[1.0, 2.0], [1.0, 3.0]])
    assert not has_interval([[1.0, 2.0], [1.0]])
    assert not has_interval([[1.0, 2.0]], [[1.0]])
