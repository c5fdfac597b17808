"""The window of rollouts: who takes whose place, and what a checkpoint must hold of it."""

import numpy as np
import pytest
import torch

from q2pi.buffers.recent_rollouts import RecentRollouts

ROWS, SHAPE = 3, (1, 2, 2)


def window_of(rollouts: int, added: int) -> RecentRollouts:
    """Return a window after `added` rollouts; all numbers of rollout k are k."""
    window = RecentRollouts(rollouts, ROWS, SHAPE, np.dtype(np.uint8), torch.device("cpu"))
    for number in range(added):
        add(window, number)
    return window


def add(window: RecentRollouts, number: int) -> None:
    observation = torch.full((ROWS, *SHAPE), number, dtype=torch.uint8)
    window.add(number, observation, torch.full((ROWS,), number), torch.full((ROWS,), float(number)))


@pytest.mark.parametrize(
    ("rollouts", "added", "held"),
    [(1, 1, [0]), (1, 4, [3]), (3, 2, [0, 1]), (3, 3, [0, 1, 2]), (3, 4, [3, 1, 2]), (3, 8, [6, 7, 5])],
)
def test_the_newest_take_the_place_of_the_oldest(rollouts: int, added: int, held: list[int]) -> None:
    window = window_of(rollouts, added)
    filled, expected = window.filled(added), np.repeat(held, ROWS)
    assert filled == len(expected)
    np.testing.assert_array_equal(window.target[:filled], expected)
    np.testing.assert_array_equal(window.action[:filled], expected)
    np.testing.assert_array_equal(window.observation[:filled, 0, 0, 0], expected)


@pytest.mark.parametrize("shape", [(4, 5, 6), (3,)])
def test_rows_are_taken_as_they_were_added_images_with_channels_last(shape: tuple[int, ...]) -> None:
    window = RecentRollouts(2, 8, shape, np.dtype(np.uint8), torch.device("cpu"))
    observation = torch.randint(0, 256, (8, *shape), dtype=torch.uint8)
    window.add(1, observation, torch.arange(8), torch.arange(8) / 2)
    rows = torch.tensor([15, 8, 8, 10])
    taken, action, target = window.take(rows)
    assert torch.equal(taken, observation[rows - 8])
    assert taken.is_contiguous(memory_format=torch.channels_last if len(shape) == 3 else torch.contiguous_format)
    assert (action.tolist(), target.tolist()) == ([7, 0, 0, 2], [3.5, 0.0, 0.0, 1.0])


@pytest.mark.parametrize(("rollouts", "added", "kept"), [(1, 4, 0), (3, 0, 0), (3, 2, 2), (3, 3, 2), (3, 7, 2)])
def test_a_state_holds_what_the_next_rollout_leaves_and_no_more(rollouts: int, added: int, kept: int) -> None:
    window, restored = window_of(rollouts, added), window_of(rollouts, 0)
    state = window.state(added)
    for name in ("observation", "action", "target"):
        assert sum(len(rows[name]) for rows in state.values()) == kept * ROWS
    restored.load(added, state)
    for one in (window, restored):
        add(one, added)
    filled = window.filled(added + 1)
    for name in ("observation", "action", "target"):
        assert torch.equal(getattr(restored, name)[:filled], getattr(window, name)[:filled]), name


def test_a_state_is_no_copy() -> None:
    """A window may be the most that a process holds: a checkpoint must not double it."""
    window = window_of(4, 6)
    for rows in window.state(6).values():
        for name, column in rows.items():
            assert np.shares_memory(column, getattr(window, name).numpy())
            assert column.flags.c_contiguous
