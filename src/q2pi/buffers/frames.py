"""Where the frames of a replay ring are kept: one frame per slot, as they are or compressed.

Neighbours in a stream are nearly the same image, so `CompressedFrames` keeps eight of them as one piece of Zstandard
data. A ring of 32 slots that has come round and is about to write slot 19:

    slot        0 .. 7      8 .. 15     16 17 18    19 .. 23    24 .. 31
    chunk       0           1           2           2           3
    frames      new         new         new         old         old
    kept as     sealed      sealed      open        open        sealed

A `sealed` chunk is compressed, an `open` one is an array. A chunk is sealed when its last slot is written and opened
again when the ring comes round to its first: its old frames can still be sampled.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import numpy as np
import zstandard
from numpy.typing import DTypeLike
from psutil import virtual_memory  # type: ignore[import-untyped]

from q2pi.errors import UserError
from q2pi.types import Array

Codec = Literal["auto", "raw", "zstd"]
"""`auto` is resolved by `resolve_codec` before a store is made; a store takes it for raw."""
RAW_SHARE = 3
"""Raw frames may take one part in this many of the machine's memory before `auto` compresses them."""
CHUNK = 8
"""Slots compressed as one: more take less memory and more time, as a chunk is decoded whole for any of its frames."""
ZSTD_RATIO = 18
"""Size of Atari frames (84 x 84, gray) over their size in `CompressedFrames`, as forecasts assume it.

Measured with random play: 19 in Enduro to 106 in Pong over 14 games, 28 in Space Invaders; in YarsRevenge it is 6.
"""
_PIECE_OVERHEAD = 56
"""Bytes of a piece beside its data: the header of a bytes object, its place in the list, the allocator's rounding."""


class FrameStore(Protocol):
    """A fixed number of slots with one frame each. A slot is read only after it was written."""

    @property
    def nbytes(self) -> int:
        """Bytes taken when every slot is written; bytes taken now where that depends on the frames."""

    def write(self, slots: Array, frames: Array) -> None:
        """Keep frames [B, *frame_shape] at distinct slots [B], in place of what was there."""

    def read(self, slots: Array) -> Any:
        """Return the frames [B, *frame_shape] at slots [B] as a fresh array, or a tensor where they lie on a device."""

    def state(self) -> dict[str, Any]:
        """Return everything `load` needs; arrays may be live references. Every name begins with "frames"."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Become the store that `state` was taken from; names that are not the store's own are ignored."""


MakeStore = Callable[[int, tuple[int, ...], DTypeLike], FrameStore]
"""(slots, frame_shape, frame_dtype) -> an empty store."""


class RawFrames:
    """Frames as they are, in one array; memory is committed by the system only where a slot has been written."""

    def __init__(self, slots: int, frame_shape: tuple[int, ...], frame_dtype: DTypeLike) -> None:
        self._frames: Array = np.zeros((slots, *frame_shape), frame_dtype)

    @property
    def nbytes(self) -> int:
        return self._frames.nbytes

    def write(self, slots: Array, frames: Array) -> None:
        expect(frames, (len(slots), *self._frames.shape[1:]), self._frames.dtype)
        self._frames[slots] = frames

    def read(self, slots: Array) -> Array:
        return np.take(self._frames, slots, axis=0)

    def state(self) -> dict[str, Any]:
        return {"frames": self._frames}

    def load(self, state: Mapping[str, Any]) -> None:
        refuse_compressed(state)
        copy_into(self._frames, state, "frames")


class CompressedFrames:
    """Frames in chunks of eight consecutive slots, each compressed as a whole (see the top of the module).

    Any order of writes is kept faithfully. Memory is saved where slots are written one after the other, as a ring does:
    then about two chunks of each stream are open, the one at its cursor and one that it shares with its neighbour.
    Nothing can be read from a chunk in which no slot was ever written.
    """

    def __init__(self, slots: int, frame_shape: tuple[int, ...], frame_dtype: DTypeLike) -> None:
        self._shape, self._dtype = tuple(frame_shape), np.dtype(frame_dtype)
        self._sealed = [b""] * -(-slots // CHUNK)
        self._open: dict[int, Array] = {}
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._decompressor = zstandard.ZstdDecompressor()

    @property
    def nbytes(self) -> int:
        pieces = sum(len(piece) + _PIECE_OVERHEAD for piece in self._sealed if piece)
        return pieces + sum(frames.nbytes for frames in self._open.values())

    def write(self, slots: Array, frames: Array) -> None:
        expect(frames, (len(slots), *self._shape), self._dtype)
        for slot, frame in zip(slots.tolist(), frames, strict=True):
            chunk, place = divmod(slot, CHUNK)
            if chunk not in self._open:
                self._open[chunk] = self._opened(chunk)
            self._open[chunk][place] = frame
            if place == CHUNK - 1:
                # Copied, since the compressor's result would keep the memory of its largest possible size apart.
                self._sealed[chunk] = bytes(memoryview(self._compressor.compress(self._open.pop(chunk).data)))

    def read(self, slots: Array) -> Array:
        frames: Array = np.empty((len(slots), *self._shape), self._dtype)
        order = np.argsort(slots)
        chunks, places = np.divmod(slots[order], CHUNK)
        current, decoded = -1, frames
        for index, chunk, place in zip(order.tolist(), chunks.tolist(), places.tolist(), strict=True):
            if chunk != current:
                current, decoded = chunk, self._decoded(chunk)
            frames[index] = decoded[place]
        return frames

    def _opened(self, chunk: int) -> Array:
        """Return a chunk to write to: what was sealed in it, or zeros."""
        if not self._sealed[chunk]:
            return np.zeros((CHUNK, *self._shape), self._dtype)
        frames = self._decoded(chunk).copy()
        self._sealed[chunk] = b""
        return frames

    def _decoded(self, chunk: int) -> Array:
        """Return the frames [CHUNK, *frame_shape] of a chunk, not to be written to."""
        if chunk in self._open:
            return self._open[chunk]
        frames = np.frombuffer(self._decompressor.decompress(self._sealed[chunk]), self._dtype)
        return frames.reshape(CHUNK, *self._shape)

    def state(self) -> dict[str, Any]:
        """Return the pieces end to end with their sizes, 0 where a chunk is open or empty, and the open chunks."""
        raw = list(self._open.values())
        return {
            "frames_sealed": np.frombuffer(b"".join(self._sealed), np.uint8),
            "frames_sizes": np.array([len(piece) for piece in self._sealed], np.int64),
            "frames_open": np.array(list(self._open), np.int64),
            "frames_raw": np.array(raw, self._dtype).reshape(len(raw), CHUNK, *self._shape),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        if "frames_sealed" not in state:
            raise UserError("the saved replay is raw: --replay-codec must be that of the saved run, not zstd")
        opened = np.asarray(state["frames_open"])
        _expect_saved("frames_sizes", state["frames_sizes"], (len(self._sealed),), np.dtype(np.int64))
        _expect_saved("frames_raw", state["frames_raw"], (len(opened), CHUNK, *self._shape), self._dtype)
        sealed, sizes = np.asarray(state["frames_sealed"]), np.asarray(state["frames_sizes"])
        ends = np.cumsum(sizes)
        self._sealed = [sealed[start:end].tobytes() for start, end in zip(ends - sizes, ends, strict=True)]
        raw = np.asarray(state["frames_raw"])
        self._open = {chunk: frames.copy() for chunk, frames in zip(opened.tolist(), raw, strict=True)}


def resolve_codec(codec: Codec, raw_bytes: int) -> Codec:
    """Return the codec that `auto` stands for on this machine; any other is returned as it is.

    Args:
        codec: as configured.
        raw_bytes: bytes that raw frames would take.

    The machine's whole memory decides, not what is free now: a resumed run must choose again what it chose before.
    """
    if codec != "auto":
        return codec
    return "raw" if raw_bytes * RAW_SHARE <= virtual_memory().total else "zstd"


def make_store(codec: Codec, frame_shape: tuple[int, ...], frame_dtype: DTypeLike) -> MakeStore:
    """Return what makes the store for frames of this kind. Whatever the codec, only images of bytes are compressed."""
    return CompressedFrames if _compresses(codec, frame_shape, frame_dtype) else RawFrames


def store_bytes(codec: Codec, slots: int, num_envs: int, frame_shape: tuple[int, ...], frame_dtype: DTypeLike) -> int:
    """Return the most bytes that the store of a full ring will take: exact if raw, an estimate if compressed.

    Compressed frames count twice, since the pieces are put end to end for every checkpoint, and each stream has two
    open chunks.
    """
    frame = np.dtype((frame_dtype, frame_shape)).itemsize
    if not _compresses(codec, frame_shape, frame_dtype):
        return slots * frame
    return 2 * (slots * frame // ZSTD_RATIO + 2 * num_envs * CHUNK * frame)


def _compresses(codec: Codec, frame_shape: tuple[int, ...], frame_dtype: DTypeLike) -> bool:
    return codec == "zstd" and len(frame_shape) == 3 and np.dtype(frame_dtype) == np.uint8


def refuse_compressed(state: Mapping[str, Any]) -> None:
    """Raise a UserError where a saved replay's frames are not raw ones."""
    if "frames" not in state:
        raise UserError("the saved replay is compressed: --replay-codec must be that of the saved run, not raw")


def expect(frames: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if frames.shape != shape or frames.dtype != dtype:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}, the ring expects {dtype} {shape}")


def copy_into(array: Array, state: Mapping[str, Any], name: str) -> None:
    """Overwrite `array` with `state[name]`, straight from the disk where that is where it lies.

    Raises:
        UserError: the saved array has another shape or type.
    """
    saved = state[name]
    _expect_saved(name, saved, array.shape, array.dtype)
    if hasattr(saved, "read_into"):
        saved.read_into(array)
    else:
        array[...] = saved


def _expect_saved(name: str, saved: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if saved.shape != shape or saved.dtype != dtype:
        raise UserError(
            f"the saved replay has {name} {saved.dtype} {saved.shape}, this run needs {dtype} {shape}: "
            "--buffer-size, --num-envs and --env-id must be those of the saved run"
        )
