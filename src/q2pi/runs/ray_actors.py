"""Actors of one learner on a Ray cluster: weights and rows go through Ray's object store.

    connect(address, cpus)
    execute(config, path, source=lambda: Actors(config, RayPool()))

A published version of the weights is one object, which each node copies once. It is freed when no open request names it
any more. Rows are freed when the learner has read them. So the store holds at most REQUESTS messages per actor and the
versions that they name.
"""

import sys
import time
from typing import Any

from q2pi.runs.ray_connection import last_line
from q2pi.training.actors import Actor, Rows, Weights

WARN_SECONDS = 60.0
"""Seconds without any message after which the cluster may lack CPUs for the actors."""
POLL_SECONDS = 1.0


class RayPool:
    """A `training.actors.Pool` on the cluster that this process is connected to; each actor takes one CPU."""

    def __init__(self) -> None:
        self._actors: dict[int, Any] = {}
        self._requests: dict[Any, int] = {}
        """Open request -> index of its actor."""
        self._newest: tuple[int, Any] = (-1, None)
        self._has_warned = False

    def start(self, table: dict[str, Any], index: int, seed: int) -> None:
        import ray

        self._requests = {request: owner for request, owner in self._requests.items() if owner != index}
        if index in self._actors:
            ray.kill(self._actors[index])
        remote: Any = ray.remote(_RemoteActor)
        path = [entry for entry in sys.path if entry]
        self._actors[index] = remote.options(num_cpus=1, max_restarts=0).remote(path, table, index, seed)

    def publish(self, version: int, weights: Weights) -> None:
        import ray

        self._newest = version, ray.put(weights)

    def request(self, index: int, step: int) -> None:
        version, weights = self._newest
        self._requests[self._actors[index].collect.remote(step, version, weights)] = index

    def receive(self) -> tuple[int, Rows | str]:
        import ray

        start = time.monotonic()
        ready: list[Any] = []
        while not ready:
            ready, _ = ray.wait(self._oldest(), num_returns=1, timeout=POLL_SECONDS)
            if not ready and not self._has_warned and time.monotonic() - start > WARN_SECONDS:
                self._has_warned = True
                needed = f"{len(self._actors)} actors need as many free CPUs"
                print(f"q2pi: no actor has answered for {WARN_SECONDS:.0f} seconds: {needed}", file=sys.stderr)
        index = self._requests.pop(ready[0])
        try:
            rows: Rows = ray.get(ready[0])
        except ray.exceptions.RayTaskError as problem:  # it would repeat in each new actor
            raise problem.cause from problem
        except ray.exceptions.RayError as problem:
            return index, last_line(problem)
        return index, rows

    def _oldest(self) -> list[Any]:
        """Return the oldest open request of each actor: it answers in order, but answers may arrive in another one."""
        oldest: dict[int, Any] = {}
        for request, index in self._requests.items():
            oldest.setdefault(index, request)
        return list(oldest.values())

    @property
    def actors(self) -> dict[int, Any]:
        """The handles of the actors, by index."""
        return dict(self._actors)

    def close(self) -> None:
        import ray

        if ray.is_initialized():
            for actor in self._actors.values():
                ray.kill(actor)
        self._actors, self._requests = {}, {}


class _RemoteActor:
    """An `Actor` in a process of the cluster."""

    def __init__(self, path: list[str], table: dict[str, Any], index: int, seed: int) -> None:
        sys.path += [entry for entry in path if entry not in sys.path]
        self.actor = Actor(table, index, seed)

    def collect(self, step: int, version: int, weights: Weights) -> Rows:
        return self.actor.collect(step, version, weights)

    def pid(self) -> int:
        """Return the process of the actor."""
        import os

        return os.getpid()
