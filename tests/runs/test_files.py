"""Atomic writes of files."""

import os
from pathlib import Path

import pytest

from q2pi.runs.files import write_atomically


def test_text_and_bytes_replace_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "small.json"
    write_atomically(path, "\u03c0")
    assert path.read_bytes() == b"\xcf\x80"
    write_atomically(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "small.json"
    write_atomically(path, "old")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_flushed_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "small.json"
    order: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: order.append(f"fsync, exists {path.exists()}"))
    write_atomically(path, "new")
    assert order == ["fsync, exists False"]
    assert path.exists()
