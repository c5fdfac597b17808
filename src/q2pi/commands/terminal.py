"""Progress and results of a run: a live progress bar on a terminal, plain lines in logs and pipes."""

import math
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from q2pi.commands.observations import observation_line
from q2pi.commands.output import PLAIN_SECONDS
from q2pi.commands.scores import evaluation_table, score_line
from q2pi.commands.slowdown import Slowdown
from q2pi.config import ResolvedConfig, RunConfig
from q2pi.envs.errors import EnvError
from q2pi.parallel.portable import peak_memory, quoted
from q2pi.parallel.stop import StopRequest
from q2pi.runs.estimate import Estimate, TimingRun, busy_threads, gigabytes, options_of
from q2pi.runs.folder import RunFolder
from q2pi.runs.progress import RECENT_EPISODES, clock
from q2pi.runs.threads import ThreadChoice
from q2pi.training import events

RATE_ROWS = 10
"""Number of newest metric rows for the rate in steps per second; with more, the rate would include steps before
learning starts for too long."""


class TerminalRun:
    """A sink that prints the progress and the score of a run, stops it on Ctrl-C, and suggests the next commands.

        with TerminalRun(config, path, console) as terminal:
            execute(config, path, sinks=[terminal], stop=terminal.stop, warn=terminal.warn)
        return terminal.status

    Args:
        config: configuration of the run.
        path: the run folder.
        console: where to print.
        memory: estimated peak bytes, printed next to the measured peak at the end; None prints no estimate.
        rate: estimated agent steps per second, with which the rate is compared; NaN without an estimate.
    """

    def __init__(
        self,
        config: ResolvedConfig[Any],
        path: Path,
        console: Console,
        memory: int | None = None,
        rate: float = math.nan,
    ) -> None:
        self.config, self.path, self.console, self.memory = config, path, console, memory
        self.slowdown = Slowdown(config.threads, busy_threads(config), rate)
        self.status = 0
        self._view: _View | None = None
        self._step = 0
        self._report: dict[str, Any] | None = None

    def __enter__(self) -> "TerminalRun":
        self._request = StopRequest()
        return self

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> bool:
        self._request.restore()
        if isinstance(problem, EnvError) and self._view is not None:
            print(f"no step is lost; continue with:  q2pi resume {quoted(self.path)}")
        if not isinstance(problem, events.Diverged):
            return False
        newest = [str(path) for path in sorted(RunFolder(self.path).checkpoints.glob("[0-9]*"))][-1:]
        kept = f"the newest checkpoint is {newest[0]}" if newest else "no checkpoint was written before"
        print(f"q2pi: training diverged: {problem}; {kept}; {problem.advice}", file=sys.stderr)
        self.status = 1
        return True

    def stop(self) -> bool:
        return self._request()

    def warn(self, text: str) -> None:
        print(f"q2pi: {text}", file=sys.stderr)

    def write(self, event: events.Event) -> None:
        if isinstance(event, events.Started):
            if event.step:
                print(f"resuming {self.path} at step {event.step:,} of {self.config.total_timesteps:,}")
            if line := observation_line(self.config, event.agent):
                print(line)
            self.slowdown.start(event.step)
            self._view = _LiveView(self.console, self.config) if self.console.is_terminal else _PlainView(self.config)
        assert self._view is not None
        self._view.take(event)
        self._step = event.step
        match event:
            case events.Evaluated(_, evaluation):
                self._report = evaluation.report()
            case events.Progress():
                if (slow := self.slowdown.line(event)) is not None:
                    self._view.print(slow)
            case events.Interrupted(step):
                self.close()
                print(f"stopped at step {step:,}; continue with:  q2pi resume {quoted(self.path)}")
                self.status = 130
            case events.Finished():
                self.close()
                self._finished(event)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if self._view is not None:
            self._view.close()

    def _finished(self, event: events.Finished) -> None:
        from q2pi.reports.learning_curves import learning_curves

        self.console.print(time_table(event.seconds))
        estimated = f" ({gigabytes(self.memory)} estimated)" if self.memory is not None else ""
        print(f"peak memory: {gigabytes(peak_memory())}{estimated}")
        if self._report is not None:
            self.console.print(evaluation_table(self._report))
        run = RunFolder(self.path)
        picture = learning_curves([run], run.figures / "learning_curve.png")
        if picture is not None:
            print(f"learning curve: {picture}")
        name = quoted(self.path)
        print("next:")
        print(f"  q2pi record {name}       a video of the best episode")
        print(f"  q2pi evaluate {name}     a score over more episodes")
        print(f"  q2pi plot {name}         its learning curves, alone or with other runs")


class _View:
    """The numbers that both views show."""

    def __init__(self, config: RunConfig[Any]) -> None:
        self.total = config.total_timesteps
        self.returns: deque[float] = deque(maxlen=RECENT_EPISODES)
        self.metrics: dict[str, float] = {}
        self.step = 0
        self.marks: deque[tuple[float, int]] = deque(maxlen=RATE_ROWS)
        self.episodes = 0
        self.rate = float("nan")

    def take(self, event: events.Event) -> None:
        self.step = event.step
        match event:
            case events.Started(step):
                self.marks.append((time.perf_counter(), step))
            case events.EpisodeEnded(_, episode):
                self.returns.append(episode.episode_return)
                self.episodes += 1
            case events.Progress(step, metrics):
                self.metrics = metrics
                self.marks.append((time.perf_counter(), step))
                (began, first), (now, last) = self.marks[0], self.marks[-1]
                self.rate = (last - first) / (now - began)
            case events.Evaluated(step, evaluation):
                self.print(f"evaluation at step {step:,}: {score_line(evaluation.report()['statistics'])}")
            case events.Checkpoint(step):
                self.print(f"checkpoint at step {step:,}")

    def line(self) -> str:
        parts = [f"episodes {self.episodes}"]
        if self.returns:
            parts.append(f"return {np.mean(self.returns):.1f} (last {len(self.returns)})")
        names = [name for name in self.metrics if name != "updates"]
        parts += [f"{name} {self.metrics[name]:.4g}" for name in names]
        return "  ".join(parts)

    def speed(self) -> str:
        return f"{self.rate:,.0f}" if self.rate > 0 else "..."

    def time_left(self) -> str:
        return clock((self.total - self.step) / self.rate) if self.rate > 0 else "--:--"

    def print(self, text: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class _PlainView(_View):
    """Prints one line every few seconds, for logs and pipes."""

    def __init__(self, config: RunConfig[Any]) -> None:
        super().__init__(config)
        self.printed = 0.0

    def take(self, event: events.Event) -> None:
        super().take(event)
        now = time.perf_counter()
        if isinstance(event, events.Progress) and (now - self.printed > PLAIN_SECONDS or event.step >= self.total):
            self.printed = now
            share = 100 * self.step / self.total
            self.print(
                f"step {self.step:,} of {self.total:,} ({share:.0f} %)  {self.speed()} steps/s  "
                f"left {self.time_left()}  {self.line()}"
            )

    def print(self, text: str) -> None:
        print(text, flush=True)

    def close(self) -> None:
        sys.stdout.flush()


class _LiveView(_View):
    """A progress bar with steps per second and time left, and the newest metrics below it."""

    def __init__(self, console: Console, config: RunConfig[Any]) -> None:
        super().__init__(config)
        self.console = console
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} steps/s"),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
            expand=True,
        )
        name = f"{config.algorithm} on {config.env.env_id}"
        self.task = self.bar.add_task(name, total=self.total, rate="...", left="--:--")
        self.text = Text("", style="dim")
        self.live = Live(Group(self.bar, self.text), console=console, refresh_per_second=4)
        self.live.start()
        self.drawn = 0.0

    def take(self, event: events.Event) -> None:
        super().take(event)
        now = time.perf_counter()
        if now - self.drawn > 0.2 or isinstance(event, events.Finished):
            self.drawn = now
            self.bar.update(self.task, completed=self.step, rate=self.speed(), left=self.time_left())
            self.text.plain = self.line()

    def print(self, text: str) -> None:
        self.console.print(text, highlight=False)

    def close(self) -> None:
        self.live.stop()


def time_table(seconds: dict[str, float]) -> Table:
    """Return the seconds of each part of a run as a table."""
    total = sum(seconds.values())
    table = Table(title="time by part", title_justify="left")
    for name in ("part", "seconds", "share"):
        table.add_column(name, justify="left" if name == "part" else "right")
    for name, value in sorted(seconds.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{value:.1f}", f"{100 * value / total:.1f} %")
    table.add_row("total", f"{total:.1f}", "100 %")
    return table


def explain(
    config: ResolvedConfig[Any],
    preset: str | None,
    needs: Estimate,
    timing: TimingRun | None,
    threads: ThreadChoice,
    console: Console,
    brief: bool = False,
) -> int | None:
    """Print the estimate of a run; unless `brief`, every option too.

    Return the expected peak bytes of memory, None without a timing run.
    """
    table = Table(show_header=False, title=f"{config.algorithm} on {config.env.env_id}", title_justify="left")
    table.add_row("preset", preset or "none")
    table.add_row("method", config.hyper.method)
    table.add_row("agent steps", f"{needs.steps:,} ({_collectors(config)})")
    table.add_row("frames", f"{needs.frames:,}")
    table.add_row("threads", str(threads))
    table.add_row("updates", f"{needs.updates:,}")
    peak = None if timing is None else timing.memory + needs.storage
    needed = f"{gigabytes(needs.storage)} of storage, and more for the process," if peak is None else gigabytes(peak)
    table.add_row("memory", f"{needed} of {gigabytes(needs.memory_available)} free{_frame_storage(config)}")
    if not config.actors:
        table.add_row("time", "not estimated (--no-estimate)" if timing is None else _expected_time(timing))
    if not brief:
        for name, value in options_of(config).items():
            if value != [] and name != "threads":
                table.add_row(name, str(value))
    console.print(table)
    return peak


def _collectors(config: ResolvedConfig[Any]) -> str:
    environments = f"{config.num_envs} parallel environments"
    return f"{config.actors} actors with {environments} each" if config.actors else environments


def _frame_storage(config: ResolvedConfig[Any]) -> str:
    """Return how the replay stores images, in brackets; "" if the run stores none."""
    return f" ({config.hyper.storage_note})" if config.hyper.storage_note and config.env.resize else ""


def _expected_time(timing: TimingRun) -> str:
    if math.isnan(timing.seconds):
        return "unknown: the timing run diverged or made no update"
    if timing.is_distorted:
        usage = timing.usage
        return f"unknown: other programs used {usage.other:.1f} of {usage.cores} cores during the timing run"
    return f"{_duration(timing.seconds)} of training on this machine"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 2:
        return f"about {seconds:.0f} s"
    return f"about {minutes:.0f} minutes" if minutes < 120 else f"about {minutes / 60:.1f} hours"
