"""Replay frames in device memory: batches are gathered on the device, without host-to-device copies."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike

from q2pi.buffers.frames import Codec, MakeStore, RawFrames, check_frames, copy_into, make_store, refuse_compressed
from q2pi.types import Array

DEVICE_SHARE = 0.7
"""Share of a device's free memory that frames may take; the rest is for networks and batches."""


class DeviceFrames:
    """Raw frames in one tensor on a device; `read` returns a tensor there. Its state is that of `RawFrames`."""

    def __init__(
        self, slots: int, frame_shape: tuple[int, ...], frame_dtype: DTypeLike, *, device: torch.device
    ) -> None:
        self._dtype = np.dtype(frame_dtype)
        dtype = torch.from_numpy(np.empty(0, self._dtype)).dtype
        self._frames = torch.zeros((slots, *frame_shape), dtype=dtype, device=device)

    @property
    def nbytes(self) -> int:
        return self._frames.nbytes

    def write(self, slots: Array, frames: Array) -> None:
        check_frames(frames, (len(slots), *self._frames.shape[1:]), self._dtype)
        self._frames[self._to_device(slots)] = self._to_device(frames)

    def read(self, slots: Array) -> torch.Tensor:
        return self._frames[self._to_device(slots)]

    def state(self) -> dict[str, Any]:
        return {"frames": self._frames.cpu().numpy()}

    def load(self, state: Mapping[str, Any]) -> None:
        refuse_compressed(state)
        frames = np.empty(tuple(self._frames.shape), self._dtype)
        copy_into(frames, state, "frames")
        self._frames.copy_(torch.from_numpy(frames))

    def _to_device(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._frames.device, non_blocking=True)


def store_for(
    device: torch.device, codec: Codec, needed: int, frame_shape: tuple[int, ...], frame_dtype: DTypeLike
) -> MakeStore:
    """Return the factory of a ring's frame store: in CUDA memory if raw frames fit there, else in main memory.

    Args:
        device: the networks' device.
        codec: how frames are stored in main memory; compressed frames stay there.
        needed: bytes of the ring when full.
        frame_shape, frame_dtype: of one frame.
    """
    store = make_store(codec, frame_shape, frame_dtype)
    if device.type != "cuda" or store is not RawFrames:
        return store
    free, _ = torch.cuda.mem_get_info(device)
    return partial(DeviceFrames, device=device) if needed <= DEVICE_SHARE * free else store
