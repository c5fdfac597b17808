"""The executor of a command's jobs: processes on this machine, or a Ray cluster.

with executor_for(options.ray, workers) as place:
    for status in place.executor.run(jobs, stop):
        ...
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from q2pi.config import ResolvedConfig
from q2pi.errors import UserError
from q2pi.parallel.executor import Executor
from q2pi.parallel.local import LocalProcesses

if TYPE_CHECKING:
    from q2pi.training.source import Source


@dataclass(frozen=True)
class Place:
    """Where jobs run."""

    executor: Executor
    describe: Callable[[], str] = lambda: ""
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
        yield Place(LocalProcesses(workers))
        return
    from q2pi.runs.ray import RayCluster

    with RayCluster(ray, workers, cpus=max(1, workers)) as cluster:
        yield Place(cluster, cluster.describe)


@contextmanager
def source_for(config: ResolvedConfig[Any], ray: str | None) -> Iterator["Callable[[], Source] | None"]:
    """Connect to the cluster of a run's actors; yield the `source` of `execute`, None for a run without actors.

    Raises:
        UserError: --ray without --actors or the reverse, Ray is not installed, or the address does not answer.
    """
    check_actors(config, ray)
    if ray is None:
        yield None
        return
    from q2pi.runs.ray_actors import RayPool
    from q2pi.runs.ray_connection import connect, disconnect
    from q2pi.training.actors import Actors

    connect(ray, config.actors)
    try:
        if config.actor_steps:
            print(
                f"{config.actors} actors: the rows that the learner reads depend on timing, so the run is not "
                "reproducible, and resuming it begins new episodes"
            )
        yield lambda: Actors(config, RayPool())
    finally:
        disconnect()


def check_actors(config: ResolvedConfig[Any], ray: str | None) -> None:
    """Raise a UserError unless a run has both actors and a cluster, or neither."""
    if config.actors and ray is None:
        raise UserError(f"--actors {config.actors} needs a cluster: name it with --ray, or --ray local")
    if ray is not None and not config.actors:
        raise UserError(f"--ray {ray}: a single run uses a cluster for its actors alone: set --actors")
