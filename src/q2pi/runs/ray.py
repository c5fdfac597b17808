"""Jobs on a Ray cluster: each job has an actor on one of the nodes, which runs it in a process of its own.

    with RayCluster("auto") as cluster:
        for status in cluster.run(jobs, stop):
            ...

Ray places the actors by the CPUs, GPUs and memory of their jobs. An actor runs `parallel.local.LocalProcesses` with one
worker, so a job has the same process, messages and restarts as on this machine. If a node is lost, its jobs start again
on other nodes: a run continues from its newest checkpoint.

A job whose folder is on a path that the nodes share writes into this folder. On a node without the path, the job gets a
copy of the folder; the copy comes back at each new checkpoint and at the end, see `ray_supervisor` and `shipping`.
"""

import contextlib
import dataclasses
import secrets
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from q2pi.parallel.executor import Job, JobStatus, Message, Stop, never
from q2pi.runs.folder import RunFolder
from q2pi.runs.locks import Lock, take
from q2pi.runs.ray_connection import connect, disconnect, last_line
from q2pi.runs.ray_supervisor import Report, Supervisor
from q2pi.runs.shipping import pack, unpack

POLL_SECONDS = 0.2
CLOSE_SECONDS = 5.0
"""Seconds in which an actor must kill its job's process when the executor is closed."""
LOSSES = 5
"""Number of nodes that a job may lose in a row; each message resets the count."""
NODES_SECONDS = 2.0
"""Seconds between two reads of the list of nodes."""


class RayCluster:
    """An `Executor` on a Ray cluster.

    Args:
        address: see `connect`.
        workers: number of jobs that run at a time, 0 as many as the cluster has resources for.
        cpus: number of CPUs of a "local" cluster.
    """

    def __init__(self, address: str, workers: int = 0, cpus: int = 1) -> None:
        connect(address, cpus)
        self.address, self.workers = address, workers
        self._attempts: list[_Attempt] = []
        self._waiting: deque[Job] = deque()
        self._nodes = (float("-inf"), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        disconnect()

    def describe(self) -> str:
        """Return the number of nodes, and of jobs without a node, in words."""
        import ray

        read, nodes = self._nodes
        if time.monotonic() - read > NODES_SECONDS:
            nodes = sum(node["Alive"] for node in ray.nodes())
            self._nodes = (time.monotonic(), nodes)
        pending = len(self._waiting) + sum(not attempt.has_started for attempt in self._attempts)
        words = f"{nodes} node{'' if nodes == 1 else 's'}, {pending} pending"
        too_large = [
            attempt.job.name for attempt in self._attempts if not attempt.has_started and _is_too_large(attempt.job)
        ]
        return words + (f" ({too_large[0]} needs more than any node has)" if too_large else "")

    def run(self, jobs: Iterable[Job], stop: Stop = never) -> Iterator[JobStatus]:
        """Run jobs and yield their statuses; see `Executor.run`."""
        import ray

        self._waiting, self._attempts = deque(jobs), []
        is_stopping = False
        with _SharedPath() as shared:
            try:
                while self._waiting or self._attempts:
                    if stop() and not is_stopping:
                        is_stopping = True
                        self._waiting.clear()
                        self._stop_all()
                    while self._waiting and (not self.workers or len(self._attempts) < self.workers):
                        self._attempts.append(_Attempt(self._waiting.popleft(), shared))
                    by_call = {attempt.call: attempt for attempt in self._attempts}
                    ready, _ = ray.wait(list(by_call), num_returns=len(by_call), timeout=POLL_SECONDS)
                    for call in ready:
                        yield from self._receive(by_call[call], is_stopping)
            finally:
                for attempt in self._attempts:
                    attempt.kill()
                self._attempts = []

    def _stop_all(self) -> None:
        """Stop the jobs that have started; cancel the others without a status."""
        for attempt in list(self._attempts):
            if attempt.has_started:
                attempt.stop()
            else:
                attempt.kill()
                self._attempts.remove(attempt)

    def _receive(self, attempt: "_Attempt", is_stopping: bool) -> Iterator[JobStatus]:
        """Yield the new statuses of a job; replace its actor if the node was lost."""
        try:
            statuses = attempt.receive()
        except _Lost as problem:
            self._attempts.remove(attempt)
            attempt.release()
            if not is_stopping and attempt.losses < LOSSES:
                self._attempts.append(attempt.again())
            elif attempt.has_started or not is_stopping:  # a job that has not started yields no status when stopped
                yield JobStatus(attempt.job, "failed", attempt.message, reason=str(problem))
            return
        for status in statuses:
            if status.state != "running":
                self._attempts.remove(attempt)
                attempt.kill()
            yield status


class _Lost(Exception):
    """The actor of a job died."""


def _is_too_large(job: Job) -> bool:
    """Return whether a job needs more of a resource than any node of the cluster has."""
    import ray

    needs = {"CPU": job.cpus, "GPU": job.gpus, "memory": float(job.memory)}
    totals = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return not any(all(total.get(name, 0.0) >= need for name, need in needs.items()) for total in totals)


class _SharedPath:
    """A marker file beside a job's folder; a node that reads it shares the path."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(8)
        self.markers: set[Path] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for marker in self.markers:
            marker.unlink(missing_ok=True)

    def marker(self, folder: Path) -> Path:
        """Return the marker of a folder, made in the folder's nearest existing parent."""
        nearest = next(parent for parent in folder.absolute().parents if parent.is_dir())
        marker = nearest / f".shared-{self.token}"
        if marker not in self.markers:
            marker.write_text(self.token)
            self.markers.add(marker)
        return marker


@dataclass
class _Attempt:
    """The driver's handle of the actor that runs a job."""

    job: Job
    shared: _SharedPath
    message: Message = field(default_factory=dict)
    """Last message of the job."""
    losses: int = 0
    """Number of nodes that were lost in a row."""
    is_first: bool = True
    has_started: bool = False
    lock: Lock | None = None
    """Lock of a folder that is shipped, so that nobody trains in it here."""

    def __post_init__(self) -> None:
        import ray

        job = self.job
        folder, marker = self.folder, None
        if folder is not None:
            marker = str(self.shared.marker(folder))
        remote: Any = ray.remote(Supervisor)
        if folder is not None:  # an actor has another working folder
            job = dataclasses.replace(job, arguments=job.arguments | {job.folder: str(folder.absolute())})
        actor = remote.options(
            num_cpus=job.cpus, num_gpus=job.gpus, memory=job.memory or None, max_concurrency=4, max_restarts=0
        )
        path = [entry for entry in sys.path if entry]
        self.actor: Any = actor.remote(vars(job), path, marker, self.shared.token, not self.is_first)
        self.call: Any = self.actor.reports.remote()

    @property
    def folder(self) -> Path | None:
        """The folder that the job writes, if it names one."""
        return Path(self.job.arguments[self.job.folder]) if self.job.folder else None

    def again(self) -> "_Attempt":
        """Return a new attempt after a loss."""
        return _Attempt(self.job, self.shared, self.message, self.losses + 1, is_first=False)

    def receive(self) -> list[JobStatus]:
        """Return the statuses that have arrived, and call for the next reports.

        Raises:
            _Lost: the actor or its node died.
        """
        import ray

        try:
            reports: list[Report] = ray.get(self.call)
        except ray.exceptions.RayError as problem:
            times = f", {self.losses + 1} times in a row" if self.losses else ""
            reason = "its node was lost" if self.has_started else f"it did not start: {last_line(problem)}"
            raise _Lost(f"{reason}{times}") from problem
        self.has_started = True
        statuses = [status for report in reports if (status := self._status(report))]
        if not statuses or statuses[-1].state == "running":
            self.call = self.actor.reports.remote()
        return statuses

    def _status(self, report: Report) -> JobStatus | None:
        match report.pop("kind"):
            case "wants":
                self._send_folder()
                return None
            case "folder":
                assert self.folder is not None
                unpack(report["packed"], self.folder)
                return None
        if not report.get("message"):
            if self.message and report["state"] == "running":
                return None  # the job has started again
            report["message"] = self.message
        status = JobStatus(self.job, **report)
        if status.message != self.message:
            self.losses = 0
        self.message = status.message
        return status

    def _send_folder(self) -> None:
        """Send the folder to a node that does not share its path."""
        folder = self.folder
        assert folder is not None
        existed = folder.is_dir()
        self.lock = take(RunFolder(folder).lock)
        self.actor.put_folder.remote(pack(folder) if existed else None, self.lock is not None)

    def stop(self) -> None:
        self.actor.stop.remote()

    def release(self) -> None:
        if self.lock is not None:
            self.lock.close()
            self.lock = None

    def kill(self) -> None:
        """Kill the job's process, then its actor."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            if self.has_started:
                ray.get(self.actor.close.remote(), timeout=CLOSE_SECONDS)
        ray.kill(self.actor)
        self.release()
