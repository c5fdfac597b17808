import itertools
import json

import numpy as np
import pytest
import scipy.stats

from q2pi.statistics.scores import (
    bootstrap_interval,
    human_normalized,
    interquartile_mean,
    mean,
    median,
    std,
    stratified_bootstrap_interval,
    summary,
)


def test_simple_statistics_by_hand() -> None:
    scores = [2, 4, 4, 4, 5, 5, 7, 9]
    assert mean(scores) == 5.0
    assert std(scores) == 2.0  # sqrt(32 / 8); with n - 1 it would be sqrt(32 / 7)
    assert median(scores) == 4.5


def test_interquartile_mean_drops_a_quarter_at_each_end() -> None:
    assert interquartile_mean([1000, 1, 4, 3, 2, 5, 6, -500]) == 3.5  # 2, 3, 4, 5 are left
    assert interquartile_mean([7, 1, 99]) == pytest.approx(107 / 3)  # floor(3 / 4) = 0 are dropped
    assert interquartile_mean([0, 1, 2, 3, 99]) == 2.0


@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (4,), (5,), (30,), (101,), (7, 5)])
def test_interquartile_mean_is_the_trimmed_mean(shape: tuple[int, ...]) -> None:
    scores = np.random.default_rng(0).normal(size=shape)
    expected = scipy.stats.trim_mean(scores, 0.25, axis=None)
    assert interquartile_mean(scores) == pytest.approx(expected, abs=1e-12)


def test_nan_is_not_trimmed_away() -> None:
    scores = [1.0, 2.0, 3.0, 4.0, float("nan")]
    assert np.isnan(interquartile_mean(scores))
    assert all(
        np.isnan(value) for key, value in summary(scores).items() if key not in ("n", "iqm_interval", "mean_interval")
    )
    assert np.isnan(summary(scores)["iqm_interval"]).all()


def test_interval_of_two_scores_by_hand() -> None:
    """The mean of two draws from {0, 1} is 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4."""
    assert bootstrap_interval([0, 1], mean) == (0.0, 1.0)
    assert bootstrap_interval([0, 1], mean, confidence=0.4) == (0.5, 0.5)


def test_interval_against_all_resamples() -> None:
    scores = np.array([0.0, 1.0, 4.0, 9.0, 25.0])
    every_mean = [np.mean(draw) for draw in itertools.product(scores, repeat=5)]
    exact = np.quantile(every_mean, [0.05, 0.95])
    assert bootstrap_interval(scores, mean, confidence=0.9, resamples=20_000) == pytest.approx(exact, abs=0.5)


def test_interval_agrees_with_scipy() -> None:
    scores = np.random.default_rng(1).gamma(2.0, size=40)
    theirs = scipy.stats.bootstrap((scores,), np.mean, n_resamples=9999, method="percentile", rng=0).confidence_interval
    assert bootstrap_interval(scores, mean, resamples=9999) == pytest.approx(tuple(theirs), abs=0.03)


def test_interval_has_its_nominal_coverage() -> None:
    """80 % intervals of the mean of 50 normal scores: 400 of them miss the truth about 80 times."""
    generator = np.random.default_rng(2)
    covered = 0
    for seed in range(400):
        low, high = bootstrap_interval(generator.normal(3.0, size=50), mean, confidence=0.8, resamples=200, seed=seed)
        covered += low <= 3.0 <= high
    assert 0.72 < covered / 400 < 0.86  # the percentile bootstrap is a little narrow; standard error 0.02


def test_interval_depends_on_the_seed_alone() -> None:
    scores = np.random.default_rng(3).normal(size=20)
    first = bootstrap_interval(scores, interquartile_mean, seed=4)
    np.random.seed(99)  # noqa: NPY002
    assert bootstrap_interval(scores, interquartile_mean, seed=4) == first
    assert bootstrap_interval(scores, interquartile_mean, seed=5) != first


def test_more_scores_narrow_the_interval() -> None:
    scores = np.random.default_rng(5).normal(size=1600)
    few = np.subtract(*bootstrap_interval(scores[:100], mean))
    many = np.subtract(*bootstrap_interval(scores, mean))
    assert few / many == pytest.approx(4.0, rel=0.3)


def test_stratified_interval_does_not_mix_tasks() -> None:
    """Every run scores 0 on one task and 100 on the other: the seeds agree, so the interval has no width."""
    scores = np.tile([0.0, 100.0], (5, 1))
    assert stratified_bootstrap_interval(scores, mean) == (50.0, 50.0)
    pooled_low, pooled_high = bootstrap_interval(scores.ravel(), mean)
    assert (pooled_low, pooled_high) != (50.0, 50.0)  # negative control: the tasks' difference treated as uncertainty


def test_stratified_interval_resamples_each_task_independently() -> None:
    """Two tasks whose noise cancels run by run: drawing whole runs would hide all uncertainty."""
    noise = np.array([-1.0, 1.0, -1.0, 1.0])
    low, high = stratified_bootstrap_interval(np.stack([noise, -noise], axis=1), mean)
    assert (low, high) == (-0.75, 0.75)  # of 8 fair coins: P(sum <= -6) = 9 / 256 > 0.025 > P(sum <= -8) = 1 / 256


def test_human_normalized_by_hand() -> None:
    assert human_normalized(1.7, 1.7, 30.5) == 0.0
    assert human_normalized(30.5, 1.7, 30.5) == 1.0
    assert human_normalized(-5.0, -20.0, 10.0) == 0.5
    np.testing.assert_array_equal(human_normalized(np.array([0.0, 15.0]), 5.0, 10.0), [-1.0, 2.0])


def test_human_normalized_rejects_equal_references() -> None:
    with pytest.raises(ValueError, match=r"both 3\.0"):
        human_normalized(1.0, 3.0, 3.0)


def test_summary_by_hand() -> None:
    result = summary([2, 4, 4, 4, 5, 5, 7, 9])
    intervals = {result.pop("iqm_interval")[0] <= 4.5, result.pop("mean_interval")[1] >= 5.0}
    assert intervals == {True}
    assert result == {
        "n": 8,
        "mean": 5.0,
        "std": 2.0,
        "median": 4.5,
        "iqm": 4.5,
        "mean_minus_std": 3.0,
        "min": 2.0,
        "max": 9.0,
    }


def test_summary_survives_json() -> None:
    result = summary(np.array([1.5, 2.5, 3.0], dtype=np.float32))
    assert json.loads(json.dumps(result)) == result


def test_summary_of_one_score_has_no_width() -> None:
    result = summary([21.0])
    assert (result["mean_interval"], result["iqm_interval"], result["std"]) == ([21.0, 21.0], [21.0, 21.0], 0.0)


def test_wrong_shapes_and_no_scores_are_rejected() -> None:
    with pytest.raises(ValueError, match="no scores"):
        summary([])
    with pytest.raises(ValueError, match="one dimension"):
        bootstrap_interval(np.zeros((2, 2)), mean)
    with pytest.raises(ValueError, match="runs, tasks"):
        stratified_bootstrap_interval(np.zeros(2), mean)
