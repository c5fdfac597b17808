"""Freed memory stays with the process: page faults in a subprocess."""

import platform
import subprocess
import sys

import pytest
from small_runs import cartpole

from q2pi.acceleration import allocator
from q2pi.config import resolve
from q2pi.training import loop

SCRIPT = """
import resource, sys
import numpy as np
from q2pi.acceleration.allocator import keep_freed_memory

def use():
    for array in [np.empty(6 << 20, np.uint8) for _ in range(4)]:
        array[::4096] = 1

if sys.argv[1] == "keep":
    assert keep_freed_memory()
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    """Return the page faults of ten times four arrays of 6 MiB: 61,440 pages of 4 KiB are touched."""
    command = [sys.executable, "-c", SCRIPT, mode]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator has these options")
def test_freed_memory_is_reused_without_page_faults() -> None:
    assert faults("give back") > 5_000, "the C library's defaults"
    assert faults("keep") < 200


def test_a_run_keeps_freed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(loop, "keep_freed_memory", lambda: calls.append(True))
    next(loop.run(resolve(cartpole())))
    assert calls


def test_other_c_libraries_are_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()
    monkeypatch.setattr(allocator.sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed_memory()
