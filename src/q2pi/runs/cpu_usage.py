"""CPU time that other programs take on this process's cores: a timing run on a busy machine overestimates the time."""

import contextlib
import time
from dataclasses import dataclass

from q2pi.parallel import portable
from q2pi.parallel.portable import psutil

DISTORTION = 0.25
"""Share of the cores a run needs that other programs may take before its timing is distorted."""
IDLE = 0.1
"""If a larger share of the cores is idle, the run was not short of CPU time."""


@dataclass(frozen=True)
class CpuUsage:
    """Mean number of cores in use over a period."""

    own: float
    """Cores used by this process and its child processes, such as evaluations beside training."""
    other: float
    """Cores used by other programs; in a virtual machine also by its host (steal)."""
    cores: int
    """Cores that this process may use."""

    def is_distorting(self, threads: int) -> bool:
        """Return whether other programs slowed down a run that computes on `threads` threads."""
        needed = min(max(threads, self.own), self.cores)
        missing = self.other + needed - self.cores
        is_saturated = self.own + self.other > (1 - IDLE) * self.cores
        return is_saturated and missing > DISTORTION * needed


class CpuMeter:
    """Measures the CPU usage from its construction to `read`."""

    def __init__(self) -> None:
        self._load = portable.load_average()
        self._start = time.perf_counter()
        self._own, self._busy, self._total = _own_seconds(), *_core_seconds()

    def read(self) -> CpuUsage:
        """Return the usage since the start."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        own, cores = (_own_seconds() - self._own) / seconds, len(portable.cores())
        busy, total = _core_seconds()
        # In some containers the CPU counters do not advance: use the load average before the start instead.
        other = (busy - self._busy) / seconds - own if total > self._total else self._load
        return CpuUsage(own, min(max(other, 0.0), float(cores)), cores)


def _own_seconds() -> float:
    """Return the CPU seconds of this process, of its ended children and of those that run."""
    process = psutil.Process()
    times = process.cpu_times()
    seconds = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended since
            used = child.cpu_times()
            seconds += used.user + used.system
    return float(seconds)


def _core_seconds() -> tuple[float, float]:
    """Return (busy, total) seconds of the cores that this process may use, by all programs since the machine booted."""
    busy = total = 0.0
    allowed = portable.cores()
    for core, times in enumerate(psutil.cpu_times(percpu=True)):
        if core in allowed:
            used = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
            busy += used
            total += used + times.idle + getattr(times, "iowait", 0.0)
    return busy, total
