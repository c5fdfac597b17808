"""Runs as jobs: the task of a worker process, and whole runs in worker processes."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_runs import cartpole

from q2pi.config import resolve
from q2pi.errors import UserError
from q2pi.parallel.executor import Job, JobStatus
from q2pi.parallel.local import LocalProcesses
from q2pi.runs.checkpoint import digest
from q2pi.runs.execute import execute, execute_job, run_job
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint
from q2pi.runs.stored_config import is_finished

LONG = {"total_timesteps": 1_000_000, "learning_starts": 900_000, "checkpoint_frequency": 0}


def job(folder: Path, name: str, **options: Any) -> Job:
    return run_job(name, folder / name, resolve(cartpole(**options)))


def digest_of(path: Path) -> str:
    return digest(load_checkpoint(RunFolder(path))[1])


def test_a_failure_is_named_and_the_other_runs_finish(tmp_path: Path) -> None:
    execute(resolve(cartpole(seed=5)), tmp_path / "other")
    execute(resolve(cartpole()), tmp_path / "damaged", stop=lambda: True)
    with RunFolder(tmp_path / "damaged").metrics_file.open("a") as file:
        file.write("no JSON\n")
    jobs = [job(tmp_path, "damaged"), job(tmp_path, "other", seed=6), job(tmp_path, "good")]
    last = {status.job.name: status for status in LocalProcesses(2).run(jobs)}
    states = {name: status.state for name, status in last.items()}
    assert states == {"damaged": "failed", "other": "failed", "good": "finished"}
    assert last["damaged"].reason.startswith("JSONDecodeError: ")
    assert last["damaged"].traceback.startswith("Traceback")
    assert "holds a run of another configuration" in last["other"].reason
    assert last["other"].is_user_error
    assert last["good"].message == {"step": 400, "stopped": False}
    execute(resolve(cartpole()), tmp_path / "here")
    assert digest_of(tmp_path / "good") == digest_of(tmp_path / "here")


def test_a_killed_process_fails_only_its_run(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "killed", **LONG), job(tmp_path, "good")]
    last: dict[str, JobStatus] = {}
    for status in LocalProcesses(1).run(jobs):
        if status.job.name == "killed" and status.state == "running" and status.message.get("step"):
            worker().kill()
        last[status.job.name] = status
    assert (last["killed"].state, last["killed"].reason) == ("failed", "its process was killed by SIGKILL")
    assert last["good"].state == "finished"


def test_a_killed_process_that_is_replaced_continues_from_its_checkpoint(tmp_path: Path) -> None:
    options = {"total_timesteps": 3_000, "checkpoint_frequency": 1_000}
    kills = 0
    for status in LocalProcesses(1).run([dataclasses.replace(job(tmp_path, "run", **options), restarts=1)]):
        if kills == 0 and status.message.get("step"):
            while not any(RunFolder(tmp_path / "run").checkpoints.glob("[0-9]*")):
                time.sleep(0.01)
            worker().kill()
            kills += 1
    assert (kills, status.state) == (1, "finished")
    execute(resolve(cartpole(**options)), tmp_path / "here")
    assert digest_of(tmp_path / "run") == digest_of(tmp_path / "here")


def worker() -> psutil.Process:
    (found,) = [each for each in psutil.Process().children() if "q2pi.parallel.worker" in each.cmdline()]
    return found


def test_stopped_runs_are_saved_and_no_other_starts(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "first", **LONG), job(tmp_path, "second", **LONG)]
    statuses: list[JobStatus] = []
    for status in LocalProcesses(1).run(jobs, stop=lambda: any(status.message.get("step") for status in statuses)):
        statuses.append(status)
    assert {status.job.name for status in statuses} == {"first"}
    assert statuses[-1].state == "stopped"
    assert not (tmp_path / "second").exists()
    assert not is_finished(tmp_path / "first")
    saved = load_checkpoint(RunFolder(tmp_path / "first"))[0]
    assert 0 < saved == statuses[-1].message["step"] < LONG["total_timesteps"]


def test_leaving_the_loop_frees_the_folder(tmp_path: Path) -> None:
    statuses = LocalProcesses(1).run([job(tmp_path, "run", **LONG)])
    assert any(status.message.get("step") for status in statuses)
    statuses.close()  # type: ignore[attr-defined]
    with RunFolder(tmp_path / "run").locked():
        pass


def test_the_task_emits_steps_at_most_twice_a_second_and_names_divergence(tmp_path: Path) -> None:
    messages: list[Any] = []
    start = time.monotonic()
    last = execute_job(job(tmp_path, "run").arguments, messages.append, lambda: False)
    assert last == {"step": 400, "stopped": False}
    assert 1 <= len(messages) <= 1 + (time.monotonic() - start) / 0.5
    assert execute_job(job(tmp_path, "run").arguments, messages.append, lambda: False) == last, "it is finished"
    with pytest.raises(UserError, match=r"^training diverged: "):
        execute_job(job(tmp_path, "wild", learning_rate=1e30).arguments, messages.append, lambda: False)
