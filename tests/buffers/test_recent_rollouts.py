"""RecentRollouts: which rollout replaces which, and which rows a checkpoint must contain."""

import numpy as np
import pytest
import torch

from q2pi.buffers.recent_rollouts import RecentRollouts

ROWS, SHAPE = 3, (1, 2, 2)


def buffer_of(rollouts: int, added: int) -> RecentRollouts:
    """Return a buffer after `added` rollouts; all values of rollout k are k."""
    buffer = RecentRollouts(rollouts, ROWS, SHAPE, np.dtype(np.uint8), torch.device("cpu"))
    for index in range(added):
        add(buffer, index)
    return buffer


def add(buffer: RecentRollouts, index: int) -> None:
    observation = torch.full((ROWS, *SHAPE), index, dtype=torch.uint8)
    buffer.add(index, observation, torch.full((ROWS,), index), torch.full((ROWS,), float(index)))


@pytest.mark.parametrize(
    ("rollouts", "added", "stored"),
    [(1, 1, [0]), (1, 4, [3]), (3, 2, [0, 1]), (3, 3, [0, 1, 2]), (3, 4, [3, 1, 2]), (3, 8, [6, 7, 5])],
)
def test_the_newest_rollout_replaces_the_oldest(rollouts: int, added: int, stored: list[int]) -> None:
    buffer = buffer_of(rollouts, added)
    filled, expected = buffer.filled(added), np.repeat(stored, ROWS)
    assert filled == len(expected)
    np.testing.assert_array_equal(buffer.target[:filled], expected)
    np.testing.assert_array_equal(buffer.action[:filled], expected)
    np.testing.assert_array_equal(buffer.observation[:filled, 0, 0, 0], expected)


@pytest.mark.parametrize("shape", [(4, 5, 6), (3,)])
def test_take_returns_the_added_rows_with_images_in_channels_last(shape: tuple[int, ...]) -> None:
    buffer = RecentRollouts(2, 8, shape, np.dtype(np.uint8), torch.device("cpu"))
    observation = torch.randint(0, 256, (8, *shape), dtype=torch.uint8)
    buffer.add(1, observation, torch.arange(8), torch.arange(8) / 2)
    rows = torch.tensor([15, 8, 8, 10])
    taken, action, target = buffer.take(rows)
    assert torch.equal(taken, observation[rows - 8])
    assert taken.is_contiguous(memory_format=torch.channels_last if len(shape) == 3 else torch.contiguous_format)
    assert (action.tolist(), target.tolist()) == ([7, 0, 0, 2], [3.5, 0.0, 0.0, 1.0])


@pytest.mark.parametrize(("rollouts", "added", "kept"), [(1, 4, 0), (3, 0, 0), (3, 2, 2), (3, 3, 2), (3, 7, 2)])
def test_a_state_holds_only_rows_that_the_next_rollout_keeps(rollouts: int, added: int, kept: int) -> None:
    buffer, restored = buffer_of(rollouts, added), buffer_of(rollouts, 0)
    state = buffer.state(added)
    for name in ("observation", "action", "target"):
        assert sum(len(rows[name]) for rows in state.values()) == kept * ROWS
    restored.load(added, state)
    for one in (buffer, restored):
        add(one, added)
    filled = buffer.filled(added + 1)
    for name in ("observation", "action", "target"):
        assert torch.equal(getattr(restored, name)[:filled], getattr(buffer, name)[:filled]), name


def test_a_state_is_a_view() -> None:
    """A buffer may take most of a process's memory: a checkpoint must not double it."""
    buffer = buffer_of(4, 6)
    for rows in buffer.state(6).values():
        for name, column in rows.items():
            assert np.shares_memory(column, getattr(buffer, name).numpy())
            assert column.flags.c_contiguous
