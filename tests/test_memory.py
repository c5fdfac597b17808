"""Freed memory stays with the process: counted in page faults, in a process of the test's own."""

import platform
import subprocess
import sys

import pytest

from q2pi import memory

SCRIPT = """
import resource
import numpy as np
from q2pi.memory import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        for array in [np.empty(6 << 20, np.uint8) for _ in range(4)]:
            array[::4096] = 1
        del array
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
given_back = faults()
assert keep_freed()
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator alone is told")
def test_what_is_freed_is_not_asked_of_the_system_again() -> None:
    """Four arrays of 6 MiB are 6,144 pages of 4 KiB."""
    output = subprocess.run([sys.executable, "-c", SCRIPT], check=True, stdout=subprocess.PIPE, text=True).stdout
    given_back, kept = map(int, output.split())
    assert given_back > 5_000, "the twin: as the C library has it"
    assert kept < 200


def test_systems_without_glibc_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not memory.keep_freed()
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert not memory.keep_freed()
