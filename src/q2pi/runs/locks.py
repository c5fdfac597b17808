"""File locks that the kernel releases when the owning process ends, even if it is killed."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def take(path: Path) -> IO[bytes] | None:
    """Return the open, locked file, or None if another process holds the lock; closing the file releases it."""
    file = _open(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def wait(path: Path) -> IO[bytes]:
    """Block until the lock is free; return the open, locked file; closing the file releases the lock."""
    file = _open(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except BaseException:
        file.close()
        raise
    return file


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Block until the lock is free, then hold it."""
    with wait(path):
        yield


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock. It creates no file, so the folder may be read-only."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _open(path: Path) -> IO[bytes]:
    """Open a file to read and append; create the file and its folder if they are missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab+")
