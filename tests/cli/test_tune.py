"""q2pi tune from the command line: a small study, its continuation, and mistakes of users."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_runs import flags
from small_studies import TINY

from q2pi import __main__ as cli
from q2pi.runs.folder import RunFolder
from q2pi.training.presets import configure

SMALL = flags({name: value for name, value in TINY.items() if name not in ("env_id", "device", "threads")})
TUNE = ["tune", "reinforce", "--env-id", "CartPole-v1", *SMALL, "--seeds", "1", "--device", "cpu"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three trials, whose best trial was trained on two held-out seeds."""
    path = tmp_path_factory.mktemp("tune") / "study"
    final = ["--top", "1", "--held-out-seeds", "2", "--final-episodes", "2", "--export", str(path.parent / "best.toml")]
    assert cli.main([*TUNE, "--study", str(path), "--trials", "3", *final]) == 0
    return path


def test_a_study_ends_in_a_report_and_a_preset(study: Path) -> None:
    assert (study / "report/report.html").is_file()
    assert (study / "report/result.json").is_file()
    assert sorted(path.name for path in (study / "trials").iterdir()) == ["0000", "0001", "0002"]
    run = RunFolder.open(study / "trials/0001/seed-1")
    assert [row["step"] for row in run.rows("evaluation")] == [100, 200, 300]
    assert len(list((study / "final").glob("*/seed-*/final_evaluation.json"))) == 4
    config, _ = configure("reinforce", preset=str(study.parent / "best.toml"))
    assert config.env.env_id == "CartPole-v1"


def test_the_same_command_with_more_trials_continues(study: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = contents(study / "trials")
    assert cli.main([*TUNE, "--study", str(study), "--trials", "4", "--top", "0"]) == 0
    after = contents(study / "trials")
    assert {name: after[name] for name in before} == before, "finished runs are not trained again"
    assert (study / "trials/0003/seed-1/config.toml").is_file()
    out = capfd.readouterr().out
    assert "trials 3 done, 0 running, 0 pruned, 0 failed, of 4" in out
    assert "trials 4 done, 0 running, 0 pruned, 0 failed, of 4" in out


@pytest.fixture
def line_of(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs a wrong command and returns its error line."""

    def run(*arguments: str, untouched: Path = tmp_path) -> str:
        before = contents(untouched)
        capfd.readouterr()
        assert cli.main(list(arguments)) == 2
        out, err = capfd.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert contents(untouched) == before, "files on disk changed"
        return str(line.removeprefix("q2pi: "))

    return run


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["--sampler", "tpee"], ["--sampler", "tpee"]),
        (["--pruner", "mediam"], ["--pruner", "mediam"]),
        (["--objective", "max"], ["--objective", "max"]),
        (["--trials", "0"], ["--trials 0", "at least 1"]),
        (["--workers", "0"], ["--workers 0", "at least 1"]),
        (["--workers", "4000", "--trials", "4000"], ["--workers 4000 needs up to", "of free memory"]),
        (["--seeds", "2000"], ["--seeds 2000", "at most 1000"]),
        (["--gamma", "1.5"], ["--gamma 1.5", "[0, 1]"]),
        (["--fix", "gamma=1.5"], ["--fix gamma=1.5", "--gamma 1.5", "[0, 1]"]),
        (["--fix", "gama=0.9"], ["'gama'", "did you mean 'gamma'?"]),
        (["--space", "nowhere.toml"], ["--space nowhere.toml", "no such file"]),
        (["--storage", "nonsense"], ["--storage is not a database URL"]),
        (["--storage", "oracel://host/name"], ["--storage", "oracel"]),
        (["--export", "best.json"], ["--export best.json", ".toml"]),
        (["--preset", "nowhere.toml"], ["--preset nowhere.toml"]),
        (["--sampler", "nsga2", "--pruner", "median"], ["--pruner median", "nsga2"]),
        (["--dashboard"], ["is not a study"]),
        (["--env-id", "Taxi-v33"], ["--env-id Taxi-v33"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes(arguments: list[str], fragments: list[str], line_of: Callable[..., str], tmp_path: Path) -> None:
    line = line_of(*TUNE, "--study", str(tmp_path / "new"), *arguments)
    for fragment in fragments:
        assert fragment in line


def test_a_preset_for_another_algorithm(line_of: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "dqn.toml").write_text('algorithm = "dqn"\n')
    line = line_of(*TUNE, "--study", str(tmp_path / "new"), "--preset", str(tmp_path / "dqn.toml"))
    assert "is for dqn, not for reinforce" in line


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["--fix", "gamma=0.9"], "fixed.gamma"),
        (["--total-timesteps", "400"], "base.total_timesteps"),
        (["--objective", "iqm"], "objective"),
        (["--seeds", "2"], "seeds"),
        (["--storage", "sqlite:///other.db"], "storage"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_another_plan_than_the_study_has(
    arguments: list[str], key: str, study: Path, line_of: Callable[..., str]
) -> None:
    line = line_of(*TUNE, "--study", str(study), "--trials", "9", *arguments, untouched=study)
    assert f"{study} is a study with {key} = " in line


def test_another_space_than_the_study_has(study: Path, line_of: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text("learning_rate = [1e-3, 1e-2]")
    line = line_of(*TUNE, "--study", str(study), "--space", str(tmp_path / "space.toml"), untouched=study)
    assert "is a study with space.learning_rate." in line


def test_a_folder_that_is_not_a_study(line_of: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert f"--study {tmp_path} exists and is not a study" in line_of(*TUNE, "--study", str(tmp_path))


def test_a_database_that_refuses_the_connection(line_of: Callable[..., str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"postgresql://someone:secret@127.0.0.1:{port}/name"
    line = line_of(*TUNE, "--study", str(tmp_path / "new"), "--storage", url)
    assert "cannot be used" in line
    assert "refused" in line
    assert "secret" not in line


def test_a_database_that_never_answers(line_of: Callable[..., str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/name"
        began = time.monotonic()
        assert "cannot be used" in line_of(*TUNE, "--study", str(tmp_path / "new"), "--storage", url)
    assert time.monotonic() - began < 10


def test_without_optuna_one_line(line_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert line_of(*TUNE, "--study", str(tmp_path / "new")) == "q2pi tune needs Optuna: pip install 'q2pi[tune]'"


def test_without_the_dashboard_one_line(
    study: Path, line_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    line = line_of(*TUNE, "--study", str(study), "--dashboard", untouched=study)
    assert line == "--dashboard needs optuna-dashboard: pip install 'q2pi[dashboard]'"


def test_the_dashboard_needs_no_other_option(
    study: Path, line_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Any] = []
    fake = SimpleNamespace(run_server=lambda storage, host, port: served.append((storage, host, port)))
    monkeypatch.setitem(sys.modules, "optuna_dashboard", fake)
    show = ["tune", "reinforce", "--env-id", "CartPole-v1", "--study", str(study), "--dashboard"]
    assert cli.main(show) == 0
    [(storage, host, port)] = served
    assert len(storage.get_all_studies()) == 1
    assert (host, port) == ("127.0.0.1", 8080)
    line = line_of(*show, "--storage", "sqlite:///elsewhere.db", untouched=study)
    assert line == f"--dashboard: the trials of {study} are in journal; name it with --storage"


def test_ctrl_c_stops_all_and_the_command_continues(tmp_path: Path) -> None:
    """The signal goes to the whole process group, as from a terminal."""
    long = [*TUNE, "--total-timesteps", "2000", "--evaluation-frequency", "500", "--study", str(tmp_path / "study")]
    long += ["--checkpoint-frequency", "200"]
    command = [sys.executable, "-m", "q2pi", *long, "--trials", "1", "--top", "0", "--workers", "1"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: any((tmp_path / "study").glob("trials/*/seed-1/checkpoints/[0-9]*")))
    os.killpg(first.pid, signal.SIGINT)
    out, err = first.communicate(timeout=60)
    assert first.returncode == 130
    assert err == "\nsaving checkpoints (once more to stop at once) ...\n"
    assert "the same command continues it" in out
    again = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0
    assert "trial 0 continues from its checkpoints" in again.stdout
    assert "trials 1 done" in again.stdout


def test_three_errors_in_a_row_end_the_study_with_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A defect in every trial: the workers cannot import the game."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Broken:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'gymnasium.envs.classic_control.cartpole': raise NameError('a defect')\n"
        "sys.meta_path.insert(0, Broken())\n"
    )
    status = cli.main([*TUNE, "--study", str(tmp_path / "study"), "--trials", "9"])
    out, err = capfd.readouterr()
    assert status == 1
    assert re.search(r"trial 0 failed \(.*NameError: a defect", out)
    assert re.search("q2pi: 3 trials in a row failed, the last with .*NameError: a defect", err)
    assert "NameError" in (tmp_path / "study/trials/0002/error.txt").read_text()
    assert not (tmp_path / "study/trials/0004").exists()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        with contextlib.suppress(InterruptedError):
            time.sleep(0.05)
