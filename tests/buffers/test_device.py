"""Frames in device memory: the same frames, saved states and runs as with raw frames."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import digests, invaders

from q2pi.algorithms.common import replay_based
from q2pi.buffers.device import DeviceFrames, store_for
from q2pi.buffers.frames import CompressedFrames, RawFrames
from q2pi.errors import UserError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHAPE = (1, 3, 2)
OnTheCpu = partial(DeviceFrames, device=CPU)


def filled(store: Any) -> Any:
    """Write distinct frames to slots 4, 1 and 2 of five; return the store."""
    store.write(np.array([4, 1, 2]), np.arange(18, dtype=np.uint8).reshape(3, *SHAPE))
    return store


def test_read_returns_the_written_frames() -> None:
    raw, there = filled(RawFrames(5, SHAPE, np.uint8)), filled(OnTheCpu(5, SHAPE, np.uint8))
    slots = np.array([2, 0, 4, 2])
    assert isinstance(there.read(slots), torch.Tensor)
    assert there.read(slots).numpy().tolist() == raw.read(slots).tolist()
    assert there.nbytes == raw.nbytes == 30


def test_read_returns_a_copy() -> None:
    store = filled(OnTheCpu(5, SHAPE, np.uint8))
    store.read(np.array([1]))[:] = 99
    assert store.read(np.array([1])).max() < 99


@pytest.mark.parametrize(("source", "target"), [(RawFrames, OnTheCpu), (OnTheCpu, RawFrames)])
def test_raw_and_device_stores_load_each_others_state(source: Any, target: Any) -> None:
    saved, other = filled(source(5, SHAPE, np.uint8)), target(5, SHAPE, np.uint8)
    other.load(saved.state())
    everything = np.arange(5)
    assert np.asarray(other.read(everything)).tolist() == np.asarray(saved.read(everything)).tolist()


def test_compressed_frames_are_refused() -> None:
    saved = filled(CompressedFrames(5, SHAPE, np.uint8)).state()
    with pytest.raises(UserError, match="--replay-codec must be that of the saved run, not raw"):
        OnTheCpu(5, SHAPE, np.uint8).load(saved)


def test_frames_of_another_shape_or_dtype_are_refused() -> None:
    with pytest.raises(ValueError, match="the ring expects"):
        OnTheCpu(5, SHAPE, np.uint8).write(np.array([0]), np.zeros((1, 1, 2, 3), np.uint8))


def test_a_run_is_bit_identical_with_frames_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = digests(invaders())
    monkeypatch.setattr(replay_based, "store_for", lambda *_: OnTheCpu)
    assert digests(invaders()) == expected


@pytest.mark.parametrize(
    ("device", "codec", "needed", "expected"),
    [
        (CPU, "raw", 1, RawFrames),
        (CUDA, "raw", 700, DeviceFrames),
        (CUDA, "raw", 701, RawFrames),
        (CUDA, "zstd", 1, CompressedFrames),
    ],
)
def test_frames_are_on_the_device_if_they_fit(
    device: torch.device, codec: Any, needed: int, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1_000, 2_000))
    store = store_for(device, codec, needed, (1, 84, 84), np.uint8)
    assert getattr(store, "func", store) is expected
