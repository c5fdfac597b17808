"""The allocator of this process: freed memory is kept for the next update instead of being given back to the system.

An update frees tens of megabytes and the next asks for them again. By default glibc returns them to the system in
between, and the system clears each page anew: thousands of page faults in one update of DQN.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of mallopt(3)."""
KEPT = 512 << 20
"""Bytes at the heap's end that stay; what is free beyond them goes back to the system."""
LARGE = 32 << 20
"""Bytes from which memory is asked of the system by itself, and given back when freed: the most that glibc takes."""


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed; return whether it will. Other C libraries are left as they are."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, LARGE) and mallopt(_TRIM_THRESHOLD, KEPT))
