"""What a job is, and the protocol of everything that can run jobs.

    for status in executor.run(jobs, stop):
        ...

A task is a function `task(arguments, emit, stop) -> message` at the top level of a module. It calls `emit(message)` to
report progress, polls `stop()`, and returns its last message. Arguments and messages are JSON-able dicts, so a task can
run in another process or on another machine.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Message = dict[str, Any]
"""JSON-able."""
Emit = Callable[[Message], None]
Stop = Callable[[], bool]
Task = Callable[[dict[str, Any], Emit, Stop], Message]
"""Returns its last message. The key "stopped" with the value True says that `stop` ended the task early."""


def never() -> bool:
    """Return False: a `stop` that never stops."""
    return False


@dataclass(frozen=True)
class Job:
    """A task with its arguments and the resources that it needs."""

    name: str
    """Name in messages to the user."""
    task: str
    """A `Task` as text, "module:function"."""
    arguments: dict[str, Any]
    """JSON-able arguments of the task."""
    threads: int = 0
    """OMP_NUM_THREADS of the process; 0 leaves the environment as it is."""
    restarts: int = 0
    """How often a process that dies is replaced; the count starts again at each message. Such a task must be able to
    continue where the dead process ended."""
    on_stop: Literal["save", "kill"] = "save"
    """"save": the task's `stop` becomes true, and the executor waits until the task returns. "kill": the process is
    killed."""
    cpus: float = 1
    """CPU cores to reserve, if the executor reserves any."""
    memory: int = 0
    """Bytes of memory to reserve, if the executor reserves any."""


@dataclass(frozen=True)
class JobStatus:
    """State of a job; every state but "running" is its last."""

    job: Job
    state: Literal["running", "finished", "stopped", "failed"]
    message: Message = field(default_factory=dict)
    """The task's last message, such as {"step": 1200}; empty before the first."""
    reason: str = ""
    """Why the job failed, in one line."""
    traceback: str = ""
    """Traceback of an unexpected exception, or the end of the standard error of a process that died."""
    is_user_error: bool = False
    """Whether the job failed for a reason that the user can remove: a wrong option, a full disk, too little memory."""


class Executor(Protocol):
    """Runs jobs."""

    def run(self, jobs: Iterable[Job], stop: Stop = never) -> Iterator[JobStatus]:
        """Run jobs and yield their statuses as they arrive.

        A job yields "running" when it begins and at each message, then exactly one other state. A job that fails does
        not affect the others. When the iterator is closed, every process of a job is killed.

        Args:
            jobs: in the order in which they begin.
            stop: polled a few times a second. When it returns true, running jobs stop as their `on_stop` says, and
                no other job begins; a job that never began yields no status.
        """
