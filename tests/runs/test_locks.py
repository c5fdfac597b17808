"""Locks: one holder at a time, released when the holder dies."""

import subprocess
import sys
import threading
from pathlib import Path

from q2pi.runs.locks import hold, is_held, take

HOLDER = """
import sys, time
from pathlib import Path
from q2pi.runs.locks import take
file = take(Path(sys.argv[1]))
assert file is not None
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_is_taken_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    assert not is_held(path)
    assert not path.exists(), "is_held creates no file"
    first = take(path)
    assert first is not None
    assert take(path) is None
    assert is_held(path)
    first.close()
    assert not is_held(path)
    second = take(path)
    assert second is not None
    second.close()


def test_hold_blocks_until_the_lock_is_free(tmp_path: Path) -> None:
    path, entered = tmp_path / "lock", threading.Event()

    def enter() -> None:
        with hold(path):
            entered.set()

    first = take(path)
    assert first is not None
    thread = threading.Thread(target=enter)
    thread.start()
    assert not entered.wait(0.1)
    first.close()
    thread.join(10)
    assert entered.is_set()
    assert not is_held(path)


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            assert take(path) is None
        finally:
            holder.kill()
    again = take(path)
    assert again is not None
    again.close()
