"""Processes that work through a study side by side, and the crew's master who outlives them.

A worker says what it does in lines of JSON over a pipe of its own, so that a killed one can hold up no other.
"""

import json
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import connection
from types import FrameType
from typing import Any, Literal

from q2pi.errors import UserError

Message = dict[str, Any]
Say = Callable[[Message], None]
DEATHS = 3
"""Workers that may die one after the other before any has begun something."""
POLL_SECONDS = 1.0


class StopRequest:
    """In a worker: whether it was asked to stop, or its master is gone."""

    def __init__(self) -> None:
        parent = multiprocessing.parent_process()
        self.master = parent.pid if parent is not None else os.getppid()
        self.asked = False
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._ask)

    def __call__(self) -> bool:
        return self.asked or os.getppid() != self.master

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def worker(task: Callable[..., None], arguments: tuple[Any, ...], pipe: connection.Connection) -> None:
    """Run `task(*arguments, stop, say)` in this process, and say what ended it early."""
    stop = StopRequest()

    def say(message: Message) -> None:
        try:
            pipe.send_bytes(json.dumps(message).encode())
        except OSError:
            stop.asked = True

    try:
        task(*arguments, stop, say)
    except UserError as problem:
        say({"kind": "broken", "line": str(problem), "status": 2})
    except OSError as problem:
        where = f" ({problem.filename})" if problem.filename else ""
        say({"kind": "broken", "line": f"{(problem.strerror or str(problem)).lower()}{where}", "status": 2})
    except Exception as problem:
        traceback.print_exc()
        line = (str(problem).splitlines() or [""])[0]
        say({"kind": "broken", "line": f"{type(problem).__name__}: {line}", "status": 1})


@dataclass
class Crew:
    """Workers on one task, replaced where they are killed."""

    task: Callable[..., None]
    arguments: tuple[Any, ...]
    count: int
    hear: Callable[[Message], str | None]
    """Called with each message; a returned line stops the crew."""
    tick: Callable[[], None] = lambda: None
    """Called about once a second."""
    ended: Literal["done", "stopped", "failed"] = "done"
    line: str = ""
    status: int = 0
    workers: dict[Any, connection.Connection] = field(default_factory=dict)
    deaths: int = 0

    def run(self) -> None:
        """Work until there is nothing left to do, Ctrl-C, or a failure; `ended`, `line` and `status` tell which."""
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for _ in range(self.count):
                self._start()
            while self.workers:
                connection.wait([*self.workers.values(), *(process.sentinel for process in self.workers)], POLL_SECONDS)
                for process in list(self.workers):
                    self._attend(process)
                self.tick()
        finally:
            for process in self.workers:
                process.kill()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=worker, args=(self.task, self.arguments, theirs))
        # Ctrl-C on a terminal is for the master alone; blocked, it cannot hit a worker that has not begun yet.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        process.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        theirs.close()
        self.workers[process] = ours

    def _attend(self, process: Any) -> None:
        over = not process.is_alive()
        pipe = self.workers[process]
        try:
            while pipe.poll():
                self._heard(json.loads(pipe.recv_bytes()))
        except (EOFError, OSError):
            pass
        if not over:
            return
        process.join()
        pipe.close()
        del self.workers[process]
        if process.exitcode != 0 and self.ended == "done":
            self.deaths += 1
            if self.deaths > DEATHS:
                self._stop("failed", f"{self.deaths} workers died at their start (exit code {process.exitcode})", 1)
            else:
                self._start()

    def _heard(self, message: Message) -> None:
        self.deaths = 0
        if message["kind"] == "broken":
            self._stop("failed", message["line"], message["status"])
        elif line := self.hear(message):
            self._stop("failed", line, 1)

    def _stop(self, ended: Literal["stopped", "failed"], line: str, status: int) -> None:
        if self.ended == "done":
            self.ended, self.line, self.status = ended, line, status
        for process in self.workers:
            process.terminate()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.ended != "done":
            raise KeyboardInterrupt
        print("\nsaving checkpoints (once more to stop at once) ...", file=sys.stderr)
        self._stop("stopped", "", 130)
