"""The line of a run that other programs have made slow: once, only if it is slow, only if they are the cause."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_runs import cartpole

from q2pi.commands import slowdown
from q2pi.commands.slowdown import Slowdown
from q2pi.commands.terminal import TerminalRun
from q2pi.config import resolve
from q2pi.runs.cpu_usage import CpuUsage
from q2pi.runs.execute import execute
from q2pi.training.events import Progress

IDLE, BUSY = CpuUsage(own=1.6, other=0.2, cores=2), CpuUsage(own=0.4, other=1.6, cores=2)


class Run:
    """A run with rows of 10 seconds, 2 threads, and a meter that returns `usage`."""

    def __init__(self, estimated: float = float("nan"), threads: int = 2) -> None:
        self.usage, self.step = IDLE, 1_000
        self.slowdown = Slowdown(threads, threads, estimated, lambda: self)  # type: ignore[arg-type, return-value]
        self.slowdown.start(self.step)

    def read(self) -> CpuUsage:
        return self.usage

    def rows(self, rate: float, seconds: float = 90.0, updates: int = 5, usage: CpuUsage = IDLE) -> list[str]:
        """Return the lines during `seconds` of training at `rate` agent steps per second."""
        self.usage, lines = usage, []
        for _ in range(int(seconds / 10)):
            self.step += int(10 * rate)
            parts = {"act": 2.0, "environment": 3.0, "learn": 5.0, "evaluate": 500.0, "checkpoint": 60.0}
            lines.append(self.slowdown.line(Progress(self.step, {"updates": updates}, parts)))
        return [line for line in lines if line is not None]


def test_a_run_that_becomes_slow_says_so_once() -> None:
    run = Run()
    assert run.rows(150) == []
    (line,) = run.rows(60, usage=BUSY)
    assert line == (
        "slow: 60 steps/s instead of 150; other programs use 1.6 of 2 cores: stop them, or start a new run "
        "with --threads 1"
    )
    assert run.rows(2, usage=BUSY) == [], "once"


def test_a_run_that_is_slow_from_the_start_is_compared_with_its_estimate() -> None:
    assert Run().rows(60, usage=BUSY) == [], "without an estimate nothing faster is known"
    (line,) = Run(estimated=150.0).rows(60, usage=BUSY)
    assert "60 steps/s instead of 150" in line


def test_a_run_on_one_thread_is_not_advised_to_use_one() -> None:
    run = Run(threads=1)
    run.rows(7)
    (line,) = run.rows(3, usage=CpuUsage(own=0.3, other=1.7, cores=2))
    assert line == "slow: 3 steps/s instead of 7; other programs use 1.7 of 2 cores: stop them"


@pytest.mark.parametrize("estimated", [float("nan"), 150.0])
def test_a_run_at_three_quarters_of_its_rate_is_not_slow(estimated: float) -> None:
    run = Run(estimated)
    assert run.rows(150) + run.rows(110, usage=BUSY) == []
    assert len(run.rows(70, usage=BUSY)) == 1, "below half it is"


def test_a_run_that_is_slow_by_itself_prints_nothing() -> None:
    """Its environment or its algorithm became slower: no program can be stopped."""
    run = Run(150.0)
    assert run.rows(150) + run.rows(20, usage=IDLE) == []
    assert len(run.rows(20, usage=BUSY)) == 1


def test_steps_before_learning_are_not_the_rate_to_reach() -> None:
    run = Run()
    assert run.rows(2_000, updates=0) + run.rows(150, usage=BUSY) == []
    assert len(run.rows(60, usage=BUSY)) == 1


def test_rows_without_updates_count_after_the_first_with() -> None:
    """A rollout is longer than a row: the row in which it ends makes all updates."""
    run = Run()
    run.rows(150, 10)
    assert run.rows(150, updates=0) == []
    assert len(run.rows(60, updates=0, usage=BUSY)) == 1


def test_a_short_pause_is_no_slowdown() -> None:
    run = Run()
    run.rows(150, 10)
    assert run.rows(150, 30) + run.rows(1, 10, usage=BUSY) + run.rows(150, 20, usage=BUSY) == []
    assert len(run.rows(1, 30, usage=BUSY)) == 1, "30 seconds are"


@pytest.mark.parametrize(("usage", "count"), [(BUSY, 1), (IDLE, 0)])
def test_the_line_is_printed_by_a_run(
    usage: CpuUsage,
    count: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    no_figures: None,
) -> None:
    """Every window is over after one row; the estimate is far above what any machine reaches."""

    class Meter:
        def read(self) -> CpuUsage:
            return usage

    monkeypatch.setattr(slowdown, "WINDOW_SECONDS", 0.0)
    config: Any = resolve(cartpole(threads=1))
    with TerminalRun(config, tmp_path / "run", Console(), rate=1e9) as terminal:
        terminal.slowdown.make_meter = Meter  # type: ignore[assignment]
        execute(config, tmp_path / "run", sinks=[terminal])
    assert capfd.readouterr().out.count("instead of 1,000,000,000; other programs use 1.6 of 2 cores") == count
