"""Number of CPU threads of torch: measured, since more threads are slower on busy cores.

    fastest(time_threads(gradient, counts(one_per_core())))

At every layer each OpenMP thread waits for the slowest. On idle cores two threads train an image network 1.6 times as
fast as one. If another program has one of the cores, each layer waits for a time slice, and two threads may need ten
times as long as one. torch is imported only where it is used: a resolved configuration is read without it.
"""

import os
import time
from collections.abc import Callable, Mapping
from statistics import median

from q2pi.parallel import portable
from q2pi.parallel.portable import psutil

MIN_SPEEDUP = 1.1
"""More threads are used if they are at least this many times as fast: they also take cores from other programs."""
TIMING_SECONDS = 1.5
"""Budget of the timing; MIN_ROUNDS are made in any case."""
MIN_ROUNDS, MAX_ROUNDS = 3, 25


def one_per_core() -> int:
    """Return OMP_NUM_THREADS if it is set, else the number of physical cores that this process may use."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    if named.isdigit() and int(named) > 0:
        return int(named)
    allowed = len(portable.cores())
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def counts(most: int) -> list[int]:
    """Return the numbers of threads to time: 1, 2, 4, ... and `most`."""
    return [*(2**power for power in range(most.bit_length()) if 2**power < most), most]


def time_threads(work: Callable[[], object], numbers: list[int]) -> dict[int, float]:
    """Return number of threads -> median seconds of `work` in alternating rounds, at the load of this moment.

    The first round, which creates threads and allocates memory, does not count.
    """
    import torch

    seconds: dict[int, list[float]] = {number: [] for number in numbers}
    before = torch.get_num_threads()
    deadline = time.perf_counter() + TIMING_SECONDS
    try:
        for index in range(1 + MAX_ROUNDS):
            if index > MIN_ROUNDS and time.perf_counter() > deadline:
                break
            for number in numbers:
                torch.set_num_threads(number)
                start = time.perf_counter()
                work()
                if index:
                    seconds[number].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return {number: median(values) for number, values in seconds.items()}


def fastest(seconds: Mapping[int, float]) -> int:
    """Return the fastest number of threads; a larger number only if it is MIN_SPEEDUP times as fast."""
    best, *others = sorted(seconds)
    for number in others:
        if seconds[best] >= MIN_SPEEDUP * seconds[number]:
            best = number
    return best
