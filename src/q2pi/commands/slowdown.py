"""A line, once, if other programs have made a run much slower than it was or was estimated to be."""

import math
from collections.abc import Callable

from q2pi.runs.cpu_usage import CpuMeter
from q2pi.training import events

WINDOW_SECONDS = 30.0
"""Seconds of training over which a rate is taken: a shorter pause of the machine is no slowdown."""
MIN_SHARE = 0.5
"""A run is slow if its rate is below this share of its best."""
NOT_TRAINING = ("evaluate", "checkpoint")
"""Parts of a run that do not count: some rows have them and others do not."""


class Slowdown:
    """Compares the rate of a run in windows with the best so far, or with the estimate.

    Windows begin after the first row with updates: before, steps are faster than they stay. A slow window counts only
    if other programs took the CPU in it, since an algorithm or an environment may become slower by itself.

    Args:
        config_threads: the run's number of torch threads.
        busy_threads: the number of busy threads of the run, emulators included.
        estimated: estimated agent steps per second; NaN without an estimate.
        make_meter: starts a measurement of the CPU usage.
    """

    def __init__(
        self,
        config_threads: int,
        busy_threads: int,
        estimated: float = math.nan,
        make_meter: Callable[[], CpuMeter] = CpuMeter,
    ) -> None:
        self.config_threads, self.busy_threads, self.make_meter = config_threads, busy_threads, make_meter
        self.best, self.has_printed, self.meter = estimated, False, make_meter()
        self.step = self.steps = 0
        self.seconds = 0.0
        self.has_updates = False

    def start(self, step: int) -> None:
        """Begin at agent step `step`."""
        self.step = step

    def line(self, row: events.Progress) -> str | None:
        """Return the line for a row of metrics if it is due, else None."""
        steps, self.step = row.step - self.step, row.step
        if self.has_printed:
            return None
        if not self.has_updates:
            if row.metrics.get("updates", 0) > 0:
                self.has_updates = True
                self._begin()
            return None
        self.steps += steps
        self.seconds += sum(value for part, value in row.seconds.items() if part not in NOT_TRAINING)
        if self.seconds < WINDOW_SECONDS:
            return None
        rate, usage = self.steps / self.seconds, self.meter.read()
        best = self.best
        self.best = rate if math.isnan(best) else max(best, rate)
        self._begin()
        if math.isnan(best) or rate >= MIN_SHARE * best or not usage.is_distorting(self.busy_threads):
            return None
        self.has_printed = True
        advice = ", or start a new run with --threads 1" if self.config_threads > 1 else ""
        return (
            f"slow: {_number(rate)} steps/s instead of {_number(best)}; other programs use {usage.other:.1f} of "
            f"{usage.cores} cores: stop them{advice}"
        )

    def _begin(self) -> None:
        """Begin a window."""
        self.steps, self.seconds, self.meter = 0, 0.0, self.make_meter()


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
