"""The timeline by hand, a negative control for each of its rules, and the replay as a whole."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike

from q2pi.buffers import replay as ring
from q2pi.buffers.replay import Replay, bytes_needed, rows_per_stream
from q2pi.errors import UserError
from q2pi.types import Array

O0, O1, O2, O3, P0, P1, P2 = 10.0, 11.0, 12.0, 13.0, 20.0, 21.0, 22.0
NAMES = {"o0": O0, "o1": O1, "o2": O2, "o3": O3, "p0": P0, "p1": P1, "p2": P2, "-": 0.0}
DISTRACTOR = 99.0


def make(
    num_envs: int = 1, capacity: int = 10, stack: int = 2, n_step: int = 2, gamma: float = 0.1, **kwargs: Any
) -> Replay:
    return Replay(capacity, num_envs, (1,), np.float32, stack, n_step, gamma, **kwargs)


def frames(*values: float) -> Array:
    return np.array(values, np.float32)[:, None]


def step(
    replay: Replay,
    action: float | list[float],
    reward: float,
    frame: float,
    *,
    continuation: float = 1.0,
    first_frame: float | None = None,
) -> None:
    """Add one step of the only stream, which leads to `frame`; `first_frame` is given if the episode ended there."""
    first = DISTRACTOR if first_frame is None else first_frame
    ended = np.array([first_frame is not None])
    extend(replay, [action], [reward], [continuation], frames(frame), ended, frames(first))


def extend(replay: Replay, *columns: Any) -> None:
    replay.extend(*(np.asarray(column) for column in columns))


def timeline(replay: Replay) -> Replay:
    replay.begin(frames(O0))
    step(replay, 100, 1, O1)
    step(replay, 101, 2, O2)
    step(replay, 102, 3, O3, first_frame=P0)
    step(replay, 200, 4, P1, continuation=0)
    step(replay, 201, 5, P2)
    replay.check()
    return replay


def docstring_tables() -> dict[str, list[str]]:
    """Return the two tables of the module's docstring: {line name: seven cells}."""
    lines = [line.split() for line in str(ring.__doc__).splitlines() if line.startswith("    ")]
    return {name: cells for name, *cells in lines}


def test_the_docstring_shows_the_rows_as_stored() -> None:
    table, replay = docstring_tables(), timeline(make())
    kinds = ["final" if final else "step" for final in replay.final[:7]]
    kinds[replay.written[0] - 1] = "open"
    assert [int(cell) for cell in table["row"]] == list(range(7))
    assert [NAMES[cell] for cell in table["frame"]] == replay.frames.read(np.arange(7))[:, 0].tolist()
    assert [int(cell) for cell in table["age"]] == replay.age[:7].tolist()
    assert table["kind"] == kinds
    actions = {"a0": 100, "a1": 101, "a2": 102, "b0": 200, "b1": 201, ".": 0}
    assert [actions[cell] for cell in table["action"]] == replay.action[:7].tolist()
    for name, stored in (("reward", replay.reward), ("continuation", replay.continuation)):
        np.testing.assert_array_equal([np.nan if cell == "." else float(cell) for cell in table[name]], stored[:7])


def test_the_docstring_shows_the_samples() -> None:
    table, replay = docstring_tables(), timeline(make())
    slots = np.array([row for row, cell in enumerate(table["return"]) if cell != "."])
    assert replay.can_sample(np.arange(replay.rows)).nonzero()[0].tolist() == slots.tolist()
    batch = replay.sample(slots)
    for name, got in (("observation", batch.observation), ("next", batch.next_observation)):
        assert [[NAMES[frame] for frame in table[name][slot].split(",")] for slot in slots] == got.tolist()
    for name, numbers in (("return", batch.reward), ("discount", batch.discount)):
        np.testing.assert_allclose(numbers, [float(table[name][slot]) for slot in slots], rtol=1e-6)


def test_digits_of_four_step_returns() -> None:
    replay = make(n_step=4)
    replay.begin(frames(O0))
    for reward in (5, 6, 7, 8):
        assert len(replay) == 0
        step(replay, 0, reward, O1)
    batch = replay.sample(np.array([0]))
    np.testing.assert_allclose(batch.reward, [5.678], rtol=1e-6)
    np.testing.assert_allclose(batch.discount, [1e-4], rtol=1e-6)


def test_every_step_of_an_episode_can_be_sampled_as_soon_as_it_terminates() -> None:
    replay = make(n_step=3)
    replay.begin(frames(O0))
    step(replay, 0, 1, O1)
    assert len(replay) == 0
    step(replay, 0, 2, O2, continuation=0, first_frame=P0)
    batch = replay.sample(np.array([0, 1]))
    np.testing.assert_allclose(batch.reward, [1.2, 2], rtol=1e-6)
    assert batch.discount.tolist() == [0, 0]
    assert len(replay) == 2


def test_stacks_of_images_concatenate_along_the_first_axis_oldest_first() -> None:
    replay = Replay(9, 1, (2, 1, 1), np.uint8, 3, 1, 0.1)
    replay.begin(np.array([1, 2], np.uint8).reshape(1, 2, 1, 1))
    for pair in ([3, 4], [5, 6], [7, 8]):
        frame = np.array(pair, np.uint8).reshape(1, 2, 1, 1)
        extend(replay, [0], [0], [1], frame, np.array([False]), frame)
    batch = replay.sample(np.array([2, 0]))
    assert batch.observation.dtype == np.uint8
    assert batch.observation.shape == (2, 6, 1, 1)
    assert batch.observation[:, :, 0, 0].tolist() == [[1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 1, 2]]
    assert batch.next_observation[:, :, 0, 0].tolist() == [[3, 4, 5, 6, 7, 8], [0, 0, 1, 2, 3, 4]]


# ---- negative controls: what each rule is for ------------------------------------------------------------------------


def test_without_ages_a_stack_mixes_two_episodes() -> None:
    replay, first_of_second = timeline(make()), np.array([4])
    assert replay.sample(first_of_second).observation.tolist() == [[0, P0]]
    replay.age[:] = 9
    assert replay.sample(first_of_second).observation.tolist() == [[O3, P0]]


def endless_value(truncation_continues: bool) -> float:
    """Return the learned value of an endless task with reward 1, in episodes truncated after three steps."""
    replay = make(capacity=30, n_step=1, gamma=0.5)
    replay.begin(frames(O0))
    for t in range(1, 31):
        last = t % 3 == 0
        continuation = 1.0 if truncation_continues or not last else 0.0
        step(replay, 0, 1, O1, continuation=continuation, first_frame=O0 if last else None)
    batch = replay.sample(np.flatnonzero(replay.can_sample(np.arange(replay.rows))))
    value = 0.0
    for _ in range(60):
        value = float(np.mean(batch.reward + batch.discount * value))
    return value


def test_truncation_is_not_termination() -> None:
    assert endless_value(truncation_continues=True) == pytest.approx(2)  # 1 / (1 - 0.5)
    # v = 1 + (2/3) * 0.5 v
    assert endless_value(truncation_continues=False) == pytest.approx(1.5, abs=0.1)


def test_without_the_final_row_two_episodes_are_joined() -> None:
    right = timeline(make()).sample(np.array([1, 2]))
    np.testing.assert_allclose(right.reward, [2.3, 3], rtol=1e-6)
    assert right.next_observation.tolist() == [[O2, O3], [O2, O3]]

    wrong = make()
    wrong.begin(frames(O0))
    step(wrong, 100, 1, O1)
    step(wrong, 101, 2, O2)
    step(wrong, 102, 3, P0)  # the first frame of the next episode instead of the final one
    step(wrong, 200, 4, P1)
    batch = wrong.sample(np.array([1, 2]))
    np.testing.assert_allclose(batch.reward, [2.3, 3.4], rtol=1e-6)  # 4 is a reward of another episode
    assert batch.next_observation.tolist() == [[O2, P0], [P0, P1]]


def test_without_an_end_at_the_lost_life_its_return_continues() -> None:
    right = timeline(make())
    assert right.sample(np.array([4])).reward == pytest.approx(4)
    right.continuation[4] = 1
    step(right, 202, 6, DISTRACTOR)
    batch = right.sample(np.array([4]))
    assert batch.reward == pytest.approx(4.5)
    assert batch.discount == pytest.approx(0.01)


# ---- the replay as a whole -------------------------------------------------------------------------------------------


def test_the_newest_capacity_transitions_are_stored() -> None:
    for stack in (1, 2, 4):
        for n_step in (1, 3):
            replay = make(capacity=6, stack=stack, n_step=n_step)
            replay.begin(frames(0))
            for t in range(1, 41):
                step(replay, t - 1, 0, t)
                replay.check()
            slots = np.flatnonzero(replay.can_sample(np.arange(replay.rows)))
            newest = 39 - (n_step - 1)
            assert sorted(replay.action[slots]) == list(range(newest - 5, newest + 1))


def test_each_stream_has_its_own_cursor() -> None:
    replay = make(num_envs=2, capacity=8, stack=1, n_step=1)
    replay.begin(frames(1, -1))
    extend(replay, [0, 0], [0, 0], [1, 1], frames(2, -2), np.array([False, True]), frames(DISTRACTOR, -3))
    extend(replay, [0, 0], [0, 0], [1, 1], frames(3, -4), np.array([False, False]), frames(DISTRACTOR, DISTRACTOR))
    assert replay.rows == 5
    assert replay.written.tolist() == [3, 4]
    assert replay.frames.read(np.arange(10))[:, 0].tolist() == [1, 2, 3, 0, 0, -1, -2, -3, -4, 0]
    assert np.flatnonzero(replay.can_sample(np.arange(10))).tolist() == [0, 1, 5, 7]


def test_a_loaded_replay_equals_the_saved_one_also_after_more_steps() -> None:
    saved, loaded = timeline(make()), timeline(make(gamma=0.1))
    for _ in range(9):
        step(saved, 7, 7, 70, first_frame=80)
    loaded.load({name: np.copy(value) for name, value in saved.state().items()})
    for _ in range(2):
        loaded.check()
        assert len(loaded) == len(saved) > 0
        for name, value in saved.state().items():
            assert value.tobytes() == loaded.state()[name].tobytes(), name
        for replay in (saved, loaded):
            step(replay, 8, 8, 81)


def test_loading_copies() -> None:
    saved, loaded = timeline(make()), make()
    loaded.load(saved.state())
    step(saved, 0, 0, DISTRACTOR)
    assert loaded.written.tolist() == [7]
    assert DISTRACTOR not in loaded.frames.read(np.arange(loaded.rows))


def test_a_replay_of_another_size_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="--buffer-size") as caught:
        make(capacity=10).load(make(capacity=11).state())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("action_shape", "action_dtype"), [((), np.int64), ((3,), np.float32)])
def test_bytes_are_known_before_anything_is_allocated(action_shape: tuple[int, ...], action_dtype: DTypeLike) -> None:
    kind: dict[str, Any] = {"action_shape": action_shape, "action_dtype": action_dtype}
    replay = Replay(1001, 8, (1, 84, 84), np.uint8, 4, 3, 0.9, **kind)
    assert replay.rows == rows_per_stream(1001, 8, 4, 3) == 126 + 3 + 3
    assert replay.nbytes == bytes_needed(1001, 8, (1, 84, 84), np.uint8, 4, 3, **kind)
    state = replay.state()
    assert replay.nbytes == sum(value.nbytes for name, value in state.items() if name != "written")


def test_a_continuous_action_is_stored_whole() -> None:
    replay = make(action_shape=(2,), action_dtype=np.float32, n_step=1)
    replay.begin(frames(O0))
    step(replay, [0.25, -0.5], 1, O1)
    assert replay.sample(np.array([0])).action.tolist() == [[0.25, -0.5]]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"capacity": 0}, "--buffer-size 0 is out of range: it must be at least 1"),
        ({"num_envs": 0}, "--num-envs 0 is out of range: it must be at least 1"),
        ({"stack": 0}, "--stack 0 is out of range: it must be at least 1"),
        ({"n_step": 0}, "--n-step 0 is out of range: it must be at least 1"),
        ({"gamma": 1.5}, "--gamma 1.5 is out of range: it must be in [0, 1]"),
    ],
)
def test_sizes_out_of_range(change: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        make(**change)
    assert str(caught.value) == line


def test_misuse_is_refused() -> None:
    replay = make()
    with pytest.raises(ValueError, match="before begin"):
        step(replay, 0, 0, O1)
    replay.begin(frames(O0))
    with pytest.raises(ValueError, match="begin was called twice"):
        replay.begin(frames(O0))
    with pytest.raises(ValueError, match="reward has 2 entries, the replay has 1"):
        extend(replay, [0], [0, 0], [1], frames(O1), np.array([False]), frames(O1))
    with pytest.raises(ValueError, match="float64"):
        extend(replay, [0], [0], [1], frames(O1).astype(np.float64), np.array([False]), frames(O1))
    for slot in (0, 1):  # the open row and an empty row
        with pytest.raises(ValueError, match=rf"slots \[{slot}\] cannot be sampled"):
            replay.sample(np.array([slot]))


def test_check_finds_a_broken_ring() -> None:
    for damage in ("age", "final", "reward", "continuation"):
        replay = timeline(make())
        replay.check()
        getattr(replay, damage)[3] = {"age": 7, "final": False, "reward": 0, "continuation": 0.5}[damage]
        with pytest.raises(AssertionError):
            replay.check()
