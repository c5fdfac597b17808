"""Rollout and Episodes: the docstrings' examples by hand, no preference for short episodes, checkpoints."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from q2pi.buffers.episodes import Episodes
from q2pi.buffers.rollout import Batch, Rollout
from q2pi.runs import checkpoint

FLOAT, INT = np.dtype(np.float32), np.dtype(np.int64)


def rollout(steps: int = 4, num_envs: int = 1) -> Rollout:
    return Rollout(steps, num_envs, (2,), FLOAT, (), INT)


def append(into: Rollout, value: list[float], final: list[float], ended: list[bool]) -> None:
    envs = len(value)
    into.append(
        observation=np.full((envs, 2), into.length, np.float32),
        action=np.full(envs, 10 + into.length),
        log_prob=np.zeros(envs),
        value=np.array(value),
        reward=np.ones(envs),
        discount=np.full(envs, 0.9),
        ended=np.array(ended),
        final_value=np.array(final),
    )


def docstring_rollout() -> Rollout:
    """Return the rollout in the docstring of `Rollout`: values 10, 11 | 20, 21, and final values 12 and 22."""
    filled = rollout()
    append(filled, [10], [0], [False])
    append(filled, [11], [12], [True])
    append(filled, [20], [0], [False])
    append(filled, [21], [22], [False])
    return filled


def test_next_values_by_hand() -> None:
    filled = docstring_rollout()
    assert filled.next_value()[:, 0].tolist() == [11, 12, 21, 22]
    # Negative control: shifted values alone bootstrap from the first state of the next episode.
    assert np.append(filled.value[1:, 0], 22).tolist() == [11, 20, 21, 22]


def test_environments_do_not_mix() -> None:
    filled = rollout(steps=2, num_envs=2)
    append(filled, [1, 100], [0, 300], [False, True])
    append(filled, [2, 200], [3, 400], [False, False])
    assert filled.next_value().tolist() == [[2, 300], [3, 400]]


def test_a_rollout_is_full_after_its_steps_and_empty_after_clear() -> None:
    filled = docstring_rollout()
    assert filled.full
    with pytest.raises(AssertionError, match="full"):
        append(filled, [0], [0], [False])
    filled.clear()
    assert not filled.full
    with pytest.raises(AssertionError, match="unknown"):
        filled.next_value()
    assert filled.state()["observation"].shape == (0, 1, 2)


def test_log_probs_are_optional() -> None:
    filled = Rollout(1, 2, (2,), FLOAT, (), INT, log_prob=False)
    row = {name: np.ones(2) for name in ("action", "value", "reward", "discount", "ended", "final_value")}
    filled.append(observation=np.ones((2, 2)), **row)
    assert "log_prob" not in filled.state()
    assert filled.nbytes == Rollout(1, 2, (2,), FLOAT, (), INT).nbytes - 2 * 4


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_half_filled_rollout_survives_a_checkpoint(tmp_path: Path, rows: int) -> None:
    filled, again = docstring_rollout(), rollout()
    filled.clear()
    for row in range(rows):
        append(filled, [row + 0.5], [7], [row == 1])
    checkpoint.save(tmp_path, 1, {"rollout": filled.state()})
    again.load(checkpoint.load_newest(tmp_path)[1]["rollout"])
    assert again.length == rows
    for into in (filled, again):
        while not into.full:
            append(into, [50 + into.length], [8], [False])
    assert checkpoint.digest(again.state()) == checkpoint.digest(filled.state())
    np.testing.assert_array_equal(again.next_value(), filled.next_value())


def test_select_indexes_every_column() -> None:
    columns = [torch.arange(4.0) + 10 * number for number in range(6)]
    part = Batch(*columns).select(torch.tensor([3, 1]))
    assert [getattr(part, name).tolist() for name in Batch.__slots__] == [[10 * n + 3, 10 * n + 1] for n in range(6)]


def episodes(num_envs: int, episodes_per_env: int) -> Episodes:
    return Episodes(num_envs, episodes_per_env, {"observation": ((1,), FLOAT), "action": ((), INT)})


def step(into: Episodes, time: int, terminated: list[bool], truncated: list[bool] | None = None) -> None:
    """Add the step at `time`: environment n observes 100 n + time; its next observation is -(100 n + time)."""
    observations = 100.0 * np.arange(len(terminated)) + time
    into.append(
        observation=observations[:, None].astype(np.float32),
        action=observations.astype(np.int64),
        reward=observations.astype(np.float32),
        terminated=np.array(terminated),
        truncated=np.zeros(len(terminated), np.bool_) if truncated is None else np.array(truncated),
        next_observation=-observations[:, None].astype(np.float32),
    )


def observations(taken: list[Any]) -> list[list[float]]:
    return [episode.observation[:, 0].tolist() for episode in taken]


def collect(into: Episodes, ends: list[list[int]], until: int, start: int = 0) -> None:
    """Add the steps start .. until - 1; the episodes of environment n end at the times ends[n]."""
    for time in range(start, until):
        step(into, time, [time in times for times in ends])


def test_each_environment_contributes_whole_episodes_started_after_the_update() -> None:
    """Episodes end at 1, 5, 8 and 10 in environment 0, at 3, 7 and 10 in environment 1; the update is after step 3.

    Then environment 1 starts an episode (4 to 7). The current episode of environment 0 started before the update and
    lasts until 5, so its next one (6 to 8) is recorded.
    """
    ends = [[1, 5, 8, 10], [3, 7, 10]]
    buffer = episodes(num_envs=2, episodes_per_env=1)
    collect(buffer, ends, until=3)
    assert not buffer.complete
    collect(buffer, ends, start=3, until=4)
    assert buffer.complete
    assert observations(buffer.take()) == [[0, 1], [100, 101, 102, 103]]
    collect(buffer, ends, start=4, until=8)
    assert not buffer.complete  # environment 0 finished 2 to 5, which started before the update
    collect(buffer, ends, start=8, until=9)
    assert buffer.complete
    assert observations(buffer.take()) == [[6, 7, 8], [104, 105, 106, 107]]


def test_several_episodes_of_one_environment() -> None:
    buffer = episodes(num_envs=1, episodes_per_env=2)
    step(buffer, 0, [False])
    step(buffer, 1, [False], [True])
    step(buffer, 2, [True])
    first, second = buffer.take()
    assert observations([first, second]) == [[0, 1], [2]]
    assert (first.truncated, second.truncated) == (True, False)
    assert (first.final_observation.tolist(), second.final_observation.tolist()) == ([-1], [-2])
    assert first.reward.tolist() == [0, 1]
    step(buffer, 3, [True])
    assert not buffer.complete


def test_short_episodes_are_not_preferred() -> None:
    """Lengths 1 and 9 with equal probability: 5 on average. The first two episodes to finish are shorter on average."""
    coin = np.random.default_rng(5)
    envs = 2
    buffer, lengths, first_to_finish, batch = episodes(envs, episodes_per_env=1), [], [], []
    left = np.where(coin.random(envs) < 0.5, 1, 9)
    started, updated, time = np.zeros(envs), 0.0, 0
    while len(lengths) < 1_500:
        left -= 1
        ended = left == 0
        step(buffer, time, list(ended))
        batch += [time + 1 - started[env_index] for env_index in np.flatnonzero(ended) if started[env_index] >= updated]
        if len(batch) >= envs:
            first_to_finish += batch[:envs]
            batch, updated = [], time + 1
        time += 1
        started[ended] = time
        left = np.where(ended, np.where(coin.random(envs) < 0.5, 1, 9), left)
        if buffer.complete:
            lengths += [len(episode.reward) for episode in buffer.take()]
    error = 4 / np.sqrt(len(lengths))
    assert abs(np.mean(lengths) - 5) < 4 * error
    assert np.mean(first_to_finish) < 5 - 8 * 4 / np.sqrt(len(first_to_finish))


@pytest.mark.parametrize("moment", [0, 1, 4, 6, 7, 10])
def test_episodes_survive_a_checkpoint_at_any_step(tmp_path: Path, moment: int) -> None:
    ends = [[1, 5, 8, 10], [3, 7, 10]]

    def run(into: Episodes, start: int, until: int) -> list[list[float]]:
        taken = []
        for time in range(start, until):
            collect(into, ends, start=time, until=time + 1)
            if into.complete:
                taken += observations(into.take())
        return taken

    uninterrupted, first, second = (episodes(2, 1) for _ in range(3))
    expected = run(uninterrupted, 0, 11)
    before = run(first, 0, moment)
    checkpoint.save(tmp_path, 1, {"episodes": first.state()})
    second.load(checkpoint.load_newest(tmp_path)[1]["episodes"])
    assert before + run(second, moment, 11) == expected
    assert checkpoint.digest(second.state()) == checkpoint.digest(uninterrupted.state())
    assert len(expected) == 4
