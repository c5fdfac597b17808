"""Sweeps and reports from end to end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
from small_runs import CARTPOLE

from q2pi import __main__ as cli
from q2pi.commands.executors import Place
from q2pi.commands.sweep import run
from q2pi.parallel.executor import Job, JobStatus, Stop, never
from q2pi.runs.checkpoint import digest
from q2pi.runs.execute import execute
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint
from q2pi.runs.manifest import steps
from q2pi.runs.sweep import check, read_sweep

FILE = """
algorithms = ["dqn"]
env_ids = ["CartPole-v1"]
seeds = {seeds}
workers = 2
[options]
{options}
"""


def write(file: Path, seeds: int, **options: object) -> Path:
    merged = CARTPOLE | {"evaluation_episodes": 1} | options
    lines = "\n".join(
        f"{name} = {json.dumps(list(value) if isinstance(value, tuple) else value)}"
        for name, value in merged.items()
        if name != "env_id"
    )
    file.write_text(FILE.format(seeds=seeds, options=lines))
    return file


def test_a_sweep_is_listed_done_skipped_and_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, runs, out = write(tmp_path / "small.toml", 2), tmp_path / "runs", tmp_path / "report"
    command = ["sweep", str(file), "--runs", str(runs)]
    assert cli.main([*command, "--explain"]) == 0
    assert "CartPole-v1/dqn/seed-2" in capfd.readouterr().out
    assert not runs.exists()

    assert cli.main(command) == 0
    said = capfd.readouterr()
    assert said.err == ""
    assert "2 runs in" in said.out
    assert "finished  CartPole-v1/dqn/seed-1  mean" in said.out
    assert "done 2 of 2, failed 0" in said.out
    before = digest(load_checkpoint(RunFolder(runs / "CartPole-v1/dqn/seed-1"))[1])

    assert cli.main(command) == 0
    assert "2 of them done" in capfd.readouterr().out
    assert digest(load_checkpoint(RunFolder(runs / "CartPole-v1/dqn/seed-1"))[1]) == before

    assert cli.main(["report", str(runs), "--out", str(out)]) == 0
    assert "CartPole-v1, raw scores" in capfd.readouterr().out
    assert {path.suffix for path in out.iterdir()} == {".html", ".json", ".png"}
    assert cli.main(["report", str(runs), "--out", str(out), "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["environments"]["CartPole-v1"]["methods"]["dqn"]["seeds"] == [1, 2]
    assert json.loads((out / "report.json").read_text()) == report


class InThisProcess:
    """The smallest executor: one job after the other, in this process."""

    def run(self, jobs: Iterable[Job], stop: Stop = never) -> Iterator[JobStatus]:
        for job in jobs:
            module, _, name = job.task.partition(":")
            yield JobStatus(job, "running")
            last = getattr(import_module(module), name)(job.arguments, lambda message: None, stop)
            yield JobStatus(job, "stopped" if last.get("stopped") else "finished", last)


def test_any_executor_can_run_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "small.toml", 2)
    sweep = read_sweep(file, tmp_path / "runs")
    assert run(sweep, tmp_path / "runs", Place(InThisProcess()), check(sweep), never) == 0
    assert sweep.unfinished() == []
    assert "done 2 of 2, failed 0" in capsys.readouterr().out


def test_a_diverged_run_is_named_and_the_status_is_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "wild.toml", 1)
    file.write_text(file.read_text() + "[grid]\nlearning_rate = [1e30, 1e-3]\n")
    assert cli.main(["sweep", str(file), "--runs", str(tmp_path / "runs")]) == 1
    out, err = capfd.readouterr()
    assert "q2pi: CartPole-v1/dqn-learning_rate=1e+30/seed-1 failed: training diverged: " in err
    assert "finished  CartPole-v1/dqn-learning_rate=0.001/seed-1" in out
    assert "done 1 of 2, failed 1" in out


def test_ctrl_c_saves_and_the_same_command_ends_where_an_uninterrupted_run_does(tmp_path: Path) -> None:
    options = {"total_timesteps": 6_000, "checkpoint_frequency": 0}
    file, runs = write(tmp_path / "long.toml", 1, **options), tmp_path / "runs"
    command = [sys.executable, "-m", "q2pi", "sweep", str(file), "--runs", str(runs)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    folder = RunFolder(runs / "CartPole-v1/dqn/seed-1")
    deadline = time.monotonic() + 60
    while not (folder.metrics_file.is_file() and folder.metrics_file.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "the same command continues" in out
    (saved,) = steps(folder.checkpoints)
    assert 0 < saved < 6_000
    assert cli.main(["sweep", str(file), "--runs", str(runs)]) == 0
    (again,) = read_sweep(file, tmp_path / "again").runs
    execute(again.config, again.path)
    assert digest(load_checkpoint(folder)[1]) == digest(load_checkpoint(RunFolder(again.path))[1])


def test_runs_save_and_stop_when_their_parent_is_killed(tmp_path: Path) -> None:
    options = {"total_timesteps": 10_000_000, "learning_starts": 9_000_000, "checkpoint_frequency": 0}
    file, runs = write(tmp_path / "long.toml", 1, **options), tmp_path / "runs"
    command = [sys.executable, "-m", "q2pi", "sweep", str(file), "--runs", str(runs)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    folder = RunFolder(runs / "CartPole-v1/dqn/seed-1")
    deadline = time.monotonic() + 60
    while not folder.metrics_file.is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    while not steps(folder.checkpoints) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert steps(folder.checkpoints), "the run saved a checkpoint and ended"
