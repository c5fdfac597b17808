"""Jobs, and the protocol of executors that run them.

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
"""Returns its last message; {"stopped": True} in it means that `stop` ended the task early."""


def never() -> bool:
    """Return False: a `stop` that never stops."""
    return False


@dataclass(frozen=True)
class Job:
    """A task with its arguments and resources."""

    name: str
    """Name in messages to the user."""
    task: str
    """A `Task` as text, "module:function"."""
    arguments: dict[str, Any]
    """JSON-able arguments of the task."""
    threads: int = 0
    """OMP_NUM_THREADS of the process; 0 leaves the environment as it is."""
    restarts: int = 0
    """Number of times that a dead process is replaced in a row; each message resets the count. The task must be able to
    continue from the state of the dead process."""
    on_stop: Literal["save", "kill"] = "save"
    """"save": the task's `stop` becomes true, and the executor waits until the task returns. "kill": the process is
    killed."""
    cpus: float = 1
    """CPU cores to reserve, if the executor reserves any."""
    memory: int = 0
    """Bytes of memory to reserve, if the executor reserves any."""
    gpus: float = 0
    """GPUs to reserve, if the executor reserves any."""
    folder: str = ""
    """Name of the argument with the path of the run folder that the task writes; "" if it writes none. An executor
    copies the folder to and from a machine that does not share its path."""


@dataclass(frozen=True)
class JobStatus:
    """State of a job; every state except "running" is final."""

    job: Job
    state: Literal["running", "finished", "stopped", "failed"]
    message: Message = field(default_factory=dict)
    """The task's last message, such as {"step": 1200}; empty before the first."""
    reason: str = ""
    """Why the job failed, in one line."""
    traceback: str = ""
    """Traceback of an unexpected exception, or the end of the standard error of a process that died."""
    is_user_error: bool = False
    """Whether the user can fix the reason of the failure: a wrong option, a full disk, too little memory."""


class Executor(Protocol):
    """Runs jobs."""

    def run(self, jobs: Iterable[Job], stop: Stop = never) -> Iterator[JobStatus]:
        """Run jobs and yield their statuses as they arrive.

        A job yields "running" when it starts and at each message, then exactly one final state. A failed job does not
        affect other jobs. When the iterator is closed, every process of a job is killed.

        Args:
            jobs: in the order in which they start.
            stop: polled a few times a second. When it returns true, running jobs stop as their `on_stop` says, and
                no other job starts; a job that has not started yields no status.
        """
