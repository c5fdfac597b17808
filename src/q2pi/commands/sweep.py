"""q2pi sweep: train environments x algorithms x options x seeds, skipping finished runs."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.status import Status
from rich.table import Table

from q2pi.commands.executors import Place, executor_for, is_elsewhere
from q2pi.commands.options import parse
from q2pi.commands.output import PLAIN_SECONDS
from q2pi.commands.scores import score_line
from q2pi.config import at_least
from q2pi.parallel.executor import JobStatus, Stop
from q2pi.parallel.portable import quoted
from q2pi.parallel.stop import StopRequest
from q2pi.runs.folder import RunFolder
from q2pi.runs.manifest import steps
from q2pi.runs.progress import clock
from q2pi.runs.sweep import Sweep, SweepRun, check, read_sweep

DESCRIPTION = """Train every combination of environments, algorithms, options and seeds in a TOML file, each in its own
run folder. The same command continues an interrupted sweep and skips finished runs. Each run uses one thread;
threads = N in the file's table [options] changes that."""


@dataclass(frozen=True)
class Options:
    file: Annotated[str, tyro.conf.Positional]
    """TOML file of the sweep, see docs/reports.md."""
    runs: str | None = None
    """Folder of the runs; by default runs/NAME for a file NAME.toml."""
    workers: int | None = None
    """Number of runs to train in parallel, each in its own process; by default the file's number of workers, or 1. On
    a cluster the default is as many as its CPUs, GPUs and memory allow."""
    ray: str | None = None
    """Ray cluster that trains the runs: local (made on this machine for this command), auto (the cluster of this
    machine), HOST:PORT or ray://HOST:PORT; by default processes on this machine."""
    explain: bool = False
    """Print the runs and their progress without training."""


def main(arguments: list[str]) -> int:
    options = parse(Options, "sweep", DESCRIPTION, arguments)
    file = Path(options.file)
    root = Path(options.runs) if options.runs else Path("runs") / file.stem
    if options.workers is not None:
        at_least(options, 1, "workers")
    sweep = read_sweep(file, root)
    if options.workers is not None:
        sweep = replace(sweep, workers=options.workers)
    elif is_elsewhere(options.ray):
        sweep = replace(sweep, workers=0)
    memory = check(sweep, is_elsewhere(options.ray))
    if options.explain:
        explain(sweep, root)
        return 0
    with executor_for(options.ray, sweep.workers) as place, StopRequest("saving checkpoints") as stop:
        return run(sweep, root, place, memory, stop)


def run(sweep: Sweep, root: Path, place: Place, memory: Mapping[str, int], stop: Stop) -> int:
    """Train the unfinished runs of a sweep, print their progress, and return the exit status.

    Args:
        sweep: the runs.
        root: their folder, for messages.
        place: where they run.
        memory: name of a run -> bytes of memory that it needs.
        stop: polled a few times a second.
    """
    unfinished = sweep.unfinished()
    count = len(sweep.runs)
    print(f"{count} runs in {root}, {count - len(unfinished)} of them done; workers: {_workers(sweep)}")
    display, failed = _Display(sweep, unfinished, place.describe), dict[str, str]()
    jobs = [replace(each.job, memory=memory[each.name]) for each in unfinished]
    try:
        for status in place.executor.run(jobs, stop):
            display.show(status)
            if status.state == "failed":
                failed[status.job.name] = status.reason
    finally:
        display.close()
    for name, reason in failed.items():
        print(f"q2pi: {name} failed: {reason}", file=sys.stderr)
    print(f"done {count - len(sweep.unfinished())} of {count}, failed {len(failed)}")
    if stop():
        print("stopped; the same command continues from the checkpoints")
        return 130
    print(f"next:\n  q2pi report {quoted(root)}     tables, figures and an HTML page of all finished runs")
    return 1 if failed else 0


class _Display:
    """Prints a line for each run that ends and the progress of the sweep; a terminal shows progress in place."""

    def __init__(self, sweep: Sweep, unfinished: list[SweepRun], describe: Callable[[], str]) -> None:
        self.console = Console(highlight=False)
        self.states: Counter[str] = Counter(running=0, finished=0, failed=0, stopped=0)
        self.done = len(sweep.runs) - len(unfinished)
        self.total = len(sweep.runs)
        self.runs = {run.name: run for run in unfinished}
        self.budget = {run.name: run.config.total_timesteps for run in unfinished}
        self.first_step = {run.name: _saved_step(run) for run in unfinished}
        self.steps = dict(self.first_step)
        self.running: set[str] = set()
        self.describe = describe
        self.start = self.last_print = time.monotonic()
        self.line_in_place: Status | None = None
        if self.console.is_terminal:
            self.line_in_place = self.console.status(self.line())
            self.line_in_place.start()

    def show(self, status: JobStatus) -> None:
        name = status.job.name
        self.steps[name] = max(self.steps[name], status.message.get("step", 0))
        if status.state == "running":
            self.running.add(name)
        else:
            self.running.discard(name)
            self.states[status.state] += 1
            if status.state == "failed":
                self.budget[name] = self.steps[name]
            elif status.state == "finished":
                self.steps[name] = self.budget[name]
            self._print(self._ending(status))
            if status.traceback:
                print(status.traceback, file=sys.stderr, end="")
        if self.line_in_place is not None:
            self.line_in_place.update(self.line())
        elif status.state != "running" or time.monotonic() - self.last_print > PLAIN_SECONDS:
            self._print(self.line())

    def line(self) -> str:
        place = self.describe()
        return (
            f"done {self.done + self.states['finished']} of {self.total}, running {len(self.running)}, "
            f"failed {self.states['failed']}, left {self._time_left()}{', ' * bool(place)}{place}"
        )

    def close(self) -> None:
        if self.line_in_place is not None:
            self.line_in_place.stop()

    def _print(self, text: str) -> None:
        self.last_print = time.monotonic()
        self.console.print(text, markup=False, soft_wrap=True)

    def _ending(self, status: JobStatus) -> str:
        name = status.job.name
        if status.state == "failed":
            return f"failed    {name}: {status.reason}"
        if status.state == "stopped":
            return f"stopped   {name} at step {self.steps[name]:,}, checkpoint saved"
        evaluations = RunFolder(self.runs[name].path).rows("evaluation")
        return f"finished  {name}  {score_line(evaluations[-1]['statistics']) if evaluations else ''}".rstrip()

    def _time_left(self) -> str:
        trained = sum(self.steps.values()) - sum(self.first_step.values())
        left = sum(self.budget.values()) - sum(self.steps.values())
        if trained <= 0:
            return "--:--"
        return clock(left * (time.monotonic() - self.start) / trained)


def _workers(sweep: Sweep) -> str:
    return str(sweep.workers or "as many as fit")


def explain(sweep: Sweep, root: Path) -> None:
    """Print the runs of a sweep and their progress."""
    unfinished = {run.name for run in sweep.unfinished()}
    table = Table(title=f"{len(sweep.runs)} runs in {root}, workers: {_workers(sweep)}", title_justify="left")
    table.add_column("run", overflow="fold")
    table.add_column("agent steps", justify="right")
    table.add_column("state")
    for each in sweep.runs:
        step = _saved_step(each)
        state = "done" if each.name not in unfinished else f"continues from {step:,}" if step else "to do"
        table.add_row(each.name, f"{each.config.total_timesteps:,}", state)
    total = sum(each.config.total_timesteps for each in sweep.runs)
    table.add_row("total", f"{total:,}", f"{len(unfinished)} left")
    Console().print(table)


def _saved_step(run: SweepRun) -> int:
    return max(steps(RunFolder(run.path).checkpoints), default=0)
