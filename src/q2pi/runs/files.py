"""Atomic writes of files."""

import os
from pathlib import Path

from q2pi.parallel import portable


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file by `content`, flushed to disk; readers see the old file or the new file, never a part of it.

    Args:
        path: the file; its folder must exist.
        content: bytes, or text to write as UTF-8.

    Raises:
        OSError: the file cannot be written, for instance because the disk is full; the old file stays intact.
    """
    # Two processes may write the same report: with a common temporary name each would truncate the other's file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        portable.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
