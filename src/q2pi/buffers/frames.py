"""Frame stores of a replay ring: one frame per slot, raw or compressed.

Consecutive frames of a stream are nearly the same image, so `CompressedFrames` compresses eight of them as one block of
Zstandard data. A ring of 32 slots that has wrapped around and is about to write slot 19:

    slot        0 .. 7      8 .. 15     16 17 18    19 .. 23    24 .. 31
    chunk       0           1           2           2           3
    frames      new         new         new         old         old
    stored as   sealed      sealed      open        open        sealed

A `sealed` chunk is compressed, an `open` one is an array. A chunk is sealed when its last slot is written and opened
again when the ring reaches its first slot: its old frames can still be sampled.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import numpy as np
import zstandard
from numpy.typing import DTypeLike

from q2pi.errors import UserError
from q2pi.parallel.portable import virtual_memory
from q2pi.types import Array

Codec = Literal["auto", "raw", "zstd"]
"""`resolve_codec` replaces `auto` before a store is built; a store treats `auto` as raw."""
RAW_SHARE = 3
"""`auto` compresses frames if raw ones would take more than 1 / RAW_SHARE of the machine's memory."""
CHUNK = 8
"""Slots per chunk: larger chunks take less memory and more time, since reading one frame decodes its whole chunk."""
ZSTD_RATIO = 18
"""Assumed compression ratio of Atari frames (84 x 84, gray) in `CompressedFrames`, for estimates of memory.

Measured with random actions: 19 in Enduro to 106 in Pong over 14 games, 28 in Space Invaders; in YarsRevenge it is 6.
"""
_BLOCK_OVERHEAD = 56
"""Bytes of a block beside its data: the header of a bytes object, its list entry, the allocator's rounding."""


class FrameStore(Protocol):
    """A fixed number of slots with one frame each. A slot must be written before it is read."""

    @property
    def nbytes(self) -> int:
        """Bytes taken when every slot is written; for compressed frames, bytes taken now."""

    def write(self, slots: Array, frames: Array) -> None:
        """Write frames [B, *frame_shape] to distinct slots [B]."""

    def read(self, slots: Array) -> Any:
        """Return the frames [B, *frame_shape] at slots [B] as a new array, or a tensor if the store is on a device."""

    def state(self) -> dict[str, Any]:
        """Return everything `load` needs; arrays may be live references. Every name starts with "frames"."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned; names that do not belong to the store are ignored."""


MakeStore = Callable[[int, tuple[int, ...], DTypeLike], FrameStore]
"""(slots, frame_shape, frame_dtype) -> an empty store."""


class RawFrames:
    """Raw frames in one array; the system commits memory only for slots that have been written."""

    def __init__(self, slots: int, frame_shape: tuple[int, ...], frame_dtype: DTypeLike) -> None:
        self._frames: Array = np.zeros((slots, *frame_shape), frame_dtype)

    @property
    def nbytes(self) -> int:
        return self._frames.nbytes

    def write(self, slots: Array, frames: Array) -> None:
        check_frames(frames, (len(slots), *self._frames.shape[1:]), self._frames.dtype)
        self._frames[slots] = frames

    def read(self, slots: Array) -> Array:
        return np.take(self._frames, slots, axis=0)

    def state(self) -> dict[str, Any]:
        return {"frames": self._frames}

    def load(self, state: Mapping[str, Any]) -> None:
        refuse_compressed(state)
        copy_into(self._frames, state, "frames")


class CompressedFrames:
    """Frames in chunks of eight consecutive slots, each compressed as a whole (see the module's docstring).

    Slots may be written in any order. Memory is saved if slots are written in sequence, as a ring does: then about two
    chunks of each stream are open, the chunk at its cursor and a chunk shared with the next stream. Reading from a
    chunk without a written slot fails.
    """

    def __init__(self, slots: int, frame_shape: tuple[int, ...], frame_dtype: DTypeLike) -> None:
        self._shape, self._dtype = tuple(frame_shape), np.dtype(frame_dtype)
        self._sealed = [b""] * -(-slots // CHUNK)
        self._open: dict[int, Array] = {}
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._decompressor = zstandard.ZstdDecompressor()

    @property
    def nbytes(self) -> int:
        blocks = sum(len(block) + _BLOCK_OVERHEAD for block in self._sealed if block)
        return blocks + sum(frames.nbytes for frames in self._open.values())

    def write(self, slots: Array, frames: Array) -> None:
        check_frames(frames, (len(slots), *self._shape), self._dtype)
        for slot, frame in zip(slots.tolist(), frames, strict=True):
            chunk, place = divmod(slot, CHUNK)
            if chunk not in self._open:
                self._open[chunk] = self._opened(chunk)
            self._open[chunk][place] = frame
            if place == CHUNK - 1:
                # Without the copy, each block would hold a buffer of the compressor's worst-case size.
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
        """Return a chunk's frames for writing: decoded if it was sealed, else zeros."""
        if not self._sealed[chunk]:
            return np.zeros((CHUNK, *self._shape), self._dtype)
        frames = self._decoded(chunk).copy()
        self._sealed[chunk] = b""
        return frames

    def _decoded(self, chunk: int) -> Array:
        """Return the frames [CHUNK, *frame_shape] of a chunk, read-only."""
        if chunk in self._open:
            return self._open[chunk]
        frames = np.frombuffer(self._decompressor.decompress(self._sealed[chunk]), self._dtype)
        return frames.reshape(CHUNK, *self._shape)

    def state(self) -> dict[str, Any]:
        """Return the concatenated blocks with their sizes (0 for an open or empty chunk), and the open chunks."""
        raw = list(self._open.values())
        return {
            "frames_sealed": np.frombuffer(b"".join(self._sealed), np.uint8),
            "frames_sizes": np.array([len(block) for block in self._sealed], np.int64),
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
    """Return the codec that `auto` selects on this machine; any other codec is returned unchanged.

    Args:
        codec: as configured.
        raw_bytes: bytes that raw frames would take.

    The criterion is the machine's total memory, not its free memory: a resumed run must select the same codec again.
    """
    if codec != "auto":
        return codec
    return "raw" if raw_bytes * RAW_SHARE <= virtual_memory().total else "zstd"


def make_store(codec: Codec, frame_shape: tuple[int, ...], frame_dtype: DTypeLike) -> MakeStore:
    """Return the factory of a store; zstd compresses only uint8 images, other frames are stored raw."""
    return CompressedFrames if _compresses(codec, frame_shape, frame_dtype) else RawFrames


def store_bytes(codec: Codec, slots: int, num_envs: int, frame_shape: tuple[int, ...], frame_dtype: DTypeLike) -> int:
    """Return the bytes that the store of a full ring takes: exact if raw, an estimate if compressed.

    Compressed frames count twice, since every checkpoint concatenates the blocks; each stream has two open chunks.
    """
    frame = np.dtype((frame_dtype, frame_shape)).itemsize
    if not _compresses(codec, frame_shape, frame_dtype):
        return slots * frame
    return 2 * (slots * frame // ZSTD_RATIO + 2 * num_envs * CHUNK * frame)


def _compresses(codec: Codec, frame_shape: tuple[int, ...], frame_dtype: DTypeLike) -> bool:
    return codec == "zstd" and len(frame_shape) == 3 and np.dtype(frame_dtype) == np.uint8


def refuse_compressed(state: Mapping[str, Any]) -> None:
    """Raise a UserError if a saved replay's frames are compressed."""
    if "frames" not in state:
        raise UserError("the saved replay is compressed: --replay-codec must be that of the saved run, not raw")


def check_frames(frames: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise a ValueError if frames have another shape or type."""
    if frames.shape != shape or frames.dtype != dtype:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}, the ring expects {dtype} {shape}")


def copy_into(array: Array, state: Mapping[str, Any], name: str) -> None:
    """Overwrite `array` with `state[name]`; an array of a checkpoint is read from its file without a copy in memory.

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
