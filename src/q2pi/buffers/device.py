"""Replay frames on the device that learns: batches are gathered there and never cross the bus."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike

from q2pi.buffers.frames import Codec, MakeStore, RawFrames, copy_into, expect, make_store, refuse_compressed
from q2pi.types import Array

DEVICE_SHARE = 0.7
"""Share of a device's free memory that frames may take; the rest is for networks and batches."""


class DeviceFrames:
    """Frames as they are, in one tensor on a device; `read` returns a tensor there. Saved as `RawFrames` are."""

    def __init__(
        self, slots: int, frame_shape: tuple[int, ...], frame_dtype: DTypeLike, *, device: torch.device
    ) -> None:
        self._dtype = np.dtype(frame_dtype)
        kind = torch.from_numpy(np.empty(0, self._dtype)).dtype
        self._frames = torch.zeros((slots, *frame_shape), dtype=kind, device=device)

    @property
    def nbytes(self) -> int:
        return self._frames.nbytes

    def write(self, slots: Array, frames: Array) -> None:
        expect(frames, (len(slots), *self._frames.shape[1:]), self._dtype)
        self._frames[self._there(slots)] = self._there(frames)

    def read(self, slots: Array) -> torch.Tensor:
        return self._frames[self._there(slots)]

    def state(self) -> dict[str, Any]:
        return {"frames": self._frames.cpu().numpy()}

    def load(self, state: Mapping[str, Any]) -> None:
        refuse_compressed(state)
        frames = np.empty(tuple(self._frames.shape), self._dtype)
        copy_into(frames, state, "frames")
        self._frames.copy_(torch.from_numpy(frames))

    def _there(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._frames.device, non_blocking=True)


def store_for(
    device: torch.device, codec: Codec, needed: int, frame_shape: tuple[int, ...], frame_dtype: DTypeLike
) -> MakeStore:
    """Return what makes the store of a ring: on a CUDA device where raw frames fit there, or else in main memory.

    Args:
        device: where the networks live.
        codec: how frames are kept in main memory; what is compressed stays there.
        needed: bytes of the ring when full.
        frame_shape, frame_dtype: of one frame.
    """
    store = make_store(codec, frame_shape, frame_dtype)
    if device.type != "cuda" or store is not RawFrames:
        return store
    free, _ = torch.cuda.mem_get_info(device)
    return partial(DeviceFrames, device=device) if needed <= DEVICE_SHARE * free else store
