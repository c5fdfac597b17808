"""File locks that the system releases when the owning process ends, even if it is killed."""

import contextlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

with warnings.catch_warnings():  # of a system without file locks, where a marker file is the lock
    warnings.simplefilter("ignore")
    from filelock import FileLock, SoftFileLock, Timeout

SUFFIX = ".held" if issubclass(FileLock, SoftFileLock) else ""
"""A marker file is a lock by its existence: it must not have the name of a file that another system left unlocked."""


class Lock:
    """A lock that this process holds until `close`."""

    def __init__(self, held: FileLock) -> None:
        self._held = held

    def close(self) -> None:
        """Release the lock."""
        self._held.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def take(path: Path) -> Lock | None:
    """Return the lock, or None if another process, or another part of this one, holds it."""
    lock = _lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return Lock(lock)


def wait(path: Path) -> Lock:
    """Block until the lock is free and return it."""
    lock = _lock(path)
    lock.acquire()
    return Lock(lock)


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Block until the lock is free, then hold it."""
    with wait(path):
        yield


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock. It creates no file; nobody trains in a folder that is read-only."""
    if not path.with_name(path.name + SUFFIX).exists():
        return False
    with contextlib.suppress(PermissionError):
        lock = take(path)
        if lock is None:
            return True
        lock.close()
    return False


def _lock(path: Path) -> FileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    # thread_local: a lock that is released in another thread than the one that took it would stay held.
    return FileLock(str(path.with_name(path.name + SUFFIX)), thread_local=False, poll_interval=0.01)
