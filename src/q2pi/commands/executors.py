"""The executor of a command's jobs: processes on this machine, or a Ray cluster.

    with executor_for(options.ray, workers) as place:
        for status in place.executor.run(jobs, stop):
            ...
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from q2pi.parallel.executor import Executor
from q2pi.parallel.local import LocalProcesses

@dataclass(frozen=True)
class Place:
    """Where jobs run."""

    executor: Executor
    describe: Callable[[], str]
    """Returns the nodes and pending jobs in words, "" on this machine; for lines of progress."""


def is_elsewhere(ray: str | None) -> bool:
    """Return whether jobs may run on other machines, so that this machine's memory does not bound them."""
    return ray not in (None, "local")


@contextmanager
def executor_for(ray: str | None, workers: int) -> Iterator[Place]:
    """Connect to the executor of a command's jobs.

    Args:
        ray: value of the command's --ray.
        workers: number of jobs that run at a time; on a cluster, 0 is as many as its resources allow.

    Raises:
        UserError: Ray is not installed, or the address does not answer.
    """
    if ray is None:
        yield Place(LocalProcesses(workers), lambda: "")
        return
    from q2pi.runs.ray import RayCluster

    with RayCluster(ray, workers, cpus=max(1, workers)) as cluster:
        yield Place(cluster, cluster.describe)
