"""Where the frames of a replay ring are kept: one frame per slot, raw or encoded."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from q2pi.errors import UserError

Array = NDArray[Any]


class FrameStore(Protocol):
    """A fixed number of slots with one frame each. A slot is read only after it was written."""

    @property
    def nbytes(self) -> int:
        """Bytes taken when every slot is written."""

    def write(self, slots: Array, frames: Array) -> None:
        """Keep frames [B, *frame_shape] at distinct slots [B], in place of what was there."""

    def read(self, slots: Array) -> Array:
        """Return the frames [B, *frame_shape] at slots [B] as a fresh array."""

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
        expected = (len(slots), *self._frames.shape[1:])
        if frames.shape != expected or frames.dtype != self._frames.dtype:
            raise ValueError(
                f"frames are {frames.dtype} {frames.shape}, the ring expects {self._frames.dtype} {expected}"
            )
        self._frames[slots] = frames

    def read(self, slots: Array) -> Array:
        return np.take(self._frames, slots, axis=0)

    def state(self) -> dict[str, Any]:
        return {"frames": self._frames}

    def load(self, state: Mapping[str, Any]) -> None:
        copy_into(self._frames, state, "frames")


def copy_into(array: Array, state: Mapping[str, Any], name: str) -> None:
    """Overwrite `array` with `state[name]`, straight from the disk where that is where it lies.

    Raises:
        UserError: the saved array has another shape or type.
    """
    saved = state[name]
    if saved.shape != array.shape or saved.dtype != array.dtype:
        raise UserError(
            f"the saved replay has {name} {saved.dtype} {saved.shape}, this run needs {array.dtype} {array.shape}: "
            "--buffer-size, --num-envs and --env-id must be those of the saved run"
        )
    if hasattr(saved, "read_into"):
        saved.read_into(array)
    else:
        array[...] = saved
