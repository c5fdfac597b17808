"""The two pictures of the module by hand, and why episodes are counted as they are."""

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


def picture() -> Rollout:
    """The rollout drawn in the docstring of `Rollout`: values 10, 11 | 20, 21, and 12 and 22 for what follows."""
    filled = rollout()
    append(filled, [10], [0], [False])
    append(filled, [11], [12], [True])
    append(filled, [20], [0], [False])
    append(filled, [21], [22], [False])
    return filled


def test_what_follows_each_step() -> None:
    filled = picture()
    assert filled.next_value()[:, 0].tolist() == [11, 12, 21, 22]
    # Shifting the values alone would let the next episode's first state follow the final one.
    assert np.append(filled.value[1:, 0], 22).tolist() == [11, 20, 21, 22]


def test_games_do_not_mix() -> None:
    filled = rollout(steps=2, num_envs=2)
    append(filled, [1, 100], [0, 300], [False, True])
    append(filled, [2, 200], [3, 400], [False, False])
    assert filled.next_value().tolist() == [[2, 300], [3, 400]]


def test_a_rollout_is_full_after_its_steps_and_empty_after_clear() -> None:
    filled = picture()
    assert filled.full
    with pytest.raises(AssertionError, match="full"):
        append(filled, [0], [0], [False])
    filled.clear()
    assert not filled.full
    with pytest.raises(AssertionError, match="unknown"):
        filled.next_value()
    assert filled.state()["observation"].shape == (0, 1, 2)


def test_a_learner_of_values_keeps_no_probabilities() -> None:
    filled = Rollout(1, 2, (2,), FLOAT, (), INT, log_prob=False)
    row = {name: np.ones(2) for name in ("action", "value", "reward", "discount", "ended", "final_value")}
    filled.append(observation=np.ones((2, 2)), **row)
    assert "log_prob" not in filled.state()
    assert filled.nbytes == Rollout(1, 2, (2,), FLOAT, (), INT).nbytes - 2 * 4


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_half_filled_rollout_survives_a_checkpoint(tmp_path: Path, rows: int) -> None:
    filled, again = picture(), rollout()
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


def test_select_takes_rows_of_every_column() -> None:
    columns = [torch.arange(4.0) + 10 * number for number in range(6)]
    part = Batch(*columns).select(torch.tensor([3, 1]))
    assert [getattr(part, name).tolist() for name in Batch.__slots__] == [[10 * n + 3, 10 * n + 1] for n in range(6)]


def episodes(num_envs: int, share: int) -> Episodes:
    return Episodes(num_envs, share, {"observation": ((1,), FLOAT), "action": ((), INT)})


def play(into: Episodes, now: int, terminated: list[bool], truncated: list[bool] | None = None) -> None:
    """One step at time `now`: game n sees 100 n + now, and what follows it is -(100 n + now)."""
    seen = 100.0 * np.arange(len(terminated)) + now
    into.append(
        observation=seen[:, None].astype(np.float32),
        action=seen.astype(np.int64),
        reward=seen.astype(np.float32),
        terminated=np.array(terminated),
        truncated=np.zeros(len(terminated), np.bool_) if truncated is None else np.array(truncated),
        next_observation=-seen[:, None].astype(np.float32),
    )


def seen(taken: list[Any]) -> list[list[float]]:
    return [episode.observation[:, 0].tolist() for episode in taken]


def collect(into: Episodes, ends: list[list[int]], until: int, start: int = 0) -> None:
    """Play the steps start..until - 1; game n's episodes end at the times ends[n]."""
    for now in range(start, until):
        play(into, now, [now in times for times in ends])


def test_each_game_plays_its_share_of_whole_episodes_begun_after_the_update() -> None:
    """Game 0 ends at 1, 5, 8 and 10; game 1 at 3, 7 and 10. Update after 3: game 1's next episode begins there, and
    game 0 is under way until 5, so its next one is 6 to 8, complete with game 1's 4 to 7."""
    ends = [[1, 5, 8, 10], [3, 7, 10]]
    kept = episodes(num_envs=2, share=1)
    collect(kept, ends, until=3)
    assert not kept.complete
    collect(kept, ends, start=3, until=4)
    assert kept.complete
    assert seen(kept.take()) == [[0, 1], [100, 101, 102, 103]]
    collect(kept, ends, start=4, until=8)
    assert not kept.complete  # game 0 has played 2 to 5 whole, but began it before the update
    collect(kept, ends, start=8, until=9)
    assert kept.complete
    assert seen(kept.take()) == [[6, 7, 8], [104, 105, 106, 107]]


def test_several_episodes_of_one_game() -> None:
    kept = episodes(num_envs=1, share=2)
    play(kept, 0, [False])
    play(kept, 1, [False], [True])
    play(kept, 2, [True])
    first, second = kept.take()
    assert seen([first, second]) == [[0, 1], [2]]
    assert (first.truncated, second.truncated) == (True, False)
    assert (first.final_observation.tolist(), second.final_observation.tolist()) == ([-1], [-2])
    assert first.reward.tolist() == [0, 1]
    play(kept, 3, [True])
    assert not kept.complete


def test_short_episodes_are_not_preferred() -> None:
    """Lengths 1 and 9, a coin each: 5 on average. The first two to finish, of whichever game, are shorter."""
    coin = np.random.default_rng(5)
    envs = 2
    kept, lengths, hurried, batch = episodes(envs, share=1), [], [], []
    left = np.where(coin.random(envs) < 0.5, 1, 9)
    begun, updated, now = np.zeros(envs), 0.0, 0
    while len(lengths) < 1_500:
        left -= 1
        ended = left == 0
        play(kept, now, list(ended))
        batch += [now + 1 - begun[game] for game in np.flatnonzero(ended) if begun[game] >= updated]
        if len(batch) >= envs:
            hurried += batch[:envs]
            batch, updated = [], now + 1
        now += 1
        begun[ended] = now
        left = np.where(ended, np.where(coin.random(envs) < 0.5, 1, 9), left)
        if kept.complete:
            lengths += [len(episode.reward) for episode in kept.take()]
    error = 4 / np.sqrt(len(lengths))
    assert abs(np.mean(lengths) - 5) < 4 * error
    assert np.mean(hurried) < 5 - 8 * 4 / np.sqrt(len(hurried))


@pytest.mark.parametrize("moment", [0, 1, 4, 6, 7, 10])
def test_episodes_survive_a_checkpoint_at_any_step(tmp_path: Path, moment: int) -> None:
    ends = [[1, 5, 8, 10], [3, 7, 10]]

    def run(into: Episodes, start: int, until: int) -> list[list[float]]:
        taken = []
        for now in range(start, until):
            collect(into, ends, start=now, until=now + 1)
            if into.complete:
                taken += seen(into.take())
        return taken

    whole, first, second = (episodes(2, 1) for _ in range(3))
    expected = run(whole, 0, 11)
    before = run(first, 0, moment)
    checkpoint.save(tmp_path, 1, {"episodes": first.state()})
    second.load(checkpoint.load_newest(tmp_path)[1]["episodes"])
    assert before + run(second, moment, 11) == expected
    assert checkpoint.digest(second.state()) == checkpoint.digest(whole.state())
    assert len(expected) == 4
