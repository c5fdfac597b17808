"""The contract between a frame store and the ring."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import DTypeLike

from q2pi.buffers import frames as stores
from q2pi.buffers.frames import RawFrames, resolve_codec
from q2pi.buffers.replay import Replay
from q2pi.errors import UserError
from q2pi.types import Array


def test_frames_are_read_as_written_in_any_order() -> None:
    store = RawFrames(4, (1, 2), np.uint8)
    store.write(np.array([3, 0]), np.array([[[1, 2]], [[3, 4]]], np.uint8))
    store.write(np.array([3]), np.array([[[5, 6]]], np.uint8))
    assert store.read(np.array([0, 3, 0])).tolist() == [[[3, 4]], [[5, 6]], [[3, 4]]]
    assert store.nbytes == 8


def test_read_returns_a_copy() -> None:
    store = RawFrames(2, (1,), np.float32)
    store.read(np.array([0, 1]))[:] = 9
    assert store.read(np.array([0, 1])).tolist() == [[0], [0]]


@pytest.mark.parametrize("frames", [np.zeros((2, 1), np.int64), np.zeros((1, 1), np.uint8), np.zeros(2, np.uint8)])
def test_frames_of_another_shape_or_dtype_are_refused(frames: Array) -> None:
    with pytest.raises(ValueError, match="the ring expects uint8"):
        RawFrames(4, (1,), np.uint8).write(np.array([0, 1]), frames)


def test_a_state_restores_all_frames() -> None:
    store, other = RawFrames(3, (2,), np.float32), RawFrames(3, (2,), np.float32)
    store.write(np.array([1]), np.array([[0.1, -0.0]], np.float32))
    other.load(store.state())
    assert other.read(np.arange(3)).tobytes() == store.read(np.arange(3)).tobytes()
    with pytest.raises(UserError, match="--buffer-size"):
        RawFrames(4, (2,), np.float32).load(store.state())


class Strict(RawFrames):
    """A store that fails to read an unwritten slot, like a compressed one."""

    def __init__(self, slots: int, frame_shape: tuple[int, ...], frame_dtype: DTypeLike) -> None:
        super().__init__(slots, frame_shape, frame_dtype)
        self.known = np.zeros(slots, bool)

    def write(self, slots: Array, frames: Array) -> None:
        super().write(slots, frames)
        self.known[slots] = True

    def read(self, slots: Array) -> Array:
        assert self.known[slots].all(), "a slot is read only after it was written"
        return super().read(slots)


def test_the_ring_reads_only_written_slots() -> None:
    replay = Replay(50, 1, (1,), np.float32, 4, 1, 0.9, store=Strict)
    frame = np.ones((1, 1), np.float32)
    replay.begin(frame)
    zero = np.zeros(1)
    replay.extend(zero, zero, zero + 1, frame, np.array([False]), frame)
    assert replay.sample(np.array([0])).observation.tolist() == [[0, 0, 0, 1]]


@pytest.mark.parametrize(("raw_bytes", "codec"), [(0, "raw"), (1_000, "raw"), (1_001, "zstd")])
def test_auto_compresses_frames_that_take_more_than_a_third_of_the_memory(
    raw_bytes: int, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "virtual_memory", lambda: SimpleNamespace(total=3_000, available=1))
    assert resolve_codec("auto", raw_bytes) == codec
    assert [resolve_codec(named, raw_bytes) for named in ("raw", "zstd")] == ["raw", "zstd"]
