"""The ring against a slow oracle that keeps whole episodes in lists, on random streams."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from q2pi.buffers.replay import Replay
from q2pi.types import Array

GAMMA = 0.5
CONTINUES, LIFE_LOST, TERMINATED, TRUNCATED = range(4)

Transition = tuple[Array, int, float, float, Array]
"""(observation, action, n-step return, discount, next observation)"""


@dataclass
class Episode:
    start: int
    """Index of its first observation in the stream."""
    frames: list[Array]
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    continuations: list[float] = field(default_factory=list)
    over: bool = False

    def stack(self, t: int, size: int) -> Array:
        """Return the observation at time t: the frames t - size + 1 .. t, zeros before time 0."""
        zero = np.zeros_like(self.frames[0])
        return np.concatenate([self.frames[u] if u >= 0 else zero for u in range(t - size + 1, t + 1)])

    def transition(self, t: int, n_step: int, stack: int) -> Transition | None:
        """Return the transition from time t by definition, or None if a reward of its return is missing."""
        total, discount = 0.0, 1.0
        for u in range(t, t + n_step):
            if u == len(self.rewards):
                if not self.over:
                    return None
                break
            total += discount * self.rewards[u]
            discount *= GAMMA * self.continuations[u]
            if self.continuations[u] == 0:
                return self.stack(t, stack), self.actions[t], total, 0.0, self.stack(u + 1, stack)
        following = min(t + n_step, len(self.rewards))
        return self.stack(t, stack), self.actions[t], total, discount, self.stack(following, stack)


class Lists:
    """All episodes of all streams; `expected` returns the transitions that a ring of `rows` rows still has."""

    def __init__(self, rows: int, stack: int, n_step: int, firsts: Array) -> None:
        self.rows, self.stack, self.n_step = rows, stack, n_step
        self.streams = [[Episode(0, [first])] for first in firsts]

    def extend(self, *columns: Array) -> None:
        """Add one step; the arguments are those of `Replay.extend`."""
        for episodes, action, reward, continuation, frame, over, first in zip(self.streams, *columns, strict=True):
            now = episodes[-1]
            now.actions.append(action)
            now.rewards.append(float(reward))
            now.continuations.append(float(continuation))
            now.frames.append(frame)
            now.over = bool(over)
            if over:
                episodes.append(Episode(now.start + len(now.frames), [first]))

    def expected(self) -> dict[int, Transition]:
        """{slot: transition}"""
        known: dict[int, Transition] = {}
        for number, episodes in enumerate(self.streams):
            oldest = episodes[-1].start + len(episodes[-1].frames) - self.rows
            for episode in episodes:
                for t in range(len(episode.actions)):
                    deepest = episode.start + max(0, t - self.stack + 1)
                    transition = episode.transition(t, self.n_step, self.stack)
                    if deepest >= oldest and transition is not None:
                        known[number * self.rows + (episode.start + t) % self.rows] = transition
        return known


def agree(replay: Replay, lists: Lists) -> None:
    replay.check()
    known = lists.expected()
    slots = np.flatnonzero(replay.can_sample(np.arange(replay.num_envs * replay.rows)))
    assert slots.tolist() == sorted(known)
    assert len(replay) == len(known)
    if not len(slots):
        return
    slots = np.concatenate([slots[::-1], slots])
    batch = replay.sample(slots)
    observation, action, reward, discount, following = (
        np.array(column) for column in zip(*(known[slot] for slot in slots.tolist()), strict=True)
    )
    np.testing.assert_array_equal(batch.observation, observation)
    np.testing.assert_array_equal(batch.action, action)
    np.testing.assert_array_equal(batch.reward, reward.astype(np.float32))  # exact: powers of 0.5 and small integers
    np.testing.assert_array_equal(batch.discount, discount.astype(np.float32))
    np.testing.assert_array_equal(batch.next_observation, following)
    assert batch.reward.dtype == batch.discount.dtype == np.float32
    assert batch.slots is slots


def check_stream(capacity: int, num_envs: int, stack: int, n_step: int, endings: Iterable[Any], image: bool) -> None:
    """Feed a stream of distinct frames, actions and rewards to both, and compare after each step."""
    shape = (2, 3, 1) if image else (2,)
    count = iter(range(1, 1_000_000))

    def distinct() -> Array:
        return np.array([np.full(shape, next(count)) for _ in range(num_envs)]).astype(
            np.uint16 if image else np.float32
        )

    replay = Replay(capacity, num_envs, shape, distinct().dtype, stack, n_step, GAMMA)
    firsts = distinct()
    lists = Lists(replay.rows, stack, n_step, firsts)
    replay.begin(firsts)
    agree(replay, lists)
    for row in endings:
        ending = np.array(row)
        step = (
            np.array([next(count) for _ in range(num_envs)]),
            np.array([next(count) % 127 for _ in range(num_envs)], np.float32),
            np.isin(ending, (CONTINUES, TRUNCATED)).astype(np.float32),
            distinct(),
            np.isin(ending, (TERMINATED, TRUNCATED)),
            distinct(),
        )
        replay.extend(*step)
        lists.extend(*step)
        agree(replay, lists)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    num_envs = draw(st.integers(1, 3))
    # Most steps continue, so that some episodes are longer than the ring.
    ending = st.sampled_from([CONTINUES] * draw(st.integers(1, 12)) + [LIFE_LOST, TERMINATED, TRUNCATED])
    return {
        "capacity": draw(st.integers(1, 12)),
        "num_envs": num_envs,
        "stack": draw(st.integers(1, 4)),
        "n_step": draw(st.integers(1, 4)),
        "endings": draw(st.lists(st.lists(ending, min_size=num_envs, max_size=num_envs), min_size=1, max_size=40)),
        "image": draw(st.booleans()),
    }


@settings(max_examples=80, deadline=None)
@given(cases())
def test_the_ring_agrees_with_lists_of_episodes(case: dict[str, Any]) -> None:
    check_stream(**case)


def test_every_stack_and_n_step_on_long_streams_of_all_endings() -> None:
    generator = np.random.default_rng(0)
    for stack in range(1, 5):
        for n_step in range(1, 5):
            endings = generator.choice(4, p=[0.7, 0.1, 0.1, 0.1], size=(60, 3))
            check_stream(9, 3, stack, n_step, endings, image=False)
