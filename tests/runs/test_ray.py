"""--ray without a cluster: addresses that do not answer, Ray that is not installed, and what each command requires."""

import importlib.util
import socket
import sys
import time
from pathlib import Path

import pytest
from small_runs import cartpole

from q2pi.__main__ import main
from q2pi.commands.executors import check_actors, executor_for, is_elsewhere
from q2pi.config import resolve
from q2pi.errors import UserError
from q2pi.parallel.executor import Job
from q2pi.parallel.local import LocalProcesses
from q2pi.runs.execute import run_job
from q2pi.runs.sweep import check, read_sweep

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: q2pi[ray]")
SWEEP = """
algorithms = ["dqn"]
env_ids = ["CartPole-v1"]
seeds = 2
[options]
device = "cpu"
total_timesteps = 400
learning_starts = 64
buffer_size = 1_000
evaluation_episodes = 0
"""


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    file = tmp_path / "sweep.toml"
    file.write_text(SWEEP)
    return file


def sweep(file: Path, address: str) -> list[str]:
    return ["sweep", str(file), "--runs", str(file.with_suffix("")), "--ray", address]


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1", "ray://127.0.0.1:port", ":80"])
@needs_ray
def test_an_address_that_is_none_is_named(sweep_file: Path, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(sweep(sweep_file, address)) == 2
    assert capsys.readouterr().err == (f"q2pi: --ray {address}: it must be local, auto, HOST:PORT or ray://HOST:PORT\n")


@pytest.mark.parametrize("scheme", ["", "ray://"])
@needs_ray
def test_an_address_that_does_not_answer_is_one_line(
    sweep_file: Path, scheme: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # without `listen` a connection is refused
        address = f"{scheme}127.0.0.1:{closed.getsockname()[1]}"
        start = time.monotonic()
        with (
            pytest.raises(UserError, match=f"--ray {address} does not answer: connection refused"),
            executor_for(address, 1),
        ):
            pass
        assert time.monotonic() - start < 10
        assert main(sweep(sweep_file, address)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not sweep_file.with_suffix("").exists(), "nothing is written"


def test_without_the_extra_one_line_says_how_to_install_it(
    sweep_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(sweep(sweep_file, "local")) == 2
    assert capsys.readouterr().err == "q2pi: --ray needs Ray: pip install 'q2pi[ray]'\n"


def test_without_ray_jobs_are_processes_of_this_machine() -> None:
    with executor_for(None, 3) as place:
        assert isinstance(place.executor, LocalProcesses)
        assert (place.executor.workers, place.describe()) == (3, "")
    assert [is_elsewhere(address) for address in (None, "local", "auto", "h:1", "ray://h:1")] == [
        *(False, False),
        *(True, True, True),
    ]


def test_a_single_run_needs_both_actors_and_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="--actors 2 needs a cluster: name it with --ray, or --ray local"):
        check_actors(resolve(cartpole(actors=2)), None)
    with pytest.raises(UserError, match="--ray auto: a single run uses a cluster for its actors alone: set --actors"):
        check_actors(resolve(cartpole()), "auto")
    check_actors(resolve(cartpole()), None)
    check_actors(resolve(cartpole(actors=2)), "auto")
    assert main(["train", "dqn", "--env-id", "CartPole-v1", "--ray", "auto"]) == 2
    assert "set --actors" in capsys.readouterr().err


def test_runs_of_sweeps_and_trials_have_no_actors(
    sweep_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep_file.write_text(SWEEP + "actors = 2\n")
    with pytest.raises(UserError, match="CartPole-v1/dqn/seed-1: actors = 2: a run of a sweep has no actors"):
        check(read_sweep(sweep_file, tmp_path / "runs"))
    assert main(["tune", "dqn", "--env-id", "CartPole-v1", "--study", str(tmp_path / "study"), "--actors", "2"]) == 2
    assert capsys.readouterr().err == "q2pi: --actors 2: a trial has no actors; it must be 0\n"


def test_a_job_declares_what_it_needs(tmp_path: Path, sweep_file: Path) -> None:
    config = resolve(cartpole(threads=2))
    job = run_job("one", tmp_path / "run", config)
    assert (job.cpus, job.gpus, job.folder) == (2, 0, "path")
    assert job.arguments[job.folder] == str(tmp_path / "run")
    memory = check(read_sweep(sweep_file, tmp_path / "runs"))
    assert set(memory) == {"CartPole-v1/dqn/seed-1", "CartPole-v1/dqn/seed-2"}
    assert min(memory.values()) > 50e6, "the process itself, with torch"


def test_memory_of_this_machine_bounds_only_its_own_runs(tmp_path: Path, sweep_file: Path) -> None:
    """A buffer of 100 TB fits on no machine here; on a cluster, Ray finds a node with the memory or none."""
    sweep_file.write_text(SWEEP.replace("1_000", "1_000_000_000_000").replace("400", "2_000_000_000_000"))
    made = read_sweep(sweep_file, tmp_path / "runs")
    with pytest.raises(UserError, match="of free memory"):
        check(made)
    assert min(check(made, is_elsewhere=True).values()) > 1e12


def test_the_default_of_a_job_reserves_one_cpu() -> None:
    job = Job("one", "tasks:echo", {})
    assert (job.cpus, job.gpus, job.memory, job.folder) == (1, 0, 0, "")
