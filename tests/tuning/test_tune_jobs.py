"""A group of jobs that stops at the first failure, and a search whose workers are killed."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import pytest
from small_studies import begun, check_ended_once, endings, plan

from q2pi.parallel.executor import Job, JobStatus, Stop, never
from q2pi.parallel.local import LocalProcesses
from q2pi.tuning.jobs import Outcome, run_all
from q2pi.tuning.search import Progress, search

JOBS = [Job(name, "", {}) for name in ("a", "b", "c")]


class Scripted:
    """An executor whose jobs end with given statuses, one after the other."""

    def __init__(self, *ends: JobStatus) -> None:
        self.ends, self.started = ends, list[str]()

    def run(self, jobs: Iterable[Job], stop: Stop = never) -> Iterator[JobStatus]:
        for job, end in zip(jobs, self.ends, strict=True):
            if stop():
                return
            self.started.append(job.name)
            yield JobStatus(job, "running")
            yield end


FINE = JobStatus(JOBS[0], "finished")


def test_all_finish() -> None:
    executor = Scripted(FINE, FINE, FINE)
    assert run_all(JOBS, executor, never, lambda status: None) == Outcome("done")
    assert executor.started == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (JobStatus(JOBS[1], "failed", reason="disk full", is_user_error=True), Outcome("failed", "disk full", 2)),
        (JobStatus(JOBS[1], "failed", reason="killed", traceback="trace\n"), Outcome("failed", "killed", 1)),
    ],
)
def test_the_first_failure_stops_the_others(
    end: JobStatus, outcome: Outcome, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = Scripted(FINE, end, FINE)
    assert run_all(JOBS, executor, never, lambda status: None) == outcome
    assert executor.started == ["a", "b"]
    assert capsys.readouterr().err == end.traceback


def test_a_reason_from_on_status_is_a_failure() -> None:
    executor = Scripted(FINE, FINE, FINE)
    seen: list[JobStatus] = []

    def enough(status: JobStatus) -> str | None:
        seen.append(status)
        return "enough" if len(seen) == 3 else None

    assert run_all(JOBS, executor, never, enough) == Outcome("failed", "enough", 1)
    assert executor.started == ["a", "b"]


def test_a_stop_is_not_a_failure() -> None:
    executor = Scripted(FINE, FINE, FINE)
    assert run_all(JOBS, executor, lambda: bool(executor.started), lambda status: None) == Outcome("stopped", "", 130)
    assert executor.started == ["a"]


def test_three_failed_trials_in_a_row_end_the_search(tmp_path: Path) -> None:
    _, study = begun(tmp_path / "study", plan())
    progress = Progress(study, 9)

    def show(state: str) -> str | None:
        message = {"trial": 1, "state": state, "values": [], "note": "a defect"}
        return progress.show(JobStatus(JOBS[0], "running", message))

    states = ["failed", "failed", "pruned", "failed", "failed", "failed"]
    assert [show(state) for state in states] == [None] * 5 + ["3 trials in a row failed, the last with a defect"]


def test_a_search_prints_progress_while_no_trial_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("q2pi.tuning.search.time.monotonic", lambda: now)
    progress = Progress(begun(tmp_path / "study", plan())[1], 9)
    for now in (10.0, 29.0, 31.0, 32.0):
        progress.show(JobStatus(JOBS[0], "running", {"step": int(now)}))
    assert capsys.readouterr().out.count("trials 0 done") == 1


def test_killed_workers_are_replaced_and_the_search_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = plan({"total_timesteps": 600, "evaluation_frequency": 200})
    folder, study = begun(tmp_path / "study", made)

    class Killing(LocalProcesses):
        kills = 0

        def run(self, jobs: Iterable[Job], stop: Stop = never) -> Iterator[JobStatus]:
            for status in super().run(jobs, stop):
                if self.kills < 3 and "step" in status.message:
                    children = psutil.Process().children()
                    (worker,) = [child for child in children if "q2pi.parallel.worker" in child.cmdline()]
                    worker.kill()
                    self.kills += 1
                yield status

    executor = Killing(1)
    outcome = search(folder, made, None, wanted=3, workers=1, executor=executor, stop=never)
    assert outcome == Outcome("done")
    assert executor.kills == 3
    assert "continues from its checkpoints" in capsys.readouterr().out
    check_ended_once(folder, made, study, wanted=3)
    assert endings(folder.journal) == dict.fromkeys(range(3), 1)
