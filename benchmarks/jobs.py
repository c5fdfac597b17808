"""Running the jobs of a benchmark in processes side by side."""

from collections.abc import Iterable

from q2pi.parallel.executor import Job
from q2pi.parallel.local import LocalProcesses


def run_all(jobs: Iterable[Job], workers: int) -> None:
    """Run jobs and print each that finishes; exit with status 1 at the first that fails."""
    for status in LocalProcesses(workers).run(jobs):
        if status.state == "failed":
            raise SystemExit(f"{status.job.name} failed: {status.reason}\n{status.traceback}")
        if status.state == "finished":
            print(f"{status.job.name}: {status.message}", flush=True)
