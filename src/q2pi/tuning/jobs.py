"""Running a group of jobs: the first failure stops all of them."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from q2pi.parallel.executor import Executor, Job, JobStatus, Stop

RESTARTS = 3
"""Number of times in a row that a process which dies without a message is replaced."""


@dataclass(frozen=True)
class Outcome:
    """How the jobs ended."""

    state: Literal["done", "stopped", "failed"]
    reason: str = ""
    """Reason of a failure in one line."""
    exit_status: int = 0


def run_all(
    jobs: Iterable[Job], executor: Executor, stop: Stop, on_status: Callable[[JobStatus], str | None]
) -> Outcome:
    """Run jobs until all have finished, `stop` returns true, or a job fails; running jobs then save and stop.

    Args:
        jobs: the jobs.
        executor: runs them.
        stop: polled a few times a second.
        on_status: called with each status; returns the reason if the group has failed, else None.
    """
    failures: list[Outcome] = []
    for status in executor.run(jobs, lambda: bool(failures) or stop()):
        reason = on_status(status)
        if status.state == "failed":
            print(status.traceback, file=sys.stderr, end="")
            failures.append(Outcome("failed", status.reason, 2 if status.is_user_error else 1))
        elif reason is not None:
            failures.append(Outcome("failed", reason, 1))
    if failures:
        return failures[0]
    return Outcome("stopped", exit_status=130) if stop() else Outcome("done")
