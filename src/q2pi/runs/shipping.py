"""Copies of run folders between machines without a common path: packed whole, verified by checksum when unpacked.

A packed folder is a tar archive whose first member lists the SHA-256 of every file. Hidden files are left out: locks
and files that are being written. A folder can be packed while a run writes it: checkpoints are complete as soon as they
have their name, and a resumed run drops the rows of metrics.jsonl after its checkpoint.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from pathlib import Path

LIST = "SHA256"
RETRIES = 20
"""Number of times that a folder is packed again because a run removed an old checkpoint meanwhile."""


def pack(folder: Path) -> bytes:
    """Return a folder as one archive.

    Raises:
        OSError: a file cannot be read.
    """
    for _ in range(RETRIES):
        with contextlib.suppress(FileNotFoundError):
            return _packed(folder)
        time.sleep(0.1)
    return _packed(folder)


def _packed(folder: Path) -> bytes:
    contents = {name: (folder / name).read_bytes() for name in _files(folder)}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in {LIST: json.dumps(sums).encode(), **contents}.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), int(time.time())
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def _files(folder: Path) -> list[str]:
    """Return the files of a folder by their path in it, without hidden files and folders."""
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


def unpack(packed: bytes, folder: Path) -> None:
    """Make a folder equal to a packed one, except for hidden files; at each moment it has an intact checkpoint.

    Raises:
        OSError: a file differs from its checksum after it was written, or cannot be written; the folder is as before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copy = Path(tempfile.mkdtemp(prefix=".shipped-", dir=folder))
    try:
        _extract(packed, copy)
        _install(copy, folder)
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _extract(packed: bytes, copy: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        tar.extractall(copy, filter="data")
    sums = json.loads((copy / LIST).read_text())
    (copy / LIST).unlink()
    found = {name: hashlib.sha256((copy / name).read_bytes()).hexdigest() for name in _files(copy)}
    if found != sums:
        wrong = sorted(name for name in sums.keys() | found.keys() if sums.get(name) != found.get(name))
        raise OSError(f"{wrong[0]} differs from its checksum after the copy between machines")
    for name in sums:
        with (copy / name).open("rb") as file:
            os.fsync(file.fileno())


def _install(copy: Path, folder: Path) -> None:
    """Move the files of `copy` into `folder`, checkpoints last, then remove the files that `copy` does not have."""
    wanted = set(_files(copy))
    for name in wanted:
        if not name.startswith("checkpoints/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).replace(folder / name)
    (folder / "checkpoints").mkdir(exist_ok=True)
    for checkpoint in sorted(copy.glob("checkpoints/*")):
        if not (folder / "checkpoints" / checkpoint.name).exists():
            checkpoint.replace(folder / "checkpoints" / checkpoint.name)
    kept = {path.split("/")[1] for path in wanted if path.startswith("checkpoints/")}
    for checkpoint in (folder / "checkpoints").glob("[!.]*"):
        if checkpoint.name not in kept:
            shutil.rmtree(checkpoint)
    for name in set(_files(folder)) - wanted:
        (folder / name).unlink()
