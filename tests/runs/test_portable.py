"""Systems without `fcntl` and `resource`: the modules are hidden from every process, and runs work as before."""

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import CARTPOLE, flags

import q2pi
from q2pi.parallel import portable
from q2pi.runs.checkpoint import digest
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint
from q2pi.runs.manifest import steps

HIDE = "import sys\nfor name in ('fcntl', 'resource', 'termios', 'pwd', 'grp'):\n    sys.modules[name] = None\n"
SMALL = [*flags(CARTPOLE), "--evaluation-episodes", "1"]
SWEEP = """
algorithms = ["dqn"]
env_ids = ["CartPole-v1"]
seeds = 2
workers = 2
[options]
total_timesteps = 200
num_envs = 4
learning_starts = 64
buffer_size = 200
evaluation_episodes = 1
preset = "classic"
"""


@pytest.fixture
def hidden(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a process without the modules, in which its own processes also lack them."""
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "sitecustomize.py").write_text(HIDE)
    assert q2pi.__file__ is not None
    paths = [str(tmp_path / "hide"), str(Path(q2pi.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "XDG_CACHE_HOME": str(tmp_path)}


def q2pi_command(arguments: list[str], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "q2pi", *arguments], env=environment, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_modules_are_hidden(hidden: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", "import fcntl"], env=hidden, capture_output=True, text=True)
    assert "ModuleNotFoundError" in done.stderr


def test_a_run_is_trained_stopped_and_resumed(hidden: dict[str, str], tmp_path: Path) -> None:
    long = ["train", "dqn", *SMALL, "--total-timesteps", "100000", "--log-frequency", "1000"]
    command = [sys.executable, "-m", "q2pi", *long, "--run-dir", "stopped"]
    with subprocess.Popen(command, env=hidden, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "stopped").glob("checkpoints/[0-9]*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        running = q2pi_command(["runs", "."], hidden, tmp_path)
        process.send_signal(portable.STOP_SIGNALS[0])
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "training" in running.splitlines()[1]
    assert "continue with:  q2pi resume stopped" in out
    run = RunFolder(tmp_path / "stopped")
    end = steps(run.checkpoints)[-1] + 400
    run.config_file.write_text(run.config_file.read_text().replace("100000", str(end)))
    assert "resuming stopped" in q2pi_command(["resume", "stopped"], hidden, tmp_path)
    assert "finished" in q2pi_command(["runs", "."], hidden, tmp_path)


def test_the_same_numbers(hidden: dict[str, str], tmp_path: Path) -> None:
    q2pi_command(["train", "dqn", *SMALL, "--run-dir", "hidden"], hidden, tmp_path)
    q2pi.train("dqn", run_dir=tmp_path / "plain", **CARTPOLE | {"evaluation_episodes": 1})
    ends = [digest(load_checkpoint(RunFolder(tmp_path / name))[1]) for name in ("hidden", "plain")]
    assert ends[0] == ends[1]


def test_a_run_of_a_system_with_locks_is_not_in_use_on_one_without(hidden: dict[str, str], tmp_path: Path) -> None:
    q2pi.train("dqn", run_dir=tmp_path / "run", **CARTPOLE)
    assert (tmp_path / "run" / ".lock").exists()
    assert "finished" in q2pi_command(["runs", "."], hidden, tmp_path)
    out = q2pi_command(["resume", "run", "--total-timesteps", "500"], hidden, tmp_path)
    assert "resuming run at step 400 of 500" in out


def test_a_sweep_and_its_report(hidden: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(SWEEP)
    assert "done 2 of 2" in q2pi_command(["sweep", "sweep.toml"], hidden, tmp_path)
    assert "report.html" in q2pi_command(["report", "runs/sweep"], hidden, tmp_path)


def test_a_small_study(hidden: dict[str, str], tmp_path: Path) -> None:
    fixed = [word for word in SMALL if word not in ("--env-id", "CartPole-v1")]
    budget = ["--trials", "2", "--seeds", "1", "--top", "0"]
    q2pi_command(["tune", "dqn", "--env-id", "CartPole-v1", *budget, "--study", "study", *fixed], hidden, tmp_path)


PLATFORM_MODULES = {"fcntl", "resource", "msvcrt", "winreg", "pwd", "grp", "termios"}
PLATFORM_CALLS = {"fork", "killpg", "setsid", "sched_getaffinity", "getloadavg", "getrusage", "sysconf"}
EXEMPT = {"portable.py", "allocator.py"}
"""The portable layer, and glibc's options of memory, which ask for Linux."""


def test_only_one_module_asks_for_the_system() -> None:
    """A test on Linux cannot see that `os.getloadavg` is missing on Windows: the sources may not name it."""
    assert q2pi.__file__ is not None
    for path in Path(q2pi.__file__).parent.rglob("*.py"):
        if path.name in EXEMPT:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not PLATFORM_MODULES & {alias.name for alias in node.names}, path
            elif isinstance(node, ast.Attribute):
                assert node.attr not in PLATFORM_CALLS, path
                names = (ast.unparse(node.value), node.attr)
                assert names not in {("sys", "platform"), ("os", "name"), ("os", "uname")}, path


def test_a_file_that_is_open_elsewhere_is_replaced_when_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target, tries = tmp_path / "new", tmp_path / "old", []
    source.write_text("new")
    target.write_text("old")
    plain = os.replace

    def busy(a: Path, b: Path) -> None:
        tries.append(a)
        if len(tries) < 3:
            raise PermissionError(13, "in use")
        plain(a, b)

    monkeypatch.setattr(os, "replace", busy)
    with pytest.raises(PermissionError):
        portable.replace(source, target)
    tries.clear()
    monkeypatch.setattr(portable, "IS_WINDOWS", True)
    portable.replace(source, target)
    assert (len(tries), target.read_text()) == (3, "new")


def test_what_windows_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert portable.own_group() == {"start_new_session": True}
    assert portable.quoted("a b") == "'a b'"
    monkeypatch.setattr(portable, "IS_WINDOWS", True)
    assert portable.own_group() == {"creationflags": 512}
    assert portable.quoted("a b") == '"a b"'
    portable.flush_folder(tmp_path / "missing")


def test_the_peak_without_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "resource", None)
    assert 10e6 < portable.peak_memory() < 100e9
