"""Compressed frames equal raw ones in less memory, for every order of writes of a ring."""

from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import DTypeLike
from small_runs import invaders

from q2pi.buffers.frames import CHUNK, ZSTD_RATIO, CompressedFrames, FrameStore, RawFrames, make_store, store_bytes
from q2pi.buffers.replay import Replay, bytes_needed
from q2pi.config import resolve
from q2pi.envs.make import make_envs
from q2pi.envs.spec import EnvSpec
from q2pi.errors import UserError
from q2pi.runs import checkpoint
from q2pi.training.events import Checkpoint
from q2pi.training.loop import run
from q2pi.types import Array

CONTINUES, LIFE_LOST, TERMINATED, TRUNCATED = range(4)
SHAPE = (1, 2, 2)


def images(*values: int, shape: tuple[int, ...] = SHAPE) -> Array:
    """Return constant frames, one per value."""
    return np.array([np.full(shape, value) for value in values]).astype(np.uint8)


def store_of(slots: int, shape: tuple[int, ...] = SHAPE, dtype: DTypeLike = np.uint8) -> CompressedFrames:
    return CompressedFrames(slots, shape, dtype)


def filled_ring(store: FrameStore, slots: int, count: int) -> FrameStore:
    """Write the frames 0 .. count - 1 in sequence to a ring of `slots`; return the store."""
    for number in range(count):
        store.write(np.array([number % slots]), images(number))
    return store


def values(store: FrameStore, slots: Array) -> list[int]:
    return [int(frame) for frame in store.read(slots)[:, 0, 0, 0]]


def copied(state: dict[str, Any]) -> dict[str, Any]:
    return {name: np.copy(value) for name, value in state.items()}


def test_frames_are_read_as_written_in_any_order() -> None:
    store = store_of(20)
    slots = np.random.default_rng(0).permutation(20)
    store.write(slots, images(*slots))
    store.write(np.array([7, 3]), images(70, 30))  # one chunk: sealed again by its last slot, and opened by the other
    order = np.array([19, 0, 7, 8, 7, 3, 15, 16])
    assert values(store, order) == [19, 0, 70, 8, 70, 30, 15, 16]
    assert store.read(order).dtype == np.uint8
    assert store.read(np.empty(0, np.int64)).shape == (0, *SHAPE)


def test_frames_of_any_type_are_stored_bit_for_bit() -> None:
    store = store_of(CHUNK, (2,), np.float32)
    frames = np.random.default_rng(0).normal(size=(CHUNK, 2)).astype(np.float32)
    frames[0] = [-0.0, np.nan]
    store.write(np.arange(CHUNK), frames)
    assert store.read(np.arange(CHUNK)).tobytes() == frames.tobytes()


def test_a_ring_that_wrapped_around_is_as_in_the_docstring() -> None:
    store = filled_ring(store_of(32), 32, 32 + 19)
    assert store.state()["frames_open"].tolist() == [2]
    assert [bool(size) for size in store.state()["frames_sizes"]] == [True, True, False, True]
    assert values(store, np.arange(32)) == [*range(32, 51), *range(19, 32)]


def test_reopening_a_chunk_without_its_sealed_frames_loses_the_oldest_frames() -> None:
    class Forgetful(CompressedFrames):
        def _opened(self, chunk: int) -> Array:
            return np.zeros((CHUNK, *SHAPE), np.uint8)

    oldest = np.arange(19, 24)
    assert values(filled_ring(store_of(32), 32, 32 + 19), oldest) == [19, 20, 21, 22, 23]
    assert values(filled_ring(Forgetful(32, SHAPE, np.uint8), 32, 32 + 19), oldest) == [0, 0, 0, 0, 0]


def test_read_returns_a_copy() -> None:
    store = filled_ring(store_of(16), 16, 12)
    store.read(np.arange(12))[:] = 99
    assert values(store, np.arange(12)) == list(range(12))


def test_write_copies() -> None:
    store, frames = store_of(8), images(1, 2)
    store.write(np.array([0, 1]), frames)
    frames[:] = 99
    assert values(store, np.array([0, 1])) == [1, 2]


@pytest.mark.parametrize(
    "frames", [images(1, 2).astype(np.int64), images(1), images(1, 2)[..., 0]], ids=["type", "count", "shape"]
)
def test_frames_of_another_shape_or_dtype_are_refused(frames: Array) -> None:
    with pytest.raises(ValueError, match="the ring expects uint8"):
        store_of(16).write(np.array([0, 1]), frames)


# ---- saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 5, 8, 19, 32, 51])
def test_a_loaded_store_equals_the_saved_one_also_after_more_writes(count: int) -> None:
    saved, loaded = filled_ring(store_of(32), 32, count), filled_ring(store_of(32), 32, 13)
    loaded.load(copied(saved.state()))
    held = np.arange(min(count, 32))
    for number in range(count, count + 20):
        assert loaded.read(held).tobytes() == saved.read(held).tobytes()
        for name, value in saved.state().items():
            assert value.tobytes() == loaded.state()[name].tobytes(), name
        for store in (saved, loaded):
            store.write(np.array([number % 32]), images(number))


def test_loading_copies() -> None:
    saved, first, second = filled_ring(store_of(16), 16, 3), store_of(16), store_of(16)
    state = saved.state()
    first.load(state)
    second.load(state)
    for store in (saved, first):
        store.write(np.array([0]), images(99))
    assert values(second, np.arange(3)) == [0, 1, 2]


def test_a_store_survives_a_checkpoint(tmp_path: Path) -> None:
    """Noise does not compress, so the blocks exceed the megabyte above which arrays are read directly from the file."""
    saved, loaded = store_of(170, (1, 84, 84)), store_of(170, (1, 84, 84))
    frames = np.random.default_rng(0).integers(256, size=(170, 1, 84, 84)).astype(np.uint8)
    saved.write(np.arange(170), frames)
    checkpoint.save(tmp_path, 1, {"replay": saved.state()})
    state = checkpoint.load_newest(tmp_path)[1]["replay"]
    assert isinstance(state["frames_sealed"], checkpoint.StoredArray)
    loaded.load(state)
    assert loaded.read(np.arange(170)).tobytes() == frames.tobytes()


@pytest.mark.parametrize(
    "other", [store_of(33), store_of(32, (1, 2, 3)), store_of(32, SHAPE, np.int8)], ids=["slots", "shape", "type"]
)
def test_a_store_of_another_size_is_refused_in_one_line(other: CompressedFrames) -> None:
    with pytest.raises(UserError, match="--buffer-size") as caught:
        other.load(store_of(32).state())
    assert "\n" not in str(caught.value)


def test_a_store_of_another_codec_is_refused() -> None:
    raw = RawFrames(32, SHAPE, np.uint8)
    with pytest.raises(UserError, match="the saved replay is raw: --replay-codec"):
        store_of(32).load(raw.state())
    with pytest.raises(UserError, match="the saved replay is compressed: --replay-codec"):
        raw.load(store_of(32).state())


# ---- in the ring -----------------------------------------------------------------------------------------------------


def compare(capacity: int, num_envs: int, stack: int, n_step: int, endings: list[list[int]], pause: int) -> None:
    """Feed the same stream to a raw and a compressed replay and compare all samples; save and load at step `pause`."""
    generator = np.random.default_rng(len(endings))

    def noise() -> Array:
        return generator.integers(256, size=(num_envs, *SHAPE)).astype(np.uint8)

    def make(store: Any) -> Replay:
        return Replay(capacity, num_envs, SHAPE, np.uint8, stack, n_step, 0.5, store=store)

    raw, compressed = make(RawFrames), make(CompressedFrames)
    first = noise()
    raw.begin(first)
    compressed.begin(first)
    for number, row in enumerate(endings):
        ending = np.array(row)
        step = (
            generator.integers(6, size=num_envs),
            generator.integers(-1, 2, size=num_envs).astype(np.float32),
            np.isin(ending, (CONTINUES, TRUNCATED)).astype(np.float32),
            noise(),
            np.isin(ending, (TERMINATED, TRUNCATED)),
            noise(),
        )
        raw.extend(*step)
        compressed.extend(*step)
        if number == pause:
            state, compressed = copied(compressed.state()), make(CompressedFrames)
            compressed.load(state)
        agree(raw, compressed)
    assert len(compressed.frames.state()["frames_open"]) <= 2 * num_envs


def agree(raw: Replay, compressed: Replay) -> None:
    slots = np.flatnonzero(raw.can_sample(np.arange(raw.num_envs * raw.rows)))
    assert slots.tolist() == np.flatnonzero(compressed.can_sample(np.arange(raw.num_envs * raw.rows))).tolist()
    if not len(slots):
        return
    slots = np.concatenate([slots[::-1], slots])
    one, other = raw.sample(slots), compressed.sample(slots)
    for name in ("observation", "action", "reward", "discount", "next_observation"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    num_envs = draw(st.integers(1, 3))
    ending = st.sampled_from([CONTINUES] * draw(st.integers(1, 12)) + [LIFE_LOST, TERMINATED, TRUNCATED])
    steps = draw(st.lists(st.lists(ending, min_size=num_envs, max_size=num_envs), min_size=1, max_size=60))
    return {
        "capacity": draw(st.integers(1, 40)),
        "num_envs": num_envs,
        "stack": draw(st.integers(1, 4)),
        "n_step": draw(st.integers(1, 3)),
        "endings": steps,
        "pause": draw(st.integers(0, len(steps))),
    }


@settings(max_examples=60, deadline=None)
@given(cases())
def test_a_compressed_ring_equals_a_raw_one(case: dict[str, Any]) -> None:
    compare(**case)


@pytest.mark.parametrize("capacity", [5, 36, 60], ids=["less than a chunk each", "rows of two chunks", "others"])
def test_long_streams_of_all_endings(capacity: int) -> None:
    endings = np.random.default_rng(0).choice(4, p=[0.7, 0.1, 0.1, 0.1], size=(150, 3))
    compare(capacity, 3, 4, 1, endings.tolist(), pause=77)


def test_training_is_the_same_with_either_codec_and_resumes_exactly(tmp_path: Path) -> None:
    """A ring of 20 rows per environment, which wraps around twice; the second half is repeated from a checkpoint."""
    small = {"total_timesteps": 120, "buffer_size": 48, "checkpoint_frequency": 60, "learning_starts": 60}
    raw, compressed = invaders(replay_codec="raw", **small), invaders(replay_codec="zstd", **small)
    ends = []
    for config in (raw, compressed):
        for event in run(resolve(config)):
            if isinstance(event, Checkpoint) and event.step == 60:
                checkpoint.save(tmp_path / config.hyper.replay_codec, 60, event.state)
            elif isinstance(event, Checkpoint):
                ends.append(event.state["agent"])
    assert "frames" in ends[0]["replay"]
    assert "frames_sealed" in ends[1]["replay"]
    assert checkpoint.digest({"online": ends[0]["online"]}) == checkpoint.digest({"online": ends[1]["online"]})
    states = [
        event.state
        for event in run(resolve(compressed), checkpoint.load_newest(tmp_path / "zstd")[1])
        if isinstance(event, Checkpoint)
    ]
    assert checkpoint.digest(states[-1]["agent"]) == checkpoint.digest(ends[1])


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_space_invaders_takes_less_memory_than_estimated() -> None:
    """With random actions: bytes of all sealed chunks, with overhead."""
    generator, shape = np.random.default_rng(0), (1, 84, 84)
    envs = make_envs(EnvSpec("SpaceInvaders"), 8, 1)
    store = store_of(8 * 32, shape)
    frames = envs.reset()[:, -1:]
    for row in range(32):
        store.write(np.arange(8) * 32 + row, frames)
        envs.send(generator.integers(envs.action_space.n, size=8))
        frames = envs.recv().next_observation[:, -1:]
    envs.close()
    assert len(store.state()["frames_open"]) == 0
    assert store.state()["frames_sealed"].nbytes < store.nbytes < 8 * 32 * 84 * 84 / ZSTD_RATIO


def test_sealed_blocks_do_not_fragment_memory() -> None:
    """Eight streams whose chunks are sealed in turn: without copies, the compressor's buffers would hold 50 MB more."""
    store, frames = store_of(8 * 1024, (1, 84, 84)), images(*range(8), shape=(1, 84, 84))
    frames[:, :, 0] = np.random.default_rng(0).integers(256, size=(8, 1, 84))
    before = psutil.Process().memory_info().rss
    for row in range(1024):
        store.write(np.arange(8) * 1024 + row, frames)
    assert psutil.Process().memory_info().rss - before < 10e6


def test_nbytes_by_hand() -> None:
    store = store_of(24)
    assert store.nbytes == 0
    filled_ring(store, 24, 12)
    state = store.state()
    assert state["frames_raw"].shape == (1, CHUNK, *SHAPE)
    assert store.nbytes == len(state["frames_sealed"]) + 56 + 8 * 4


def test_only_uint8_images_are_compressed() -> None:
    assert make_store("zstd", (1, 84, 84), np.uint8) is CompressedFrames
    assert make_store("raw", (1, 84, 84), np.uint8) is RawFrames
    assert make_store("zstd", (4,), np.uint8) is RawFrames
    assert make_store("zstd", (1, 84, 84), np.float32) is RawFrames


def test_the_estimate_by_hand() -> None:
    """1/18 of 1000 frames of 7056 bytes, and two open chunks of 8 frames per environment; twice, for saving."""
    assert store_bytes("raw", 1000, 2, (1, 84, 84), np.uint8) == 7_056_000
    assert store_bytes("zstd", 1000, 2, (1, 84, 84), np.uint8) == 2 * (392_000 + 2 * 2 * 8 * 7056)
    assert store_bytes("zstd", 1000, 2, (4,), np.float32) == 16_000
    rows = 2 * (500 + 3 + 1)
    frames = store_bytes("zstd", rows, 2, (1, 84, 84), np.uint8)
    assert bytes_needed(1000, 2, (1, 84, 84), np.uint8, 4, 1, codec="zstd") == frames + 21 * rows
