"""q2pi sweep: train environments x algorithms x options x seeds, skipping what is done."""

import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.status import Status
from rich.table import Table

from q2pi.commands.options import parse
from q2pi.commands.terminal import PLAIN_SECONDS, score_line
from q2pi.commands.train import StopRequest
from q2pi.config import at_least
from q2pi.runs.folder import RunFolder
from q2pi.runs.manifest import steps
from q2pi.runs.pool import Job, JobStatus, run_jobs
from q2pi.runs.progress import clock
from q2pi.runs.sweep import Sweep, check, read_sweep

DESCRIPTION = """Train every combination of environments, algorithms, options and seeds that a TOML file lists, each in
a run folder of its own. The same command goes on where it was stopped, whatever stopped it, and skips what is done.
Each run has one thread unless the file's [options] say threads = N."""


@dataclass(frozen=True)
class Options:
    file: Annotated[str, tyro.conf.Positional]
    """The TOML file; docs/reports.md describes it."""
    runs: str | None = None
    """Folder of the runs; by default runs/ and the file's name."""
    workers: int | None = None
    """Processes, a run in each; by default what the file says, or 1."""
    explain: bool = False
    """List the runs and what is left of each, and stop."""


def main(arguments: list[str]) -> int:
    options = parse(Options, "sweep", DESCRIPTION, arguments)
    file = Path(options.file)
    root = Path(options.runs) if options.runs else Path("runs") / file.stem
    if options.workers is not None:
        at_least(options, 1, "workers")
    sweep = read_sweep(file, root)
    if options.workers is not None:
        sweep = replace(sweep, workers=options.workers)
    check(sweep)
    todo = sweep.unfinished()
    if options.explain:
        _explain(sweep, root)
        return 0
    print(f"{len(sweep.jobs)} runs in {root}, {len(sweep.jobs) - len(todo)} of them done; workers: {sweep.workers}")
    return _run(sweep, todo, root)


def _run(sweep: Sweep, todo: list[Job], root: Path) -> int:
    asked, display, failed = StopRequest(), _Display(sweep, todo), dict[str, str]()
    try:
        for news in run_jobs(todo, sweep.workers, asked.stop):
            display.take(news)
            if news.state == "failed":
                failed[news.job.name] = news.reason
    finally:
        display.close()
        asked.restore()
    for name, reason in failed.items():
        print(f"q2pi: {name} failed: {reason}", file=sys.stderr)
    left = len(sweep.unfinished())
    print(f"done {len(sweep.jobs) - left} of {len(sweep.jobs)}, failed {len(failed)}")
    if asked.asked:
        print("stopped; the same command goes on from the checkpoints")
        return 130
    print(f"next:\n  q2pi report {root}     tables, figures and a page of all that is done")
    return 1 if failed else 0


class _Display:
    """A line for each run that ends; between them how the whole sweep does, in place on a terminal."""

    def __init__(self, sweep: Sweep, todo: Iterable[Job]) -> None:
        self.console = Console(highlight=False)
        self.states: Counter[str] = Counter(running=0, finished=0, failed=0, stopped=0)
        self.done = len(sweep.jobs) - len(list(todo))
        self.total = len(sweep.jobs)
        self.budget = {job.name: job.config.total_timesteps for job in todo}
        self.before = {job.name: _saved_step(job) for job in todo}
        self.steps = dict(self.before)
        self.running: set[str] = set()
        self.began = self.printed = time.monotonic()
        self.status: Status | None = None
        if self.console.is_terminal:
            self.status = self.console.status(self.line())
            self.status.start()

    def take(self, news: JobStatus) -> None:
        name = news.job.name
        self.steps[name] = max(self.steps[name], news.step)
        if news.state == "running":
            self.running.add(name)
        else:
            self.running.discard(name)
            self.states[news.state] += 1
            if news.state == "failed":
                self.budget[name] = self.steps[name]
            elif news.state == "finished":
                self.steps[name] = self.budget[name]
            self._say(_ending(news))
            if news.trace:
                print(news.trace, file=sys.stderr, end="")
        if self.status is not None:
            self.status.update(self.line())
        elif news.state != "running" or time.monotonic() - self.printed > PLAIN_SECONDS:
            self._say(self.line())

    def line(self) -> str:
        return (
            f"done {self.done + self.states['finished']} of {self.total}, running {len(self.running)}, "
            f"failed {self.states['failed']}, left {self._time_left()}"
        )

    def close(self) -> None:
        if self.status is not None:
            self.status.stop()

    def _say(self, text: str) -> None:
        self.printed = time.monotonic()
        self.console.print(text, markup=False, soft_wrap=True)

    def _time_left(self) -> str:
        taken = sum(self.steps.values()) - sum(self.before.values())
        left = sum(self.budget.values()) - sum(self.steps.values())
        if taken <= 0:
            return "--:--"
        return clock(left * (time.monotonic() - self.began) / taken)


def _ending(news: JobStatus) -> str:
    if news.state == "failed":
        return f"failed    {news.job.name}: {news.reason}"
    if news.state == "stopped":
        return f"stopped   {news.job.name} at step {news.step:,}, saved"
    evaluations = RunFolder(news.job.path).rows("evaluation")
    return f"finished  {news.job.name}  {score_line(evaluations[-1]['statistics']) if evaluations else ''}".rstrip()


def _explain(sweep: Sweep, root: Path) -> None:
    unfinished = {job.name for job in sweep.unfinished()}
    table = Table(title=f"{len(sweep.jobs)} runs in {root}, workers: {sweep.workers}", title_justify="left")
    table.add_column("run", overflow="fold")
    table.add_column("agent steps", justify="right")
    table.add_column("state")
    for job in sweep.jobs:
        step = _saved_step(job)
        state = "done" if job.name not in unfinished else f"goes on from {step:,}" if step else "to do"
        table.add_row(job.name, f"{job.config.total_timesteps:,}", state)
    table.add_row("together", f"{sum(job.config.total_timesteps for job in sweep.jobs):,}", f"{len(unfinished)} left")
    Console().print(table)


def _saved_step(job: Job) -> int:
    return max(steps(RunFolder(job.path).checkpoints), default=0)
