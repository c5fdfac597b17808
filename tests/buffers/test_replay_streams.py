"""Streams of a replay that are written apart from each other, as actors do, and cut when an actor is lost.

Each frame holds 100 * stream + its number in the stream, so a transition shows where its parts are from.
"""

from typing import Any

import numpy as np
import pytest

from q2pi.buffers.replay import Replay


def replay(num_envs: int = 3, **options: Any) -> Replay:
    return Replay(
        **{
            "capacity": 30,
            "num_envs": num_envs,
            "frame_shape": (1,),
            "frame_dtype": np.float32,
            "stack": 2,
            "n_step": 1,
            "gamma": 0.1,
        }
        | options
    )


def frames(*values: float) -> Any:
    return np.array(values, np.float32)[:, None]


def extend(made: Replay, stream: int, frame: float, reward: float, ended: bool = False, first: float = 0.0) -> None:
    made.extend(
        np.array([7]),
        np.array([reward], np.float32),
        np.array([1.0], np.float32),
        frames(frame),
        np.array([ended]),
        frames(first),
        np.array([stream]),
    )


def table(made: Replay) -> dict[tuple[float, ...], tuple[tuple[float, ...], float, float]]:
    """Return observation -> (next observation, return, discount) of every transition that can be sampled."""
    slots = np.arange(made.num_envs * made.rows)
    rows = made.sample(slots[made.can_sample(slots)])
    return {
        tuple(o): (tuple(n), round(float(r), 4), round(float(d), 4))
        for o, n, r, d in zip(rows.observation, rows.next_observation, rows.reward, rows.discount, strict=True)
    }


def test_streams_are_written_apart_and_never_mixed() -> None:
    made = replay()
    made.begin(frames(0, 100), np.array([0, 1]))
    extend(made, 0, 1, 1.0)
    extend(made, 1, 101, 10.0)
    extend(made, 0, 2, 2.0)
    made.begin(frames(200), np.array([2]))
    extend(made, 2, 201, 20.0)
    made.check()
    assert table(made) == {
        (0, 0): ((0, 1), 1.0, 0.1),
        (0, 1): ((1, 2), 2.0, 0.1),
        (0, 100): ((100, 101), 10.0, 0.1),
        (0, 200): ((200, 201), 20.0, 0.1),
    }


def test_a_stream_that_begins_again_cuts_its_episode_as_if_truncated() -> None:
    """By hand, n = 2: the last step of the lost actor bootstraps from its last frame, not from the new episode's."""
    made = replay(n_step=2)
    made.begin(frames(0, 100), np.array([0, 1]))
    extend(made, 0, 1, 1.0)
    extend(made, 0, 2, 2.0)
    cut = made.begin(frames(50), np.array([0]))
    assert cut.tolist() == [2]
    extend(made, 0, 51, 5.0)
    extend(made, 0, 52, 6.0)
    made.check()
    assert table(made) == {
        (0, 0): ((1, 2), 1.2, 0.01),
        (0, 1): ((1, 2), 2.0, 0.1),
        (0, 50): ((51, 52), 5.6, 0.01),
    }


def test_an_episode_without_a_step_leaves_nothing() -> None:
    """An actor that dies twice before its first step: two final rows in sequence would break the length."""
    made = replay()
    made.begin(frames(0), np.array([0]))
    extend(made, 0, 1, 1.0)
    for first in (50, 60, 70):
        made.begin(frames(first), np.array([0]))
        made.check()
    extend(made, 0, 71, 7.0)
    made.check()
    assert table(made) == {(0, 0): ((0, 1), 1.0, 0.1), (0, 70): ((70, 71), 7.0, 0.1)}


def test_cuts_at_any_time_keep_the_invariants() -> None:
    """Random steps, ends and cuts in a ring that wraps around, checked after each operation."""
    rng = np.random.default_rng(1)
    for stack, n_step in ((1, 1), (2, 3), (3, 2)):
        made = replay(num_envs=2, capacity=12, stack=stack, n_step=n_step)
        made.begin(frames(0, 0), np.array([0, 1]))
        for number in range(1, 200):
            stream = int(rng.integers(2))
            if rng.random() < 0.2:
                made.begin(frames(number), np.array([stream]))
            else:
                extend(made, stream, number, 1.0, ended=rng.random() < 0.2, first=number + 0.5)
            made.check()
            for observation, (following, reward, _) in table(made).items():
                assert observation[-1] < following[-1]
                assert 0 < reward <= 1.11


def test_a_stream_must_begin() -> None:
    made = replay()
    made.begin(frames(0), np.array([0]))
    with pytest.raises(ValueError, match="extend before begin"):
        extend(made, 1, 1, 1.0)
    with pytest.raises(ValueError, match="begin was called twice"):
        made.begin(frames(0, 1, 2))
