"""Jobs in processes on this machine."""

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from q2pi.parallel.executor import Job, JobStatus, Message, Stop, never
from q2pi.parallel.portable import ending, own_group

POLL_SECONDS = 0.2
STDERR_CHARACTERS = 4_000
"""Number of last characters of standard error in the status of a dead process."""


class LocalProcesses:
    """An `Executor` that starts a process for each job, up to `workers` at a time."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, jobs: Iterable[Job], stop: Stop = never) -> Iterator[JobStatus]:
        """Run jobs and yield their statuses; see `Executor.run`."""
        waiting, running = deque(jobs), set["_Process"]()
        reports: _Reports = queue.SimpleQueue()
        try:
            while running or waiting:
                if stop():
                    waiting.clear()
                    for process in running:
                        process.stop()
                while waiting and len(running) < self.workers:
                    job = waiting.popleft()
                    running.add(_Process(job, reports))
                    yield JobStatus(job, "running")
                try:
                    process, status = reports.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    continue
                if status.state != "running":
                    running.remove(process)
                    if process.should_restart:
                        running.add(_Process(process.job, reports, status.message, process.deaths + 1))
                        continue
                yield status
        finally:
            for process in running:
                process.kill()


class _Process:
    """The parent's handle of one worker process."""

    def __init__(self, job: Job, reports: "_Reports", message: Message | None = None, deaths: int = 0) -> None:
        """Start the process.

        Args:
            job: the job to run.
            reports: queue that a thread fills with the job's statuses.
            message: last message of the process that this process replaces.
            deaths: number of processes of this job that died since its last message.
        """
        self.job, self.reports, self.message, self.deaths = job, reports, message or {}, deaths
        self.has_died = self.is_stopping = False
        self.errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        threads = {"OMP_NUM_THREADS": str(job.threads)} if job.threads else {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "q2pi.parallel.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=os.environ | threads,
            **own_group(),  # Ctrl-C at the terminal must reach the parent alone, which asks jobs to stop
        )
        # path: a task in the folder of the user's script is not importable from the worker's own sys.path
        self._send({"task": job.task, "arguments": job.arguments, "on_stop": job.on_stop, "path": sys.path})
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def should_restart(self) -> bool:
        """Whether the process died and the job has restarts left."""
        return self.has_died and not self.is_stopping and self.deaths < self.job.restarts

    def stop(self) -> None:
        """Ask the task to stop, or kill the process, as the job says."""
        assert self.process.stdin is not None
        self.is_stopping = True
        if self.job.on_stop == "kill":
            self.process.kill()
        elif not self.process.stdin.closed:
            self.process.stdin.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _send(self, job: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # the process ended before it read its job: `_read` reports why
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()  # else closing it in `_read` raises again, and the job never ends

    def _read(self) -> None:
        """Put a status into the queue for each line of the process, and a final status when it ends."""
        assert self.process.stdout is not None
        status = JobStatus(self.job, "running", self.message)
        with self.process, self.errors:
            for line in self.process.stdout:
                report = {"message": status.message} | json.loads(line)
                status = JobStatus(self.job, **report)
                if status.state == "running":
                    self.deaths = 0
                    self.reports.put((self, status))
            code = self.process.wait()
            if status.state == "running":
                status = self._death_status(code, status)
        self.reports.put((self, status))

    def _death_status(self, code: int, last: JobStatus) -> JobStatus:
        """Return the final status of a process that ended without sending one."""
        if self.is_stopping and self.job.on_stop == "kill":
            return dataclasses.replace(last, state="stopped")
        self.has_died = True
        times = f", {self.deaths + 1} times in a row" if self.deaths else ""
        self.errors.seek(0)
        stderr_tail = self.errors.read()[-STDERR_CHARACTERS:]
        return dataclasses.replace(
            last, state="failed", reason=f"its process {ending(code)}{times}", traceback=stderr_tail
        )


_Reports = queue.SimpleQueue[tuple[_Process, JobStatus]]
