"""Jobs in processes: finished, failing in every way, killed and replaced, stopped, and not orphaned."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest

from q2pi.parallel import local
from q2pi.parallel.executor import Job, JobStatus
from q2pi.parallel.local import LocalProcesses


def job(task: str, folder: Path, name: str = "", **options: Any) -> Job:
    return Job(name or task, f"tasks:{task}", {"folder": str(folder)}, **options)


def ends(statuses: list[JobStatus]) -> dict[str, JobStatus]:
    """Return the last status of each job, which alone may not be "running"."""
    last = {status.job.name: status for status in statuses}
    assert all((status.state == "running") == (status is not last[status.job.name]) for status in statuses)
    return last


def end(job: Job) -> JobStatus:
    return ends(list(LocalProcesses(1).run([job])))[job.name]


def test_a_job_begins_emits_and_finishes() -> None:
    statuses = list(LocalProcesses(1).run([Job("one", "tasks:echo", {"value": "text\nof two lines"}, threads=3)]))
    assert [(status.state, status.message) for status in statuses] == [
        ("running", {}),
        ("running", {"half": "text\nof two lines"}),
        ("finished", {"value": "text\nof two lines", "threads": "3"}),
    ]


def test_threads_0_leaves_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert end(Job("one", "tasks:echo", {"value": 1})).message["threads"] == "5"


def test_a_failure_is_named_and_the_other_jobs_finish(tmp_path: Path) -> None:
    names = ["mistake", "full", "defect", "missing", "echo"]
    jobs = [Job(name, f"tasks:{name}", {"value": 1}) for name in names]
    last = ends(list(LocalProcesses(2).run(jobs)))
    assert {name: status.state for name, status in last.items()} == dict.fromkeys(names[:4], "failed") | {
        "echo": "finished"
    }
    assert (last["mistake"].reason, last["mistake"].message) == ("--top is too much", {"step": 3})
    assert last["full"].reason == "no space left on device (file)"
    assert last["defect"].reason == "ValueError: a defect"
    assert last["defect"].traceback.startswith("Traceback")
    assert last["missing"].reason.startswith("AttributeError: ")
    assert {name for name, status in last.items() if status.is_user_error} == {"mistake", "full"}
    assert not last["mistake"].traceback


def test_a_killed_process_fails_only_its_job_with_its_stderr(tmp_path: Path) -> None:
    last = ends(list(LocalProcesses(1).run([job("die", tmp_path), job("leave", tmp_path), job("die_once", tmp_path)])))
    assert (last["die"].state, last["die"].reason) == ("failed", "its process was killed by SIGKILL")
    assert last["die"].traceback == "last words\n"
    assert not last["die"].is_user_error
    assert last["leave"].reason == "its process ended with status 7"
    assert (last["die_once"].state, last["die_once"].message) == ("failed", {"state": "started"})


def test_a_killed_process_is_replaced(tmp_path: Path) -> None:
    statuses = list(LocalProcesses(1).run([job("die_once", tmp_path, restarts=1)]))
    assert ends(statuses)["die_once"].state == "finished"
    assert [status.message.get("state") for status in statuses] == [None, "started", "started", "done"]


def test_the_number_of_restarts_is_limited(tmp_path: Path) -> None:
    last = end(job("die", tmp_path, restarts=3))
    assert (last.state, last.reason) == ("failed", "its process was killed by SIGKILL, 4 times in a row")
    assert len(list(tmp_path.iterdir())) == 4


def test_a_message_resets_the_count_of_restarts(tmp_path: Path) -> None:
    last = end(job("die_early_twice_in_each_half", tmp_path, restarts=2))
    assert (last.state, last.message) == ("finished", {"processes": 5})


def test_a_process_that_does_not_read_its_job_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is larger than a pipe's buffer, so the parent is still writing when the process ends."""
    monkeypatch.setattr(local.sys, "executable", "/bin/false")
    last = end(Job("one", "tasks:echo", {"value": "x" * 1_000_000}))
    assert (last.state, last.reason) == ("failed", "its process ended with status 1")


def test_stopped_jobs_save_and_no_other_starts(tmp_path: Path) -> None:
    jobs = [job("wait", tmp_path, "first"), job("wait", tmp_path, "second"), job("wait", tmp_path, "third")]
    statuses: list[JobStatus] = []
    for status in LocalProcesses(2).run(
        jobs, stop=lambda: sum("started" in status.message for status in statuses) == 2
    ):
        statuses.append(status)
    last = ends(statuses)
    assert {name: status.state for name, status in last.items()} == {"first": "stopped", "second": "stopped"}
    assert last["first"].message == {"stopped": True, "saved": True}
    assert len(list(tmp_path.glob("stopped-*"))) == 2


def test_a_process_that_dies_while_stopping_is_not_replaced(tmp_path: Path) -> None:
    statuses: list[JobStatus] = []
    jobs = [job("die_when_stopped", tmp_path, restarts=9)]
    for status in LocalProcesses(1).run(jobs, stop=lambda: any(status.message for status in statuses)):
        statuses.append(status)
    assert ends(statuses)["die_when_stopped"].state == "failed"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_job_that_is_killed_on_stop_is_stopped(tmp_path: Path) -> None:
    statuses: list[JobStatus] = []
    jobs = [job("wait_forever", tmp_path, on_stop="kill")]
    for status in LocalProcesses(1).run(jobs, stop=lambda: any("started" in status.message for status in statuses)):
        statuses.append(status)
    last = ends(statuses)["wait_forever"]
    assert (last.state, last.reason) == ("stopped", "")
    assert not psutil.pid_exists(last.message["started"])


def test_leaving_the_loop_kills_the_processes(tmp_path: Path) -> None:
    statuses = LocalProcesses(1).run([job("wait", tmp_path)])
    (pid,) = (status.message["started"] for status in first_message(statuses))
    statuses.close()  # type: ignore[attr-defined]
    assert not psutil.pid_exists(pid)
    assert not list(tmp_path.glob("stopped-*")), "killed, not asked to save"


def first_message(statuses: Iterator[JobStatus]) -> list[JobStatus]:
    return [next(status for status in statuses if status.message)]


def test_a_signal_to_the_worker_asks_it_to_save(tmp_path: Path) -> None:
    statuses = LocalProcesses(1).run([job("wait", tmp_path)])
    os.kill(first_message(statuses)[0].message["started"], signal.SIGTERM)
    assert [status.state for status in statuses] == ["stopped"]


@pytest.mark.parametrize(("task", "on_stop"), [("wait", "save"), ("wait_forever", "kill")])
def test_workers_do_not_outlive_a_killed_parent(task: str, on_stop: Literal["save", "kill"], tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.append({str(Path(__file__).parent)!r})\n"
        "from q2pi.parallel.executor import Job; from q2pi.parallel.local import LocalProcesses\n"
        f"job = Job('one', 'tasks:{task}', {{'folder': {str(tmp_path)!r}}}, on_stop={on_stop!r})\n"
        "list(LocalProcesses(2).run([job, job]))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: len(list(tmp_path.glob("started-*"))) == 2)
    parent.kill()
    parent.wait()
    pids = [int(file.name.removeprefix("started-")) for file in tmp_path.glob("started-*")]
    until(lambda: not any(is_running(pid) for pid in pids))
    assert len(list(tmp_path.glob("stopped-*"))) == (2 if on_stop == "save" else 0)


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
