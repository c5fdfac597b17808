"""Runs in processes of their own: done, failing in every way, stopped and continued."""

from pathlib import Path
from typing import Any

import psutil
from small_runs import cartpole

from q2pi.runs.checkpoint import digest
from q2pi.runs.execute import execute, is_finished
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint
from q2pi.runs.pool import Job, JobStatus, run_jobs

LONG = {"total_timesteps": 1_000_000, "learning_starts": 900_000, "checkpoint_frequency": 0}


def job(folder: Path, name: str, **options: Any) -> Job:
    return Job(name, folder / name, cartpole(**options))


def last_news(news: list[JobStatus]) -> dict[str, JobStatus]:
    """The last news of each job, which alone may not be "running"."""
    last = {item.job.name: item for item in news}
    assert all(item.state == "running" or item is last[item.job.name] for item in news)
    return last


def test_what_fails_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    list(execute(cartpole(seed=5), tmp_path / "other"))
    list(execute(cartpole(), tmp_path / "damaged", stop=lambda: True))
    with RunFolder(tmp_path / "damaged").metrics_file.open("a") as file:
        file.write("no JSON\n")
    jobs = [job(tmp_path, "damaged"), job(tmp_path, "other", seed=6), job(tmp_path, "good")]
    last = last_news(list(run_jobs(jobs, workers=2)))
    states = {name: news.state for name, news in last.items()}
    assert states == {"damaged": "failed", "other": "failed", "good": "finished"}
    assert last["damaged"].reason.startswith("JSONDecodeError: ")
    assert last["damaged"].trace.startswith("Traceback")
    assert "holds a run of another configuration" in last["other"].reason
    assert last["other"].trace == ""
    assert last["good"].step == 400
    list(execute(cartpole(), tmp_path / "here"))
    assert digest_of(tmp_path / "good") == digest_of(tmp_path / "here")


def test_a_killed_process_is_news_of_its_run_alone(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "killed", **LONG), job(tmp_path, "good")]
    news = []
    for item in run_jobs(jobs, workers=1):
        if item.job.name == "killed" and item.step > 0 and item.state == "running":
            (child,) = [each for each in psutil.Process().children() if "q2pi.runs.pool" in each.cmdline()]
            child.kill()
        news.append(item)
    last = last_news(news)
    assert (last["killed"].state, last["killed"].reason) == ("failed", "its process was killed by SIGKILL")
    assert last["good"].state == "finished"


def test_runs_in_flight_are_saved_and_continue_and_no_other_begins(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "first", **LONG), job(tmp_path, "second", **LONG)]
    news: list[JobStatus] = []
    for item in run_jobs(jobs, workers=1, stop=lambda: any(item.step > 0 for item in news)):
        news.append(item)
    assert set(last_news(news)) == {"first"}
    assert news[-1].state == "stopped"
    assert not (tmp_path / "second").exists()
    assert not is_finished(tmp_path / "first")
    saved = load_checkpoint(RunFolder(tmp_path / "first"))[0]
    assert 0 < saved == news[-1].step < LONG["total_timesteps"]


def test_leaving_the_loop_ends_the_processes(tmp_path: Path) -> None:
    events = run_jobs([job(tmp_path, "run", **LONG)], workers=1)
    assert any(item.step > 0 for item in events)
    events.close()  # type: ignore[attr-defined]
    with RunFolder(tmp_path / "run").locked():
        pass


def digest_of(path: Path) -> str:
    return digest(load_checkpoint(RunFolder(path))[1])
