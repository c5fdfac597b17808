"""glibc allocator options: freed memory is kept for the next update instead of being returned to the system.

Each update frees tens of megabytes that the next one allocates again. By default glibc returns them to the system in
between, and the system zeroes each page again: thousands of page faults per update of DQN.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
KEPT = 512 << 20
"""M_TRIM_THRESHOLD: free bytes kept at the top of the heap; more than that is returned to the system."""
LARGE = 32 << 20
"""M_MMAP_THRESHOLD: larger allocations are mmapped and returned on free. 32 MiB is glibc's maximum."""


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory; return whether it accepted the options (False for other C libraries)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, LARGE) and mallopt(_TRIM_THRESHOLD, KEPT))
