"""Diagnostics, with numbers worked out by hand."""

import numpy as np
import pytest

from q2pi.lab import diagnostics


def test_discounted_returns() -> None:
    assert diagnostics.discounted([1, 2, 4], 0.1).tolist() == pytest.approx([1.24, 2.4, 4.0])


def test_overestimation_of_a_terminated_episode_counts_every_step() -> None:
    """Returns are 1.5 and 1; predictions 2 and 2: differences 0.5 and 1."""
    assert diagnostics.overestimation([[2, 2]], [[1, 1]], [False], 0.5, tail=1) == pytest.approx(0.75)


def test_the_tail_of_a_truncated_episode_does_not_count() -> None:
    values, rewards = [[2.0, 2.0, -99.0]], [[1, 1, 0]]
    assert diagnostics.overestimation(values, rewards, [True], 0.5, tail=1) == pytest.approx(0.75)
    assert diagnostics.overestimation(values, rewards, [False], 0.5, tail=1) < -30, "with the tail it is wrong"
    assert np.isnan(diagnostics.overestimation(values, rewards, [True], 0.5, tail=3))


def test_target_drift_is_a_root_mean_square() -> None:
    assert diagnostics.target_drift([1, 2], [4, 6]) == pytest.approx(np.sqrt((9 + 16) / 2))


def test_total_variation_and_churn() -> None:
    before, after = [[0.9, 0.1], [0.6, 0.4]], [[0.9, 0.1], [0.4, 0.6]]
    assert diagnostics.total_variation(before, after).tolist() == pytest.approx([0.0, 0.2])
    assert diagnostics.churn(before, after) == 0.5
    assert diagnostics.total_variation([[1, 0]], [[0, 1]]).tolist() == [1.0], "a flip moves all probability"


def test_gradient_variance_sums_over_components() -> None:
    """Components (0, 2) and (1, 5): variances 2 and 8 with n - 1."""
    assert diagnostics.gradient_variance([[[0.0, 1.0]], [[2.0, 5.0]]]) == pytest.approx(10.0)


def test_replay_age_is_a_mean() -> None:
    assert diagnostics.replay_age([10, 20], 100) == 85.0


def test_dormant_units_are_relative_to_their_layer() -> None:
    activations = [[0.0, 10.0, 0.01, 5.0], [0.0, -10.0, 0.01, 5.0]]
    assert diagnostics.dormant_share(activations) == 0.5
    assert diagnostics.dormant_share(100 * np.array(activations)) == 0.5
    assert diagnostics.dormant_share(activations, threshold=0.0) == 0.25
    assert diagnostics.dormant_share(np.zeros((2, 3))) == 1.0


def test_neighbours_in_order_correlate_and_shuffled_ones_do_not() -> None:
    walk = np.cumsum(np.random.default_rng(0).normal(size=(400, 2)), axis=0)
    assert diagnostics.correlation_of_neighbours(walk) > 0.9
    shuffled = np.random.default_rng(1).permutation(walk)
    assert abs(diagnostics.correlation_of_neighbours(shuffled)) < 0.15
    assert diagnostics.correlation_of_neighbours(np.ones((5, 3))) == 0.0
    assert diagnostics.correlation_of_neighbours([[1.0], [-1.0], [1.0], [-1.0]]) == pytest.approx(-1.0)
