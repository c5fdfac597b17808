"""Folders that are copied between machines: whole, verified, and never without an intact checkpoint."""

import io
import shutil
import tarfile
from pathlib import Path

import pytest
from small_runs import cartpole

from q2pi.config import resolve
from q2pi.runs import checkpoint, shipping
from q2pi.runs.execute import execute
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint
from q2pi.runs.manifest import steps
from q2pi.runs.shipping import pack, unpack


def digest(folder: Path) -> str:
    return checkpoint.digest(load_checkpoint(RunFolder(folder))[1])


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def stopped_run(folder: Path, checkpoints: int) -> None:
    """Train until a number of checkpoints, and stop."""
    config = resolve(cartpole())
    execute(config, folder, stop=lambda: len(steps(folder / "checkpoints")) >= checkpoints)


def test_a_copy_has_every_file_and_continues_as_the_original(tmp_path: Path) -> None:
    stopped_run(tmp_path / "a", 1)
    unpack(pack(tmp_path / "a"), tmp_path / "b")
    assert contents(tmp_path / "b") == contents(tmp_path / "a")
    for name in ("a", "b"):
        execute(resolve(cartpole()), tmp_path / name)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_a_newer_copy_replaces_an_older_folder(tmp_path: Path) -> None:
    stopped_run(tmp_path / "a", 1)
    unpack(pack(tmp_path / "a"), tmp_path / "b")
    execute(resolve(cartpole()), tmp_path / "a")
    (tmp_path / "b" / "left.txt").write_text("of an older version")
    (tmp_path / "b" / ".lock").write_text("")
    unpack(pack(tmp_path / "a"), tmp_path / "b")
    assert contents(tmp_path / "b") == contents(tmp_path / "a")
    assert (tmp_path / "b" / ".lock").exists(), "hidden files stay: this one is locked"


def changed(packed: bytes, suffix: str, content: bytes | None) -> bytes:
    """Return an archive in which one file has other contents, or is missing."""
    result = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(packed)) as old, tarfile.open(fileobj=result, mode="w") as new:
        for member in old:
            file = old.extractfile(member)
            assert file is not None
            data = file.read()
            if member.name.endswith(suffix):
                if content is None:
                    continue
                data, member.size = content, len(content)
            new.addfile(member, io.BytesIO(data))
    return result.getvalue()


@pytest.mark.parametrize("content", [b"damaged", None])
def test_a_damaged_copy_is_refused_and_the_folder_stays(tmp_path: Path, content: bytes | None) -> None:
    stopped_run(tmp_path / "a", 1)
    unpack(pack(tmp_path / "a"), tmp_path / "b")
    before = contents(tmp_path / "b")
    execute(resolve(cartpole()), tmp_path / "a")
    packed = changed(pack(tmp_path / "a"), "metrics.jsonl", content)
    with pytest.raises(OSError, match=r"metrics.jsonl differs from its checksum"):
        unpack(packed, tmp_path / "b")
    assert contents(tmp_path / "b") == before
    assert not list((tmp_path / "b").glob(".shipped-*"))


def test_an_interrupted_unpacking_leaves_an_intact_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints arrive before the older ones are removed."""
    stopped_run(tmp_path / "a", 1)
    unpack(pack(tmp_path / "a"), tmp_path / "b")
    execute(resolve(cartpole()), tmp_path / "a")
    packed = pack(tmp_path / "a")
    monkeypatch.setattr(shipping.shutil, "rmtree", lambda path, **_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        unpack(packed, tmp_path / "b")
    monkeypatch.undo()
    assert digest(tmp_path / "b") == digest(tmp_path / "a")


def test_a_folder_is_packed_while_a_run_removes_old_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_run(tmp_path / "a", 2)
    oldest = min(steps(tmp_path / "a/checkpoints"))
    files = shipping._files

    def listed(folder: Path) -> list[str]:
        found = files(folder)
        shutil.rmtree(checkpoint.folder_of(folder / "checkpoints", oldest), ignore_errors=True)
        return found

    monkeypatch.setattr(shipping, "_files", listed)
    packed = pack(tmp_path / "a")
    monkeypatch.undo()
    unpack(packed, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(tmp_path / "a")
    assert oldest not in steps(tmp_path / "b/checkpoints")
