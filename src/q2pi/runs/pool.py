"""Runs side by side, each in a process of its own.

    for news in run_jobs(jobs, workers=2, stop=asked.stop):
        ...

A process is sent its job as a line of JSON, and answers in lines of JSON how far it is. It saves a checkpoint and ends
once its standard input is closed: when it is asked to stop, and also when whoever started it is no more, however that
ended. What goes wrong in one run, a kill included, is news of that run alone.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from q2pi.algorithms.registry import default_config
from q2pi.config import RunConfig, from_table, to_table
from q2pi.errors import UserError
from q2pi.runs.execute import execute
from q2pi.training.events import Diverged, Interrupted

POLL_SECONDS = 0.2
NEWS_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """A run to be executed in its folder."""

    name: str
    """What messages call it."""
    path: Path
    config: RunConfig[Any]


@dataclass(frozen=True)
class JobStatus:
    """How a job is doing; every state but "running" is its last."""

    job: Job
    state: Literal["running", "finished", "stopped", "failed"]
    step: int = 0
    """Agent steps so far; 0 where no event has come yet, or none was left to come."""
    reason: str = ""
    """Why it failed, in one line."""
    trace: str = ""
    """The traceback where it failed for no reason that a user could know."""


def run_jobs(jobs: Sequence[Job], workers: int, stop: Callable[[], bool] = lambda: False) -> Iterator[JobStatus]:
    """Execute runs in up to `workers` processes and yield what becomes of them; at least one news for each.

    Args:
        jobs: in the order in which they begin; see `execute.execute` for what a folder may hold already.
        workers: processes at a time.
        stop: asked a few times a second; once it says true, runs in flight save and end, and no other begins.
    """
    waiting, processes = deque(jobs), dict[Path, _Process]()
    news: queue.SimpleQueue[JobStatus] = queue.SimpleQueue()
    try:
        while processes or waiting:
            if stop():
                waiting.clear()
                for process in processes.values():
                    process.ask_to_stop()
            while waiting and len(processes) < workers:
                job = waiting.popleft()
                processes[job.path] = _Process(job, news)
                yield JobStatus(job, "running")
            try:
                newest = news.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if newest.state != "running":
                processes.pop(newest.job.path)
            yield newest
    finally:
        for process in processes.values():
            process.kill()


class _Process:
    """The parent's side of one run's process."""

    def __init__(self, job: Job, news: "queue.SimpleQueue[JobStatus]") -> None:
        self.job, self.news = job, news
        self.errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        threads = {"OMP_NUM_THREADS": str(job.config.threads)} if job.config.threads else {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "q2pi.runs.pool"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=os.environ | threads,
            start_new_session=True,  # Ctrl-C at the terminal is for the parent, which asks to stop
        )
        self._send(json.dumps({"path": str(job.path), "config": to_table(job.config)}) + "\n")
        threading.Thread(target=self._listen, daemon=True).start()

    def ask_to_stop(self) -> None:
        assert self.process.stdin is not None
        if not self.process.stdin.closed:
            self.process.stdin.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended at once: `_listen` says why

    def _listen(self) -> None:
        assert self.process.stdout is not None
        newest = JobStatus(self.job, "running")
        with self.process, self.errors:
            for line in self.process.stdout:
                newest = JobStatus(self.job, **json.loads(line))
                if newest.state == "running":
                    self.news.put(newest)
            code = self.process.wait()
            if newest.state == "running":
                newest = JobStatus(self.job, "failed", newest.step, _ending(code), self._last_words())
        self.news.put(newest)

    def _last_words(self) -> str:
        self.errors.seek(0)
        return self.errors.read()[-4000:]


def _ending(code: int) -> str:
    if code >= 0:
        return f"its process ended with status {code}"
    return f"its process was killed by {signal.Signals(-code).name}"


def main() -> int:
    """Execute the run that standard input names, and tell its news on standard output."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no news
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_wait_for_the_end_of_input, args=(stop,), daemon=True).start()

    def tell(state: str, step: int, **why: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody listens any more; the run still has to be saved
            print(json.dumps({"state": state, "step": step} | why), file=told, flush=True)

    step = 0
    try:
        step, finished = _execute(job["path"], job["config"], stop, tell)
        tell("finished" if finished else "stopped", step)
    except (UserError, OSError, MemoryError) as problem:
        tell("failed", step, reason=str(problem) or type(problem).__name__)
    except Diverged as problem:
        tell("failed", step, reason=f"training diverged: {problem}")
    except Exception as problem:
        tell("failed", step, reason=f"{type(problem).__name__}: {problem}", trace=traceback.format_exc())
    return 0


def _execute(
    path: str, table: dict[str, Any], stop: threading.Event, tell: Callable[[str, int], None]
) -> tuple[int, bool]:
    """Return (agent steps, whether the run is finished)."""
    config = from_table(default_config(table["algorithm"]), table, path)
    step, told, finished = 0, 0.0, True
    for event in execute(config, path, stop.is_set):
        step, finished = event.step, not isinstance(event, Interrupted)
        if time.monotonic() - told > NEWS_SECONDS:
            told = time.monotonic()
            tell("running", step)
    return step, finished


def _wait_for_the_end_of_input(stop: threading.Event) -> None:
    while os.read(0, 1):
        pass
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
