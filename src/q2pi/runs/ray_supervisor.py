"""The actor of a job on a node of a Ray cluster; it does not import Ray, which makes an actor of the class.

actor = ray.remote(Supervisor).remote(vars(job), path, marker, token, is_again)
reports = ray.get(actor.reports.remote())
"""

import contextlib
import os
import queue
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from q2pi.errors import UserError
from q2pi.parallel.executor import Job, JobStatus
from q2pi.parallel.local import LocalProcesses
from q2pi.runs.folder import RunFolder
from q2pi.runs.locks import is_held
from q2pi.runs.manifest import steps
from q2pi.runs.ray_connection import first_line
from q2pi.runs.shipping import pack, unpack

POLL_SECONDS = 0.2
REPORT_SECONDS = 5.0
"""Seconds after which a call for reports returns without any."""
LOCK_SECONDS = 60.0
"""Seconds in which the process of a lost node must release its run folder."""

Report = dict[str, Any]
"""The fields of a `JobStatus` without its job, or a folder to copy; `kind` names which."""


class Supervisor:
    """The actor of a job: runs its process on this node and keeps its reports until they are called for."""

    def __init__(self, job: dict[str, Any], path: list[str], marker: str | None, token: str, is_again: bool) -> None:
        sys.path += [entry for entry in path if entry not in sys.path]
        self.job = Job(**job)
        if not self.job.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self.queue: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self.stopping, self.closing = threading.Event(), threading.Event()
        self.folders: queue.SimpleQueue[tuple[bytes | None, bool]] = queue.SimpleQueue()
        self.is_shared = marker is None or _reads(Path(marker), token)
        self.is_again = is_again
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def reports(self) -> list[Report]:
        """Return the reports since the last call; wait for one."""
        found: list[Report] = []
        with contextlib.suppress(queue.Empty):
            found.append(self.queue.get(timeout=REPORT_SECONDS))
            while True:
                found.append(self.queue.get_nowait())
        return found

    def put_folder(self, packed: bytes | None, is_free: bool) -> None:
        """Receive the job's folder, None if it does not exist yet; `is_free` is false if it is in use."""
        self.folders.put((packed, is_free))

    def stop(self) -> None:
        self.stopping.set()

    def close(self) -> None:
        """Kill the job's process."""
        self.closing.set()
        self.thread.join()

    def _run(self) -> None:
        try:
            self._run_in_folder()
        except _Closed:
            pass
        except Exception as problem:
            reason, is_mine = first_line(problem), isinstance(problem, UserError | OSError)
            self._report({"state": "failed", "reason": reason, "is_user_error": is_mine})

    def _run_in_folder(self) -> None:
        job = self.job
        if self.is_shared:
            if job.folder and self.is_again:
                _wait_for_lock(RunFolder(job.arguments[job.folder]))
            self._run_job(job, None)
            return
        self.queue.put({"kind": "wants"})
        packed, is_free = self.folders.get()
        original = Path(job.arguments[job.folder])
        if not is_free:
            raise UserError(f"{original} is in use: another process is training in it")
        parent = Path(tempfile.mkdtemp(prefix="q2pi-"))
        try:
            folder = parent / original.name
            if packed is not None:
                unpack(packed, folder)
            arguments = job.arguments | {job.folder: str(folder)}
            self._run_job(Job(**(vars(job) | {"arguments": arguments})), folder)
        finally:
            shutil.rmtree(parent, ignore_errors=True)

    def _run_job(self, job: Job, folder: Path | None) -> None:
        """Run the job; if it has a folder of its own on this node, report the folder at each checkpoint and the end."""
        newest: list[int] = []
        for status in LocalProcesses(1).run([job], self._should_stop):
            if folder is not None and ((found := steps(folder / "checkpoints")) != newest or _is_final(status)):
                newest = found
                self.queue.put({"kind": "folder", "packed": pack(folder)})
            self._report({name: value for name, value in vars(status).items() if name != "job"})

    def _should_stop(self) -> bool:
        if self.closing.is_set():
            raise _Closed  # the executor of the process kills it when its generator ends
        return self.stopping.is_set()

    def _report(self, report: Report) -> None:
        self.queue.put({"kind": "status"} | report)


class _Closed(Exception):
    """The driver has closed the executor."""


def _is_final(status: JobStatus) -> bool:
    return status.state != "running"


def _reads(marker: Path, token: str) -> bool:
    try:
        return marker.read_text() == token
    except OSError:
        return False


def _wait_for_lock(run: RunFolder) -> None:
    """Wait until the process of a lost node has released the folder: it saves a checkpoint and ends."""
    deadline = time.monotonic() + LOCK_SECONDS
    while is_held(run.lock) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
