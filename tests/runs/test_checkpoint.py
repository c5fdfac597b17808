"""Checkpoints: written atomically, every byte checked, and no code executed."""

import ast
import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import q2pi
from q2pi.errors import UserError
from q2pi.runs import checkpoint
from q2pi.runs.checkpoint import Damaged, StoredArray, digest, load, load_newest, save
from q2pi.runs.manifest import checksum, notes, steps
from q2pi.types import State

FILES = ["manifest.json", "state.json", "weights.safetensors", "arrays.safetensors", "replay.frames.zst"]


def state_at(step: int) -> State:
    """A state with a leaf of every kind; the replay's frames are large enough for a file of their own."""
    weight = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).reshape(2, 3, 4, 4) + step
    return {
        "step": step,
        "agent": {
            "online": {"weight": weight.contiguous(memory_format=torch.channels_last), "count": torch.tensor(7.0)},
            "names": ["a", "b"],
            "ready": True,
            "nothing": None,
        },
        "envs": {"numbers": np.arange(5), "empty": np.zeros((0, 2), np.float32), "scalar": np.array(2.5)},
        "replay": {"frames": np.full((1100, 31, 31), step % 251, np.uint8)[::-1]},
    }


def leaves(state: State, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in state.items():
        value = np.asarray(value) if isinstance(value, StoredArray) else value
        found |= leaves(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two checkpoints, of steps 100 and 200."""
    for step in (100, 200):
        save(tmp_path, step, state_at(step), {"seconds": step / 10})
    return tmp_path


def test_a_loaded_state_equals_the_saved_state(tmp_path: Path) -> None:
    path = save(tmp_path, 100, state_at(100), {"seconds": 1.5})
    loaded, info = load(path)
    before, after = leaves(state_at(100)), leaves(loaded)
    assert info == {"seconds": 1.5}
    assert after.keys() == before.keys()
    for name, value in before.items():
        if isinstance(value, torch.Tensor):
            assert after[name].dtype == value.dtype
            assert torch.equal(after[name], value), name
        elif isinstance(value, np.ndarray):
            assert (after[name].dtype, after[name].shape) == (value.dtype, value.shape), name
            assert np.array_equal(after[name], value), name
        else:
            assert (type(after[name]), after[name]) == (type(value), value), name
    assert digest(loaded) == digest(state_at(100))


def test_files_of_a_checkpoint(folder: Path) -> None:
    assert sorted(path.name for path in (folder / "000000000200").iterdir()) == sorted(FILES)


def test_newest_two_are_kept(folder: Path) -> None:
    save(folder, 300, state_at(300))
    assert steps(folder) == [200, 300]


def test_checkpoints_of_later_steps_are_removed(folder: Path) -> None:
    """Otherwise the damaged ones would be the newest two, and the new checkpoint would be removed."""
    save(folder, 50, state_at(50))
    assert steps(folder) == [50]


def test_partial_folders_of_a_killed_process_are_removed(folder: Path) -> None:
    torn = folder / ".000000000150.partial"
    torn.mkdir()
    (torn / "state.json").write_text("{")
    save(folder, 300, state_at(300))
    assert not torn.exists()


def test_the_same_step_can_be_saved_again(folder: Path) -> None:
    changed = state_at(200) | {"step": 201}
    save(folder, 200, changed)
    assert load_newest(folder)[1]["step"] == 201


def flip(position: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(position * (len(data) - 1))] ^= 1
        path.write_bytes(data)

    return damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" x")


DAMAGES = {
    "first byte": flip(0),
    "middle byte": flip(0.5),
    "last byte": flip(1),
    "truncated": truncate,
    "lengthened": lengthen,
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("file", FILES)
def test_damage_is_detected_and_the_previous_is_used(folder: Path, file: str, damage: Callable[[Path], Any]) -> None:
    damage(folder / "000000000200" / file)
    step, state, info, warnings = load_newest(folder)
    assert (step, info) == (100, {"seconds": 10})
    assert digest(state) == digest(state_at(100))
    assert len(warnings) == 1
    assert "000000000200 is damaged" in warnings[0]


def test_intact_checkpoints_give_no_warning(folder: Path) -> None:
    step, state, _, warnings = load_newest(folder)
    assert (step, warnings) == (200, [])
    assert digest(state) == digest(state_at(200)) != digest(state_at(100))


def test_every_byte_of_the_manifest_counts(tmp_path: Path) -> None:
    path = save(tmp_path, 100, {"step": 100}, {"seconds": 12.5})
    manifest = path / "manifest.json"
    intact = manifest.read_bytes()
    for position in range(len(intact)):
        manifest.write_bytes(intact[:position] + bytes([intact[position] ^ 1]) + intact[position + 1 :])
        with pytest.raises(Damaged):
            load(path)
    manifest.write_bytes(intact)
    assert load(path)[0] == {"step": 100}


def test_all_damaged(folder: Path) -> None:
    for step in (100, 200):
        truncate(folder / f"{step:012d}" / "state.json")
    with pytest.raises(UserError, match="2 found, all damaged") as caught:
        load_newest(folder)
    assert "\n" not in str(caught.value)


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--checkpoint-frequency"):
        load_newest(tmp_path)


def rewrite_manifest(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest and update its own checksum."""
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["sha256"]
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest | {"sha256": checksum(manifest)}))


def test_a_newer_format_is_refused_and_the_first_is_read(folder: Path) -> None:
    path = folder / "000000000200"
    rewrite_manifest(path, lambda manifest: manifest.update(format=3))
    with pytest.raises(UserError, match="format 3"):
        load(path)
    manifest = json.loads((path / "manifest.json").read_text()) | {"format": 1}
    del manifest["sha256"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert digest(load(path)[0]) == digest(state_at(200))


def test_notes_are_read_alone(folder: Path) -> None:
    assert notes(folder, 100) == {"seconds": 10}
    assert notes(folder, 150) == {}


LEAF = {
    "float": torch.tensor([1.0, 2.0]),
    "number": np.array([1, 2], np.int32),
    "count": 3,
    "text": "x",
    "truth": True,
}
NEXT = float(np.nextafter(np.float32(2), np.float32(3)))
CHANGES: dict[str, tuple[str, Any]] = {
    "one bit of a tensor": ("float", torch.tensor([1.0, NEXT])),
    "the sign of zero": ("float", torch.tensor([1.0, -2.0])),
    "a tensor's type": ("float", torch.tensor([1.0, 2.0], dtype=torch.float64)),
    "a tensor's shape": ("float", torch.tensor([[1.0, 2.0]])),
    "order": ("float", torch.tensor([2.0, 1.0])),
    "one bit of an array": ("number", np.array([1, 3], np.int32)),
    "an array's type": ("number", np.array([1, 2], np.uint32)),
    "an array's shape": ("number", np.array([[1], [2]], np.int32)),
    "a number": ("count", 4),
    "a number's type": ("count", 3.0),
    "text": ("text", "y"),
    "true and 1": ("truth", 1),
}


@pytest.mark.parametrize(("name", "value"), CHANGES.values(), ids=CHANGES.keys())
def test_digest_depends_on(name: str, value: Any) -> None:
    assert digest({"a": LEAF | {name: value}}) != digest({"a": LEAF})


def test_digest_depends_on_names_and_missing_leaves() -> None:
    renamed = {("other" if name == "count" else name): value for name, value in LEAF.items()}
    missing = {name: value for name, value in LEAF.items() if name != "count"}
    assert len({digest({"a": leaf}) for leaf in (LEAF, renamed, missing)} | {digest({"b": LEAF})}) == 4


def test_digest_distinguishes_a_scalar_from_a_vector_of_one() -> None:
    assert digest({"x": torch.tensor(1.0)}) != digest({"x": torch.tensor([1.0])})
    assert digest({"x": np.array(1.0)}) != digest({"x": np.array([1.0])})


def test_digest_does_not_depend_on_order_or_memory_layout() -> None:
    weight = torch.arange(24.0).reshape(1, 2, 3, 4)
    last = weight.contiguous(memory_format=torch.channels_last)
    assert digest({"x": 1, "w": weight}) == digest({"w": last, "x": 1})


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO], ids=["full", "forbidden", "broken"])
@pytest.mark.parametrize("moment", range(1, 7))
def test_a_failing_disk_leaves_the_earlier_checkpoints(
    folder: Path, monkeypatch: pytest.MonkeyPatch, moment: int, code: int
) -> None:
    """The disk fails at each of the six flushes before the new checkpoint is renamed."""
    calls = 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == moment:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=os.strerror(code)):
        save(folder, 300, state_at(300))
    assert sorted(path.name for path in folder.iterdir()) == ["000000000100", "000000000200"]
    assert digest(load_newest(folder)[1]) == digest(state_at(200))


def test_nothing_is_executed_when_a_checkpoint_is_read(folder: Path, tmp_path: Path) -> None:
    """A pickle in place of the weights, with matching checksums, is refused and not executed."""
    trace = tmp_path / "executed"

    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (trace,)

    path = folder / "000000000200"
    bomb = pickle.dumps(Bomb())
    (path / "weights.safetensors").write_bytes(bomb)
    entry = checkpoint._write(path / "weights.safetensors", [bomb])
    rewrite_manifest(path, lambda manifest: manifest["files"].update({"weights.safetensors": entry}))
    with pytest.raises(Damaged):
        load(path)
    assert not trace.exists()
    pickle.loads(bomb)
    assert trace.exists(), "unpickling it executes code"


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "torch.save", "np.load", "numpy.load", "torch.jit.load"}


def forbidden(source: str) -> set[str]:
    """Return what `source` imports or calls that could execute data."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & FORBIDDEN_MODULES
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} & FORBIDDEN_MODULES
        elif isinstance(node, ast.Call):
            found |= {ast.unparse(node.func)} & FORBIDDEN_CALLS
            found |= {"allow_pickle" for keyword in node.keywords if keyword.arg == "allow_pickle"}
    return found


def test_no_source_reads_or_writes_pickle() -> None:
    assert q2pi.__file__ is not None
    sources = sorted(Path(q2pi.__file__).parent.rglob("*.py"))
    assert len(sources) > 20
    assert {str(path): found for path in sources if (found := forbidden(path.read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from pickle import loads", "torch.load(path)", "np.load(p, allow_pickle=True)", "eval(text)"],
)
def test_the_scan_finds(source: str) -> None:
    assert forbidden(source)


def test_a_copied_checkpoint_is_complete(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder / "000000000200", copy)
    assert digest(load(copy)[0]) == digest(state_at(200))


def test_skipped_arrays_are_absent_and_their_damage_does_not_matter(tmp_path: Path) -> None:
    large = np.arange(1 << 19, dtype=np.float32)
    path = save(tmp_path, 5, {"step": 5, "agent": {"replay": {"frames": large}, "table": large + 1}})
    (path / "agent.replay.frames.zst").write_bytes(b"damaged")
    state, _ = load(path, skip="agent/replay/")
    assert state["agent"].keys() == {"table"}
    np.testing.assert_array_equal(np.asarray(state["agent"]["table"]), large + 1)
    with pytest.raises(Damaged):
        load(path)


def test_a_name_that_only_contains_the_skipped_prefix_is_read(tmp_path: Path) -> None:
    large = np.ones(1 << 19, np.float32)
    path = save(tmp_path, 5, {"step": 5, "other": {"agent": {"replay": {"frames": large}}}})
    assert "other" in load(path, skip="agent/replay/")[0]
