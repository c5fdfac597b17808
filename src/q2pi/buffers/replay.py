"""Replay as a ring of single frames: one row per observation; stacks and n-step returns are assembled when sampling.

The timeline of one stream (one environment). The first episode is truncated after three steps, in the second a life is
lost in its first step. Stored, one row per observation:

    row             0       1       2       3       4       5       6
    frame           o0      o1      o2      o3      p0      p1      p2
    age             0       1       2       3       0       1       2
    action          a0      a1      a2      .       b0      b1      .
    reward          1       2       3       .       4       5       .
    continuation    1       1       1       .       0       1       .
    kind            step    step    step    final   step    step    open

Assembled when sampling, with stack 2, n_step 2, gamma 0.1 (`-` is a frame of zeros):

    observation     -,o0    o0,o1   o1,o2   .       -,p0    .       .
    return          1.2     2.3     3       .       4       .       .
    discount        0.01    0.01    0.1     .       0       .       .
    next            o1,o2   o2,o3   o2,o3   .       p0,p1   .       .

- A `final` row keeps the last observation of an episode. No action follows it, so it is never sampled as a state; it is
  the observation that a truncated episode bootstraps from.
- The `open` row is the newest: its action is not known yet. Row 5 cannot be sampled before its chain of two rewards is
  complete; row 4 can, because a lost life ends its chain.
- `age` counts the observations since the episode's first: a stack reaches back no further than that.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from q2pi.buffers.frames import Codec, FrameStore, MakeStore, RawFrames, copy_into, store_bytes
from q2pi.errors import UserError
from q2pi.types import Array

EVERY = slice(None)
"""Every stream, as an index; numpy takes a slice in a third of the time of an array of indices."""
Mask = NDArray[np.bool_]
Slots = NDArray[np.int64]


class Transitions(NamedTuple):
    """Transitions as the replay assembles them: reward + discount * value(next_observation) is the target of each."""

    observation: Array
    """[B, K*C, H, W] or [B, K*D]: the newest K frames, oldest first, zeros before the episode's first."""
    action: Array
    """[B, *action_shape]"""
    reward: NDArray[np.float32]
    """[B] n-step return: sum over k < m of gamma^k r_k, where m <= n counts the steps up to the first end."""
    discount: NDArray[np.float32]
    """[B] gamma^m times the continuation of the last of the m steps: 0 if terminated or if a life was lost."""
    next_observation: Array
    """Shaped like `observation`, m steps later: the true final observation if the episode was truncated."""
    slots: Slots
    """[B] slots of the transitions."""


def rows_per_stream(capacity: int, num_envs: int, stack: int, n_step: int) -> int:
    """Return the rows of one stream: its share of the capacity, plus the rows that cannot be sampled.

    The oldest `stack - 1` rows may lack a frame of their stack; the newest `n_step` rows, including the open row, may
    lack a reward of their n-step return. The share is at least two rows: a single row could be a final one, and no two
    final rows are neighbours.
    """
    return max(2, -(-capacity // num_envs)) + (stack - 1) + n_step


def bytes_needed(
    capacity: int,
    num_envs: int,
    frame_shape: tuple[int, ...],
    frame_dtype: DTypeLike,
    stack: int,
    n_step: int,
    action_shape: tuple[int, ...] = (),
    action_dtype: DTypeLike = np.int64,
    codec: Codec = "raw",
) -> int:
    """Return the bytes that a full replay takes, without allocating it: `Replay.nbytes` if frames are raw."""
    slots = num_envs * rows_per_stream(capacity, num_envs, stack, n_step)
    frames = store_bytes(codec, slots, num_envs, frame_shape, frame_dtype)
    return frames + slots * _row_dtype(action_shape, action_dtype).itemsize


def _row_dtype(action_shape: tuple[int, ...], action_dtype: DTypeLike) -> np.dtype[Any]:
    """Return the fields of a row beside its frame."""
    return np.dtype(
        [
            ("action", action_dtype, action_shape),
            ("reward", np.float32),
            ("continuation", np.float32),
            ("age", np.int32),
            ("final", np.bool_),
        ]
    )


class Replay:
    """N streams of observations, each a ring of `rows` rows with its own cursor; slot = stream * rows + row.

    The newest `capacity` rows with a complete n-step return can be sampled, except final rows: an episode of T steps
    takes T + 1 rows, so each episode reduces the number of transitions below `capacity` by one.

    Args:
        capacity: transitions to keep, over all streams (rounded up to a multiple of `num_envs`).
        num_envs: streams N.
        frame_shape: shape of one frame, [C, H, W] or [D]; stacks are concatenated along its first axis.
        frame_dtype: type of one frame.
        stack: frames K per observation.
        n_step: rewards n summed before the target bootstraps.
        gamma: discount per step.
        action_shape, action_dtype: of one action.
        store: factory of the frame store.

    Raises:
        UserError: a size below 1, or gamma outside [0, 1].
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        frame_shape: tuple[int, ...],
        frame_dtype: DTypeLike,
        stack: int,
        n_step: int,
        gamma: float,
        action_shape: tuple[int, ...] = (),
        action_dtype: DTypeLike = np.int64,
        store: MakeStore = RawFrames,
    ) -> None:
        sizes = {"--buffer-size": capacity, "--num-envs": num_envs, "--stack": stack, "--n-step": n_step}
        for flag, size in sizes.items():
            if size < 1:
                raise UserError(f"{flag} {size} is out of range: it must be at least 1")
        if not 0 <= gamma <= 1:
            raise UserError(f"--gamma {gamma} is out of range: it must be in [0, 1]")
        self.capacity, self.num_envs, self.stack, self.n_step, self.gamma = capacity, num_envs, stack, n_step, gamma
        self.rows = rows_per_stream(capacity, num_envs, stack, n_step)
        slots = num_envs * self.rows
        self.frames: FrameStore = store(slots, tuple(frame_shape), frame_dtype)
        self.action: Array = np.zeros((slots, *action_shape), action_dtype)
        # NaN in a row without an action: an n-step return that included one would be NaN, not silently wrong.
        self.reward = np.full(slots, np.nan, np.float32)
        self.continuation = np.zeros(slots, np.float32)
        self.age = np.zeros(slots, np.int32)
        self.final = np.zeros(slots, np.bool_)
        self.written = np.zeros(num_envs, np.int64)
        """[N] number of rows written to each stream so far; the newest row is the open row."""
        self._finals = np.zeros(num_envs, np.int64)
        self._streams = np.arange(num_envs)
        self._first = self._streams * self.rows
        """[N] first slot of each stream."""
        self._lookback = np.arange(stack - 1, -1, -1)
        self._steps = np.arange(n_step)
        self._powers = np.power(float(gamma), np.arange(n_step + 1))

    # ---- writing -----------------------------------------------------------------------------------------------------

    def begin(self, frames: Array, streams: Slots | None = None) -> Slots:
        """Start an episode in streams [S], by default in all N, with its first observations, frames [S, *frame_shape].

        If a stream has rows, its newest episode is cut as if it were truncated: its open row becomes a final row.

        Returns:
            The slots of rows that became final.

        Raises:
            ValueError: all streams begin, and the replay has rows already.
        """
        if streams is None and self.written.any():
            raise ValueError("begin was called twice: the replay has rows already")
        streams = self._streams if streams is None else streams
        open_slots = self._newest(streams)
        has_rows = self.written[streams] > 0
        # An episode without a step leaves nothing to keep; a final row for it would be the second in sequence.
        is_unused = has_rows & (self.age[open_slots] == 0)
        self.written[streams[is_unused]] -= 1
        cut = has_rows & ~is_unused
        self.final[open_slots[cut]] = True
        self._finals[streams[cut]] += 1
        self._append(streams, frames, age=0, final=False)
        return np.asarray(open_slots[cut])

    def extend(
        self,
        action: Array,
        reward: Array,
        continuation: Array,
        next_frame: Array,
        ended: Array,
        first_frame: Array,
        streams: Slots | None = None,
    ) -> Slots:
        """Add one step of the environments of streams [S], by default of all N; return the slots of new transitions.

        Args:
            action: [N, *action_shape] actions taken at the open rows.
            reward: [N] rewards of the actions.
            continuation: [N] 0 if terminated or if a lost life stops bootstrapping, else 1 (also if truncated).
            next_frame: [N, *frame_shape] results of the actions: the final observation if the episode ended.
            ended: [N] bool, the episode ended, by termination or truncation.
            first_frame: [N, *frame_shape] first observations of new episodes; read only if `ended`.
            streams: the distinct streams of the environments; N above is then their number S.
        """
        chosen = EVERY if streams is None else streams
        written = self.written[chosen]
        if np.count_nonzero(written) < len(written):
            raise ValueError("extend before begin: the replay has no open rows")
        for name, values in (("action", action), ("reward", reward), ("continuation", continuation), ("ended", ended)):
            if len(values) != len(written):
                raise ValueError(f"{name} has {len(values)} entries, the replay has {len(written)} streams")
        open_slots = self._newest(chosen)
        self.action[open_slots] = action
        self.reward[open_slots] = reward
        self.continuation[open_slots] = continuation
        self._append(chosen, next_frame, age=self.age[open_slots] + 1, final=ended)
        if np.count_nonzero(ended):
            self._append(self._streams[chosen][ended], first_frame[ended], age=0, final=False)
        return open_slots

    def _append(self, streams: Slots | slice, frames: Array, age: Array | int, final: Array | bool) -> None:
        """Write one row to each of the distinct `streams`, in place of the stream's oldest row."""
        slots = self._first[streams] + self.written[streams] % self.rows
        self.frames.write(slots, frames)
        self._finals[streams] += np.subtract(final, self.final[slots], dtype=np.int64)
        self.action[slots] = 0
        self.reward[slots] = np.nan
        self.continuation[slots] = np.nan
        self.age[slots] = age
        self.final[slots] = final
        self.written[streams] += 1

    # ---- reading -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the exact number of transitions that can be sampled."""
        # Away from its two ends a stream can be sampled at every row that is not final, so only the ends are checked.
        newer = np.concatenate([self._steps, self.rows - 1 - np.arange(self.stack - 1)])
        edge = self.ahead(self._newest(self._streams)[:, None], -newer)
        excluded = (newer < self.written[:, None]) & ~self.final[edge] & ~self.can_sample(edge)
        return int(self.filled.sum() - self._finals.sum() - excluded.sum())

    @property
    def filled(self) -> NDArray[np.int64]:
        """[N] number of rows stored in each stream: rows 0 .. filled - 1, in no order of age."""
        return np.minimum(self.written, self.rows)

    def can_sample(self, slots: Slots) -> Mask:
        """Return whether a transition can be sampled at each slot.

        A slot needs an action (its row is neither final nor open), all frames of its stack, and a complete n-step
        return: n rewards, or fewer up to the end of the episode.
        """
        if self.n_step == self.stack == 1:
            return ~np.isnan(self.reward[slots])
        stream, row = np.divmod(slots, self.rows)
        newer = (self.written[stream] - 1 - row) % self.rows  # rows after this one, up to the open row
        older = self.filled[stream] - 1 - newer  # rows before this one; negative if the row is empty
        stacked = np.minimum(self.age[slots], self.stack - 1) <= older
        complete = newer >= self.n_step
        if self.n_step > 1:
            steps = self._steps[:-1]
            ends = self._ends(self.ahead(slots[..., None], steps))
            complete |= (ends & (steps < newer[..., None])).any(axis=-1)
        return np.asarray(stacked & complete & ~self.final[slots])

    def sample(self, slots: Slots) -> Transitions:
        """Assemble the transitions at slots [B], in that order.

        Raises:
            ValueError: a slot cannot be sampled.
        """
        if not self.can_sample(slots).all():
            raise ValueError(f"slots {slots[~self.can_sample(slots)]} cannot be sampled")
        return self.assemble(slots)

    def assemble(self, slots: Slots) -> Transitions:
        """Assemble the transitions at slots [B] that a sampler has checked with `can_sample`."""
        reward, power, last = self._returns(slots)
        # One array for both observations: two smaller ones are unmapped after each batch and page-faulted in again.
        stacked = self._stacked(np.concatenate([slots, self.ahead(last, 1)]))
        return Transitions(
            observation=stacked[: len(slots)],
            action=self.action[slots],
            reward=reward,
            discount=(power * self.continuation[last]).astype(np.float32, copy=False),
            next_observation=stacked[len(slots) :],
            slots=slots,
        )

    def _returns(self, slots: Slots) -> tuple[NDArray[np.float32], Any, Slots]:
        """Return (n-step returns [B], gamma^m of the m rewards of each, slots [B] of the last of them)."""
        if self.n_step == 1:
            return self.reward[slots], self.gamma, slots
        chain = self.ahead(slots[:, None], self._steps)  # [B, n]
        included = np.ones(chain.shape, np.bool_)
        included[:, 1:] = ~np.logical_or.accumulate(self._ends(chain[:, :-1]), axis=1)
        rewards = np.where(included, self.reward[chain], 0) * self._powers[:-1]
        length = included.sum(axis=1)
        return rewards.sum(axis=1).astype(np.float32), self._powers[length], self.ahead(slots, length - 1)

    def _ends(self, slots: Slots) -> Mask:
        """Return whether the n-step return of each slot stops with that slot's step."""
        return np.asarray((self.continuation[slots] == 0) | self.final[self.ahead(slots, 1)])

    def _stacked(self, slots: Slots) -> Any:
        """Return the stacks [B, K*C, ...] that end at slots [B]."""
        if self.stack == 1:
            return self.frames.read(slots)
        age = self.age[slots][:, None]
        frames = self.frames.read(self.ahead(slots[:, None], -np.minimum(self._lookback, age)).reshape(-1))
        before = self._lookback > age
        if before.any():
            frames[np.flatnonzero(before)] = 0
        first_axis, *rest = frames.shape[1:]
        return frames.reshape(len(slots), self.stack * first_axis, *rest)

    def _newest(self, streams: Slots | slice) -> Slots:
        """Return the slots [S] of the open rows of streams [S]."""
        return np.asarray(self._first[streams] + (self.written[streams] - 1) % self.rows)

    @property
    def open_slots(self) -> Slots:
        """[N] slots of the open rows, where the next actions will be stored."""
        return self._newest(self._streams)

    def recent(self, slots: Slots) -> Slots:
        """Return the slots [S, n_step] of slots [S] and of the rows 1 .. n_step - 1 before each, newest first."""
        return self.ahead(slots[:, None], -self._steps)

    def ahead(self, slots: Slots, steps: Array | int) -> Slots:
        """Return the slots `steps` rows later in the same stream, or earlier if negative."""
        row = slots % self.rows
        return np.asarray(slots - row + (row + steps) % self.rows)

    # ---- saving -----------------------------------------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        """Bytes of all rows when full (of compressed frames: now); the system commits only rows that were written."""
        rows = (self.action, self.reward, self.continuation, self.age, self.final)
        return self.frames.nbytes + sum(array.nbytes for array in rows)

    def state(self) -> dict[str, Any]:
        """Return the whole replay as a flat dict of arrays: live references, to be saved before the next step."""
        return {name: getattr(self, name) for name in self._NAMES} | self.frames.state()

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned, bit for bit.

        Raises:
            UserError: the saved replay has another size.
        """
        for name in self._NAMES:
            copy_into(getattr(self, name), state, name)
        self.frames.load(state)
        self._finals = self.final.reshape(self.num_envs, self.rows).sum(axis=1)

    _NAMES = ("action", "reward", "continuation", "age", "final", "written")

    def check(self) -> None:
        """Raise an AssertionError if an invariant is broken; slow, for tests."""
        for stream, (filled, written) in enumerate(zip(self.filled, self.written, strict=True)):
            order = stream * self.rows + np.arange(written - filled, written) % self.rows
            final, age, continuation = self.final[order], self.age[order], self.continuation[order]
            assert not final[-1:].any(), "the newest row is open, not final"
            assert self._finals[stream] == final.sum(), "_finals is the number of final rows"
            assert not (final & (age == 0)).any(), "an episode has at least one step"
            assert (age[1:] == np.where(final[:-1], 0, age[:-1] + 1)).all(), "age counts steps since the first row"
            no_action = final | (np.arange(filled) == filled - 1)
            assert np.isnan(self.reward[order][no_action]).all(), "a row without an action has no reward"
            assert np.isnan(continuation[no_action]).all(), "a row without an action has no continuation"
            assert np.isin(continuation[~no_action], (0, 1)).all(), "continuation is 0 or 1"
            assert not self.final[stream * self.rows + filled : (stream + 1) * self.rows].any(), (
                "empty rows are not final"
            )
        assert len(self) == self.can_sample(np.arange(self.num_envs * self.rows)).sum(), "the length is exact"
