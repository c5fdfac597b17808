"""What differs between Linux, macOS and Windows: signals, process groups, memory, files, quoting.

No other module asks for the operating system or imports `fcntl`, `resource` or `msvcrt`; locks of files are filelock's,
see `runs.locks`.
"""

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]
try:
    import psutil as psutil  # type: ignore[import-untyped]
except ImportError:  # psutil's Linux part imports `resource`, which it needs for limits of processes alone
    hidden = sys.modules.pop("resource", None)
    sys.modules["resource"] = ModuleType("resource")
    import psutil

    sys.modules["resource"] = hidden  # type: ignore[assignment]

virtual_memory = psutil.virtual_memory
IS_WINDOWS = os.name == "nt"
STOP_SIGNALS: tuple[int, ...] = (
    signal.SIGINT,
    signal.SIGTERM,
    *([signal.SIGBREAK] if hasattr(signal, "SIGBREAK") else []),
)
"""Signals that ask a run to save and stop: Ctrl-C, SIGTERM, and Ctrl-Break on Windows."""
REPLACE_SECONDS = 2.0
"""Seconds in which a file that another process has open must become free: Windows refuses to replace open files."""


def has_display() -> bool:
    """Return whether a browser can open a window: Windows and macOS have one, other systems may lack it."""
    named = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return IS_WINDOWS or sys.platform == "darwin" or bool(named)


def own_group() -> dict[str, Any]:
    """Return the arguments of `subprocess.Popen` for a process that Ctrl-C at the terminal does not reach."""
    return {"creationflags": 0x200} if IS_WINDOWS else {"start_new_session": True}  # CREATE_NEW_PROCESS_GROUP


def ending(code: int) -> str:
    """Return how a process ended, in words, from its return code."""
    return f"ended with status {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"


def peak_memory() -> int:
    """Return the peak bytes of memory of this process; without a peak, the bytes now."""
    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))


def load_average() -> float:
    """Return the number of processes that wanted a core in the last minute."""
    if hasattr(os, "getloadavg"):
        return os.getloadavg()[0]
    return float(psutil.getloadavg()[0])


def cores() -> set[int]:
    """Return the cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def quoted(path: Path | str) -> str:
    """Return a path as one word of a command that can be pasted into this system's shell."""
    return subprocess.list2cmdline([str(path)]) if IS_WINDOWS else shlex.quote(str(path))


def replace(source: Path, target: Path) -> None:
    """Move a file or folder to `target` in one step; a file there is replaced.

    Raises:
        OSError: it cannot be moved; on Windows also if a process keeps the target open for REPLACE_SECONDS.
    """
    deadline = time.monotonic() + (REPLACE_SECONDS if IS_WINDOWS else 0.0)
    while True:
        try:
            os.replace(source, target)
        except PermissionError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.02)
        else:
            return


def flush_folder(folder: Path) -> None:
    """Make the names in a folder durable; Windows opens no folders and needs no flush."""
    if IS_WINDOWS:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_c_output() -> None:
    """Write what C code has printed into its buffers of standard output."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        (ctypes.CDLL("msvcrt") if IS_WINDOWS else ctypes.CDLL(None)).fflush(None)
