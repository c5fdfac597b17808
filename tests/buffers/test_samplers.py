"""Every transition has the same chance, whatever its place in the ring."""

import numpy as np
import pytest
from scipy.stats import chisquare

from q2pi.buffers.replay import Replay
from q2pi.buffers.samplers import uniform
from q2pi.errors import UserError


def filled(steps: int) -> Replay:
    """Two streams at different rates: the episodes of the second take one step, the first one's never ends."""
    replay = Replay(24, 2, (1,), np.float32, 2, 2, 0.9)
    frames, zero = np.zeros((2, 1), np.float32), np.zeros(2)
    replay.begin(frames)
    for _ in range(steps):
        replay.extend(zero, zero, zero + 1, frames, np.array([False, True]), frames)
    return replay


@pytest.mark.parametrize("steps", [7, 50])  # before and after wrapping around
def test_uniform_over_the_transitions_and_nothing_else(steps: int) -> None:
    replay = filled(steps)
    sampleable = np.flatnonzero(replay.can_sample(np.arange(2 * replay.rows)))
    assert 0 < len(sampleable) < replay.held.sum()
    slots = uniform(replay, 40_000, np.random.default_rng(3))
    counts = np.bincount(slots, minlength=2 * replay.rows)
    assert counts.sum() == counts[sampleable].sum() == 40_000
    assert chisquare(counts[sampleable]).pvalue > 0.001
    # The test can tell: a stream drawn with probability 1/2 each, as cheaper samplers do, is not uniform.
    streams = np.bincount(sampleable // replay.rows)
    by_stream = 40_000 / 2 / streams[sampleable // replay.rows]
    assert chisquare(counts[sampleable], by_stream).pvalue < 1e-6


def test_a_batch_may_be_larger_than_the_memory() -> None:
    replay = Replay(24, 1, (1,), np.float32, 2, 1, 0.9)
    frames = np.zeros((1, 1), np.float32)
    replay.begin(frames)
    zero = np.zeros(1)
    replay.extend(zero, zero, zero + 1, frames, np.array([False]), frames)
    slots = uniform(replay, 5, np.random.default_rng(0))
    assert slots.tolist() == [0] * 5
    assert slots.dtype == np.int64


def test_the_same_generator_draws_the_same() -> None:
    replay = filled(50)
    first, again, other = (uniform(replay, 32, np.random.default_rng(seed)).tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_nothing_to_sample_is_said_in_one_line() -> None:
    with pytest.raises(UserError, match="no transition") as caught:
        uniform(filled(0), 4, np.random.default_rng(0))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="before begin"):
        uniform(Replay(24, 2, (1,), np.float32, 2, 2, 0.9), 4, np.random.default_rng(0))
