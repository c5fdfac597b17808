"""Running statistics against statistics over all rows, and when they change."""

from pathlib import Path

import numpy as np
import pytest

from q2pi.algorithms.common.normalization import CLIP, ObservationNormalizer, RewardScaler, RunningMoments
from q2pi.runs import checkpoint


def batches(seed: int = 0) -> list[np.ndarray]:
    """Return batches of unequal sizes, far from 0 and narrow: the numbers on which naive sums of squares fail."""
    generator = np.random.default_rng(seed)
    return [generator.normal([1e4, -3.0], [0.1, 2.0], size=(size, 2)).astype(np.float32) for size in (1, 7, 100, 3)]


def test_moments_are_those_of_all_rows() -> None:
    moments = RunningMoments((2,))
    for rows in batches():
        moments.update(rows)
    everything = np.concatenate(batches()).astype(np.float64)
    np.testing.assert_allclose(moments.mean, everything.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, everything.var(axis=0), rtol=1e-9)
    assert moments.count == 111
    # The mean of the batches' variances, which is cheaper, is another number.
    assert not np.allclose(np.mean([rows.var(axis=0) for rows in batches()], axis=0), moments.variance, rtol=0.1)


def test_observations_before_the_first_update_are_only_clipped() -> None:
    normalizer = ObservationNormalizer((3,))
    np.testing.assert_allclose(normalizer(np.array([[0.5, -2.0, 99.0]])), [[0.5, -2.0, CLIP]], rtol=1e-6)


def test_observations_by_hand() -> None:
    normalizer = ObservationNormalizer((2,))
    normalizer.update(np.array([[1.0, 7.0], [5.0, 7.0]]))  # mean 3 and 7, standard deviation 2 and 0
    seen = normalizer(np.array([[7.0, 7.0], [-3.0, 7.0], [1e9, 7.1]]))
    np.testing.assert_allclose(seen, [[2.0, 0.0], [-3.0, 0.0], [CLIP, CLIP]], atol=1e-6)
    assert seen.dtype == np.float32


def test_normalising_changes_no_state_and_an_update_does() -> None:
    normalizer, scaler = ObservationNormalizer((2,)), RewardScaler(2, 0.9)
    normalizer.update(batches()[1])
    scaler.update(np.ones((3, 2)), np.zeros((3, 2), np.bool_))

    def digest() -> str:
        return checkpoint.digest({"observations": normalizer.state(), "rewards": scaler.state()})

    before = digest()
    normalizer(batches()[2])
    scaler(np.full((4, 2), 7.0))
    assert digest() == before
    normalizer.update(batches()[2])
    assert digest() != before


def test_discounted_sums_start_at_zero_with_each_episode() -> None:
    """gamma 0.5, rewards 1, 2 | 4: sums 1, 2.5 | 4; without the end the last would be 5.25."""
    reward, ended = np.array([[1.0], [2.0], [4.0]]), np.array([[False], [True], [False]])
    scaler = RewardScaler(1, 0.5)
    scaler.update(reward, ended)
    std = np.std([1, 2.5, 4])
    np.testing.assert_allclose(scaler(reward), reward / std, rtol=1e-6)
    assert scaler.sums.tolist() == [4.0]
    without_end = RewardScaler(1, 0.5)
    without_end.update(reward, np.zeros_like(ended))
    np.testing.assert_allclose(without_end(reward), reward / np.std([1, 2.5, 5.25]), rtol=1e-6)


def test_discounted_sums_continue_from_rollout_to_rollout() -> None:
    generator = np.random.default_rng(1)
    reward, ended = generator.normal(size=(20, 3)), generator.random((20, 3)) < 0.2
    whole, parts = RewardScaler(3, 0.9), RewardScaler(3, 0.9)
    whole.update(reward, ended)
    for part in (slice(0, 7), slice(7, 8), slice(8, 20)):
        parts.update(reward[part], ended[part])
    np.testing.assert_allclose(parts.sums, whole.sums, rtol=1e-12)
    np.testing.assert_allclose(parts.moments.variance, whole.moments.variance, rtol=1e-9)


def test_rewards_are_scaled_and_clipped_and_not_shifted() -> None:
    scaler = RewardScaler(1, 0.0)
    scaler.update(np.array([[4.0], [6.0]]), np.zeros((2, 1), np.bool_))  # standard deviation 1, mean 5
    np.testing.assert_allclose(scaler(np.array([0.0, 5.0, 11.0, -11.0])), [0.0, 5.0, CLIP, -CLIP], rtol=1e-6)


@pytest.mark.parametrize("count", [0, 3])
def test_statistics_continue_exactly_from_a_checkpoint(tmp_path: Path, count: int) -> None:
    generator = np.random.default_rng(2)
    normalizer, scaler = ObservationNormalizer((4,)), RewardScaler(2, 0.9)

    def update(*both: tuple[ObservationNormalizer, RewardScaler], seed: int) -> None:
        generator = np.random.default_rng(seed)
        observation, reward, ended = generator.normal(size=(6, 4)), generator.random((3, 2)), generator.random((3, 2))
        for one, other in both:
            one.update(observation)
            other.update(reward, ended < 0.3)

    for seed in range(count):
        update((normalizer, scaler), seed=seed)
    checkpoint.save(tmp_path, 1, {"observations": normalizer.state(), "rewards": scaler.state()})
    _, state, _, _ = checkpoint.load_newest(tmp_path)
    again, scaler_again = ObservationNormalizer((4,)), RewardScaler(2, 0.9)
    again.load(state["observations"])
    scaler_again.load(state["rewards"])
    update((normalizer, scaler), (again, scaler_again), seed=99)
    assert checkpoint.digest(again.state()) == checkpoint.digest(normalizer.state())
    assert checkpoint.digest(scaler_again.state()) == checkpoint.digest(scaler.state())
    probe = generator.normal(size=(5, 4))
    np.testing.assert_array_equal(again(probe), normalizer(probe))
