"""The worker process of one job: `python -m q2pi.parallel.worker`, started by `local.LocalProcesses`.

Standard input carries the job as one line of JSON; end of file means stop, which also happens if the parent dies.
Standard output carries one line of JSON for each message and one for the final status.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from typing import Any

from q2pi.errors import UserError
from q2pi.parallel.executor import Message, Task
from q2pi.parallel.portable import STOP_SIGNALS


def main() -> int:
    """Run the job on standard input and report on standard output; return the exit status."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # stdout carries only the protocol: what libraries print goes to stderr
    stop = threading.Event()
    job = json.loads(sys.stdin.readline())
    sys.path += [entry for entry in job["path"] if entry not in sys.path]
    if job["on_stop"] == "save":
        for number in STOP_SIGNALS:
            signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=_wait_for_end_of_input, args=(stop, job["on_stop"]), daemon=True).start()

    def send(report: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # the parent has died; the task must still save a checkpoint
            print(json.dumps(report), file=output, flush=True)

    def emit(message: Message) -> None:
        send({"state": "running", "message": message})

    try:
        message = _import(job["task"])(job["arguments"], emit, stop.is_set)
        send({"state": "stopped" if message.get("stopped") else "finished", "message": message})
    except (UserError, OSError, MemoryError) as problem:
        send({"state": "failed", "reason": _line(problem), "is_user_error": True})
    except Exception as problem:
        reason = f"{type(problem).__name__}: {_line(problem)}"
        send({"state": "failed", "reason": reason, "traceback": traceback.format_exc()})
    return 0


def _import(task: str) -> Task:
    module, _, name = task.partition(":")
    function: Task = getattr(importlib.import_module(module), name)
    return function


def _line(problem: BaseException) -> str:
    """Return the message of an exception in one line."""
    if isinstance(problem, OSError) and problem.strerror:
        file = f" ({problem.filename})" if problem.filename else ""
        return f"{problem.strerror.lower()}{file}"
    return next(iter(str(problem).splitlines()), type(problem).__name__)


def _wait_for_end_of_input(stop: threading.Event, on_stop: str) -> None:
    while os.read(0, 1):
        pass
    if on_stop == "kill":
        os._exit(1)  # the task does not poll `stop`, so it would outlive a killed parent
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
