"""CPU usage of other programs: counters by hand, the rule for distorted timings, and busy cores."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from q2pi.parallel import portable
from q2pi.runs import cpu_usage
from q2pi.runs.cpu_usage import CpuMeter, CpuUsage


class Counters:
    """A machine of cores 0 to 3, of which this process may use 0 and 1; `work` is CPU seconds by kind and core."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cores = [dict.fromkeys(("user", "system", "steal", "idle", "iowait"), 100.0) for _ in range(4)]
        self.own = self.clock = 50.0
        self.child = self.ended = 0.0
        fake = SimpleNamespace(
            Process=lambda: self.process(self.own, self.ended, [self.process(self.child)]),
            Error=psutil.Error,
            cpu_times=lambda percpu: [SimpleNamespace(**core) for core in self.cores],
        )
        monkeypatch.setattr(cpu_usage, "psutil", fake)
        monkeypatch.setattr(portable, "cores", lambda: {0, 1})
        monkeypatch.setattr(cpu_usage.time, "perf_counter", lambda: self.clock)
        monkeypatch.setattr(os, "getloadavg", lambda: (1.25, 0.0, 0.0))

    def process(self, user: float, ended: float = 0.0, children: Sequence[Any] = ()) -> Any:
        """Return a process with its CPU seconds, and with ended and running children."""
        times = SimpleNamespace(user=user, system=1.0, children_user=ended, children_system=0.0)
        return SimpleNamespace(cpu_times=lambda: times, children=lambda recursive: list(children))


def test_usage_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 s: cores 0 and 1 are busy for 9 + 5 s, 4 s of it by this process; cores 2 and 3 do not count."""
    machine = Counters(monkeypatch)
    meter = CpuMeter()
    machine.clock += 10
    machine.own += 4
    for core, work in enumerate([{"user": 9.0, "iowait": 1.0}, {"system": 2.0, "steal": 3.0, "idle": 5.0}]):
        for kind, seconds in work.items():
            machine.cores[core][kind] += seconds
    machine.cores[2]["user"] += 10
    usage = meter.read()
    assert (usage.own, usage.other, usage.cores) == (pytest.approx(0.4), pytest.approx(1.0), 2)


def test_work_of_child_processes_is_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation beside training, in a process of its own, is no other program; nor is one that has ended."""
    machine = Counters(monkeypatch)
    meter = CpuMeter()
    machine.clock += 10
    machine.own, machine.child, machine.ended = machine.own + 4, 5.0, 3.0
    for core in (0, 1):
        machine.cores[core]["user"] += 10
    usage = meter.read()
    assert (usage.own, usage.other) == (pytest.approx(1.2), pytest.approx(0.8))


def test_the_load_average_replaces_counters_that_do_not_advance(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Counters(monkeypatch)
    meter = CpuMeter()
    machine.clock += 10
    assert meter.read().other == 1.25


@pytest.mark.parametrize(
    ("own", "other", "cores", "threads", "is_distorting"),
    [
        (0.4, 1.6, 2, 2, True),
        (0.7, 1.3, 2, 1, True),  # one thread got 0.7 of its core
        (1.0, 1.0, 2, 1, False),  # one thread and one other program
        (1.0, 1.0, 2, 2, True),
        (1.0, 0.4, 2, 2, False),  # 0.6 cores idle: the run did not use its second thread
        (1.6, 0.4, 2, 2, False),  # 20 %
        (8.0, 8.0, 64, 8, False),
        (8.0, 56.0, 64, 8, False),
        (4.0, 60.0, 64, 8, True),
    ],
)
def test_what_distorts(own: float, other: float, cores: int, threads: int, is_distorting: bool) -> None:
    assert CpuUsage(own, other, cores).is_distorting(threads) is is_distorting


def burn(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_other_programs_on_this_machine_are_seen() -> None:
    """One busy program per core: no core is idle, and the programs take at least a third of the CPU time."""
    cores = len(portable.cores())
    # Started by a shell that ends at once: a child of this process would be its own work.
    start = f"{shlex.quote(sys.executable)} -c 'while True: pass' >&2 & echo $!"
    others = [int(subprocess.check_output(["sh", "-c", start], text=True)) for _ in range(cores)]
    try:
        burn(0.3)
        meter = CpuMeter()
        burn(1.0)
        usage = meter.read()
    finally:
        for process in others:
            os.kill(process, signal.SIGKILL)
    assert usage.own <= 1.1
    assert usage.other > cores / 3
    assert usage.own + usage.other > 0.8 * cores
