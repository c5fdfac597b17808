"""Prioritized replay: the sum tree, probabilities, weights, rows that cannot be sampled, and saving."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from q2pi.buffers.prioritized import FAN_OUT, SMALLEST, PrioritizedSampler, SumTree, tree_bytes
from q2pi.buffers.replay import Replay
from q2pi.errors import UserError


def replay_with(capacity: int = 24, num_envs: int = 2, stack: int = 2, n_step: int = 2) -> Replay:
    replay = Replay(capacity, num_envs, (1,), np.float32, stack, n_step, 0.9)
    replay.begin(np.zeros((num_envs, 1), np.float32))
    return replay


def step(replay: Replay, sampler: PrioritizedSampler, rng: Any, ends: float = 0.3) -> None:
    """Add a random step of every environment: terminated, truncated or continued."""
    envs = replay.num_envs
    frames, zero = np.zeros((envs, 1), np.float32), np.zeros(envs)
    ended = rng.random(envs) < ends
    continuation = np.where(rng.random(envs) < 0.2, 0.0, 1.0)
    sampler.added(replay.extend(zero, zero, continuation, frames, ended, frames))


def filled(alpha: float = 1.0, beta: float = 1.0, steps: int = 60, **sizes: int) -> PrioritizedSampler:
    """Return a sampler of a replay with random steps, with random priorities."""
    replay, rng = replay_with(**sizes), np.random.default_rng(0)
    sampler = PrioritizedSampler(replay, alpha, beta)
    for _ in range(steps):
        step(replay, sampler, rng)
    slots = valid(sampler)
    sampler.update_priorities(slots, torch.as_tensor(rng.random(len(slots)) + 0.1))
    return sampler


def valid(sampler: PrioritizedSampler) -> Any:
    """Return all slots that can be sampled."""
    return np.flatnonzero(sampler.replay.can_sample(np.arange(sampler.slots)))


# ---- the sum tree ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5, FAN_OUT, FAN_OUT + 1, FAN_OUT**2 + 3])
def test_the_tree_finds_the_leaves_of_a_linear_search(size: int) -> None:
    rng = np.random.default_rng(size)
    masses = np.where(rng.random(size) < 0.5, rng.random(size), 0.0)
    masses[size // 2] = 2.0
    tree = SumTree(size)
    for leaves in np.array_split(rng.permutation(size), min(size, 9)):
        tree.set(leaves, masses[leaves])
    points = rng.random(500) * masses.sum()
    ends = masses.cumsum()
    assert tree.total == pytest.approx(masses.sum())
    assert tree.find(points).tolist() == np.searchsorted(ends, points, side="right").tolist()


def test_a_leaf_by_hand() -> None:
    """Masses 1, 0, 2, 0 cover [0, 1), nothing, [1, 3), nothing."""
    tree = SumTree(4)
    tree.set(np.array([0, 2]), np.array([1.0, 2.0]))
    assert tree.find(np.array([0.0, 0.999, 1.0, 2.999])).tolist() == [0, 0, 2, 2]
    assert tree.find(np.array([3.0, 3.1])).tolist() == [2, 2], "rounding beyond the total: the last leaf with mass"


def test_sums_do_not_drift() -> None:
    rng = np.random.default_rng(1)
    tree, fresh = SumTree(300), SumTree(300)
    for _ in range(2_000):
        leaves = rng.integers(300, size=8)
        tree.set(leaves, rng.random(8) * 10.0 ** rng.integers(-6, 6, size=8))
    fresh.load(tree.levels[0][:300])
    for lower, upper in zip(tree.levels, fresh.levels, strict=True):
        np.testing.assert_array_equal(lower, upper)


def test_bytes_are_counted() -> None:
    for capacity in (10, 5_000):
        sampler = PrioritizedSampler(replay_with(capacity), 0.5, 0.4)
        assert tree_bytes(sampler.slots) == sampler.nbytes


# ---- which rows have a mass ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", [1, 2, 4])
@pytest.mark.parametrize("n_step", [1, 3, 5])
@pytest.mark.parametrize("capacity", [4, 30])
def test_exactly_the_rows_that_can_be_sampled_have_a_mass(stack: int, n_step: int, capacity: int) -> None:
    replay, rng = replay_with(capacity, 2, stack, n_step), np.random.default_rng(2)
    sampler = PrioritizedSampler(replay, 1.0, 1.0)
    every = np.arange(sampler.slots)
    for number in range(120):
        step(replay, sampler, rng, ends=0.3 if number % 40 < 20 else 0.05)
        assert ((sampler.tree[every] > 0) == replay.can_sample(every)).all()
        if sampler.tree.total > 0:
            slots, _ = sampler.sample(4, rng)
            assert replay.can_sample(slots).all()
            sampler.update_priorities(slots, torch.rand(4))


def test_a_row_that_was_overwritten_keeps_no_priority() -> None:
    """A late update must not give a mass to a row that another transition has replaced."""
    sampler, rng = filled(), np.random.default_rng(3)
    slots, _ = sampler.sample(16, rng)
    for _ in range(3):
        step(sampler.replay, sampler, rng)
    sampler.update_priorities(slots, torch.full((16,), 5.0))
    every = np.arange(sampler.slots)
    gone = ~sampler.replay.can_sample(slots)
    assert gone.any()
    assert ((sampler.tree[every] > 0) == sampler.replay.can_sample(every)).all()


def test_new_rows_have_the_greatest_priority_so_far() -> None:
    sampler, rng = filled(alpha=0.5), np.random.default_rng(4)
    slots = valid(sampler)
    sampler.update_priorities(slots[:1], torch.tensor([49.0]))
    sampler.update_priorities(slots, torch.full((len(slots),), 0.01))
    before = sampler.tree[np.arange(sampler.slots)] > 0
    step(sampler.replay, sampler, rng, ends=0.0)
    new = np.setdiff1d(valid(sampler), np.flatnonzero(before))
    assert len(new)
    np.testing.assert_allclose(sampler.tree[new], 7.0, rtol=1e-6)


# ---- probabilities and weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_transitions_are_drawn_in_proportion_to_their_priorities(alpha: float) -> None:
    sampler, rng = filled(alpha), np.random.default_rng(5)
    slots = valid(sampler)
    errors = rng.random(len(slots)) * 3 - 1.5
    sampler.update_priorities(slots, torch.as_tensor(errors))
    drawn = np.concatenate([sampler.sample(50, rng)[0] for _ in range(800)])
    counts = np.bincount(drawn, minlength=sampler.slots)[slots]
    assert counts.sum() == 40_000
    mass = (np.abs(errors) + SMALLEST) ** alpha
    # Stratified counts vary less than independent ones.
    assert chisquare(counts, 40_000 * mass / mass.sum()).pvalue > 0.01
    if alpha:
        assert chisquare(counts).pvalue < 1e-6, "uniform sampling is another distribution"


def test_weights_by_hand() -> None:
    """Priorities 1 and 4, alpha 0.5: masses 1 and 2. Weights 1 and 1/2 with beta 1, 1 and 0.71 with 0.5."""
    sampler = filled(alpha=0.5, beta=1.0)
    slots = valid(sampler)
    sampler.update_priorities(slots, torch.where(torch.arange(len(slots)) % 2 == 0, 1.0, 4.0))
    for beta, least in ((1.0, 0.5), (0.5, 0.5**0.5), (0.0, 1.0)):
        sampler.beta = beta
        drawn, weights = sampler.sample(64, np.random.default_rng(0))
        assert weights.dtype == np.float32
        expected = np.where(np.searchsorted(slots, drawn) % 2 == 0, 1.0, least)
        np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_weights_correct_the_bias() -> None:
    """With beta 1, weighted means of batches estimate the uniform mean; without weights they do not."""
    sampler, rng = filled(), np.random.default_rng(6)
    slots = valid(sampler)
    value = np.zeros(sampler.slots)
    value[slots] = rng.normal(size=len(slots))
    sampler.update_priorities(slots, torch.as_tensor(np.abs(value[slots]) + 2 * (value[slots] > 0) + 0.1))
    drawn = np.concatenate([sampler.sample(100, rng)[0] for _ in range(400)])
    weights = 1 / sampler.tree[drawn]
    weighted = (weights * value[drawn]).sum() / weights.sum()
    assert weighted == pytest.approx(value[slots].mean(), abs=0.03)
    assert abs(value[drawn].mean() - value[slots].mean()) > 0.3


def test_each_of_equal_parts_gives_one_draw() -> None:
    """With as many equal priorities as draws, a stratified batch holds each transition once."""
    sampler = filled(alpha=0.0)
    slots = valid(sampler)
    sampler.update_priorities(slots, torch.ones(len(slots)))
    drawn, _ = sampler.sample(len(slots), np.random.default_rng(7))
    assert sorted(drawn.tolist()) == slots.tolist()


def test_errors_that_are_not_finite_change_no_priority() -> None:
    """The run reports the divergence; the tree must not make sampling fail before that."""
    sampler = filled()
    before = sampler.tree.levels[0].copy()
    slots = valid(sampler)[:3]
    sampler.update_priorities(slots, torch.tensor([float("nan"), float("inf"), -float("inf")]))
    np.testing.assert_array_equal(sampler.tree.levels[0], before)
    assert np.isfinite(sampler.greatest[0])


def test_an_error_of_zero_can_still_be_drawn() -> None:
    sampler = filled()
    slots = valid(sampler)
    sampler.update_priorities(slots, torch.zeros(len(slots)))
    assert (sampler.tree[slots] > 0).all()


def test_an_empty_replay_is_an_error_of_one_line() -> None:
    sampler = PrioritizedSampler(replay_with(), 0.5, 0.4)
    with pytest.raises(UserError, match="no transition") as caught:
        sampler.sample(4, np.random.default_rng(0))
    assert "\n" not in str(caught.value)


# ---- saving ----------------------------------------------------------------------------------------------------------


def test_a_loaded_tree_continues_bit_for_bit() -> None:
    sampler = filled(alpha=0.7)
    state = copy.deepcopy(sampler.state())
    other = PrioritizedSampler(sampler.replay, 0.7, 1.0)
    other.load(state)
    for mine, theirs in zip(sampler.tree.levels, other.tree.levels, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    first, second = (each.sample(32, np.random.default_rng(8)) for each in (sampler, other))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert other.greatest[0] == sampler.greatest[0] != 1.0


def test_a_tree_of_another_size_is_refused() -> None:
    state = filled().state()
    with pytest.raises(UserError, match="saved replay has masses"):
        PrioritizedSampler(replay_with(48), 1.0, 1.0).load(state)
