"""Mistakes of users: one line on standard error that names the value and the flag; files on disk stay intact."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import CARTPOLE, flags

import q2pi
from q2pi import __main__ as cli
from q2pi.runs import checkpoint
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint

SMALL = flags({name: value for name, value in CARTPOLE.items() if name != "env_id"})
TRAIN = ["train", "dqn", "--env-id", "CartPole-v1", *SMALL]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def line_of(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs a wrong command and returns its error line."""

    def run(*arguments: str) -> str:
        before = contents(tmp_path)
        assert cli.main(list(arguments)) == 2
        out, err = capfd.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith("q2pi: ")
        assert contents(tmp_path) == before, "files on disk changed"
        return str(line.removeprefix("q2pi: "))

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    q2pi.train("dqn", run_dir=path, **CARTPOLE)
    return path


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of a finished run for one test."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["trian"], ["unknown command 'trian'", "did you mean 'train'?"]),
        (["zzz"], ["unknown command 'zzz'", "q2pi --help"]),
        (["train", "dqm"], ["unknown algorithm 'dqm'", "did you mean 'dqn'?"]),
        (["train", "dqn", "--env-id", "SpaceInvader"], ["--env-id SpaceInvader", "did you mean 'SpaceInvaders'"]),
        (["train", "dqn", "--env-id"], ["--env-id"]),
        (["train", "dqn", "--preset", "natur"], ["--preset natur", "did you mean 'nature'?"]),
        ([*TRAIN, "--lerning-rate", "1"], ["--lerning-rate", "did you mean --learning-rate?"]),
        ([*TRAIN, "--batch-size", "many"], ["--batch-size", "many"]),
        ([*TRAIN, "--batch-size", "1.5"], ["--batch-size", "1.5"]),
        ([*TRAIN, "--batch-size"], ["--batch-size"]),
        ([*TRAIN, "--crop", "34", "16", "8"], ["--crop 34 16 8: expected None or INT INT INT INT (q2pi"]),
        ([*TRAIN, "--crop"], ["--crop without a value: expected None or INT INT INT INT (q2pi"]),
        ([*TRAIN, "--stack", "x"], ["--stack x: expected None or INT (q2pi"]),
        ([*TRAIN, "--loss", "l1"], ["--loss", "l1"]),
        ([*TRAIN, "--device", "tpu"], ["--device", "tpu"]),
        ([*TRAIN, "--gamma", "1.5"], ["--gamma 1.5", "[0, 1]"]),
        ([*TRAIN, "--gamma", "nan"], ["--gamma nan", "[0, 1]"]),
        ([*TRAIN, "--learning-rate", "-1"], ["--learning-rate -1.0", "at least 0"]),
        ([*TRAIN, "--num-envs", "0"], ["--num-envs 0", "at least 1"]),
        ([*TRAIN, "--total-timesteps", "0"], ["--total-timesteps 0", "at least 1"]),
        ([*TRAIN, "--batch-size", "300"], ["--batch-size 300", "--buffer-size 200"]),
        ([*TRAIN, "--learning-starts", "400"], ["--learning-starts 400", "--total-timesteps 400"]),
        ([*TRAIN, "--buffer-size", "1000000000000"], ["--buffer-size 1000000000000", "GB"]),
        ([*TRAIN, "--buffer-size", "1000000000000", "--explain"], ["--buffer-size 1000000000000", "GB"]),
        ([*TRAIN, "--noop-max", "3"], ["--noop-max 3", "CartPole-v1"]),
        ([*TRAIN, "--stack", "0"], ["--stack 0"]),
        (["train", "dqn", "--env-id", "Pendulum-v1", *SMALL], ["--env-id Pendulum-v1", "Discrete"]),
        (["train", "dqn", "--env-id", "Pong", "--crop", "300", "0", "0", "0"], ["--crop 300 0 0 0"]),
        (["resume"], ["run"]),
        (["resume", "/nowhere/run"], ["/nowhere/run is not a run folder"]),
        (["evaluate", "/nowhere/run"], ["/nowhere/run is not a run folder"]),
        (["digest", "/nowhere/run"], ["/nowhere/run is not a run folder"]),
        (["sweep"], ["file"]),
        (["sweep", "/nowhere/sweep.toml"], ["/nowhere/sweep.toml cannot be read", "no such file"]),
        (["sweep", "/nowhere/sweep.toml", "--workers", "0"], ["--workers 0", "at least 1"]),
        (["report"], ["report needs at least one run"]),
        (["report", "/nowhere/runs"], ["/nowhere/runs is not a folder"]),
    ],
    ids=lambda value: " ".join(word for word in value if word not in TRAIN) if isinstance(value, list) else None,
)
def test_mistakes_on_the_command_line(
    arguments: list[str], fragments: list[str], line_of: Callable[..., str], tmp_path: Path
) -> None:
    if arguments[0] == "train":
        arguments = [*arguments, "--run-dir", str(tmp_path / "new")]
    line = line_of(*arguments)
    for fragment in fragments:
        assert fragment in line


def test_missing_device(line_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "--device cuda" in line_of(*TRAIN, "--device", "cuda", "--run-dir", str(tmp_path / "new"))


def test_a_run_folder_that_exists(line_of: Callable[..., str], folder: Path) -> None:
    line = line_of(*TRAIN, "--run-dir", str(folder))
    assert f"--run-dir {folder} exists already" in line
    assert f"q2pi resume {folder}" in line


def test_a_run_folder_below_a_file(line_of: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert f"--run-dir {tmp_path}/file/run cannot be created" in line_of(
        *TRAIN, "--run-dir", str(tmp_path / "file/run")
    )


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ('algorithms = ["dqm"]\nenv_ids = ["CartPole-v1"]\nseeds = 1', "unknown algorithm 'dqm'"),
        ('algorithms = ["dqn"]\nenv_ids = ["CartPoll-v1"]\nseeds = 1', "did you mean 'CartPole-v1'"),
        ('algorithms = ["dqn"]\nenv_ids = []\nseeds = 1', "env_ids = []"),
        ('algorithms = ["dqn"]\nenv_ids = ["Pendulum-v1"]\nseeds = 1', "Pendulum-v1/dqn/seed-1: --env-id Pendulum-v1"),
    ],
)
def test_invalid_sweeps(text: str, fragment: str, line_of: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(text)
    assert fragment in line_of("sweep", str(file), "--runs", str(tmp_path / "runs"))


def test_a_report_without_scores(line_of: Callable[..., str], folder: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "report")]
    assert "no run has a score to report" in line_of("report", str(folder), *out)
    (tmp_path / "empty").mkdir()
    assert f"no run below {tmp_path}/empty" in line_of("report", str(tmp_path / "empty"), *out)
    assert "is not a folder" in line_of("report", str(folder), "--out", str(folder / "config.toml"))


@pytest.mark.parametrize("command", ["resume", "evaluate", "digest"])
def test_a_folder_without_checkpoints(command: str, line_of: Callable[..., str], folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints")
    assert f"no checkpoint in {folder}/checkpoints" in line_of(command, str(folder))


@pytest.mark.parametrize("command", ["resume", "evaluate", "digest"])
def test_a_folder_whose_checkpoints_are_all_damaged(command: str, line_of: Callable[..., str], folder: Path) -> None:
    for path in (folder / "checkpoints").iterdir():
        (path / "state.json").write_text("{}")
    assert "2 found, all damaged" in line_of(command, str(folder))


@pytest.mark.parametrize("command", ["resume", "evaluate", "digest"])
def test_a_folder_that_is_not_a_run(command: str, line_of: Callable[..., str], tmp_path: Path) -> None:
    assert f"{tmp_path} is not a run folder" in line_of(command, str(tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "fragments"),
    [
        ("seed = 1", 'seed = "one"', ["seed = 'one'", "int"]),
        ("seed = 1", "seed = -1", ["--seed -1", "at least 0"]),
        ("seed = 1", "sed = 1", ["unknown option 'sed'", "did you mean 'seed'?"]),
        ("seed = 1", "seed = ", ["is not valid TOML"]),
        ('algorithm = "dqn"', 'algorithm = "dqm"', ["unknown algorithm 'dqm'"]),
        ('algorithm = "dqn"', "algorithm = 5", ["'algorithm' is missing"]),
        ('algorithm = "dqn"', 'algorithm = "dqn"\nhyper = 5', ["config.toml"]),
        ("batch_size = 8", "batch_size = 8.5", ["batch_size = 8.5", "int"]),
        ("batch_size = 8", "batch_size = 800", ["--batch-size 800", "--buffer-size 200"]),
        ('env_id = "CartPole-v1"', 'env_id = "CartPoll-v1"', ["--env-id CartPoll-v1", "did you mean 'CartPole"]),
        ("    16,", "    17,", ["--hidden"]),
    ],
    ids=lambda value: value.strip() if isinstance(value, str) else None,
)
def test_invalid_edits_of_a_config(
    old: str, new: str, fragments: list[str], line_of: Callable[..., str], folder: Path
) -> None:
    config = folder / "config.toml"
    text = config.read_text()
    assert old in text
    more = text.replace(old, new, 1).replace("total_timesteps = 400", "total_timesteps = 800")
    config.write_text(more)
    line = line_of("evaluate", str(folder), "--episodes", "1")
    for fragment in fragments:
        assert fragment in line


def test_another_number_of_environments_than_in_the_checkpoint(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    config = folder / "config.toml"
    text = config.read_text().replace("num_envs = 4", "num_envs = 5")
    config.write_text(text.replace("total_timesteps = 400", "total_timesteps = 800"))
    before = contents(folder)
    assert cli.main(["resume", str(folder)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "--num-envs 5 differs from the checkpoint's 4 environments" in line
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("option", "value"),
    [("--episodes", "0"), ("--seed", "-1"), ("--epsilon", "-0.1"), ("--epsilon", "1.5"), ("--epsilon", "nan")],
)
def test_bounds_of_an_evaluation(option: str, value: str, line_of: Callable[..., str], folder: Path) -> None:
    assert f"{option} {value} is out of range" in line_of("evaluate", str(folder), option, value)


def test_a_full_disk(
    capfd: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch, no_figures: None
) -> None:
    """The disk is full while the third checkpoint is written."""
    config = folder / "config.toml"
    config.write_text(config.read_text().replace("total_timesteps = 400", "total_timesteps = 800"))
    before = contents(folder / "checkpoints")
    write = checkpoint._write

    def full(path: Path, pieces: object) -> object:
        if path.name == "weights.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, pieces)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "_write", full)
    assert cli.main(["resume", str(folder)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line == "q2pi: no space left on device; existing files are intact"
    assert contents(folder / "checkpoints") == before
    monkeypatch.setattr(checkpoint, "_write", write)
    assert cli.main(["resume", str(folder)]) == 0
    assert load_checkpoint(RunFolder.open(folder))[0] == 800


def test_a_damaged_checkpoint_is_a_warning(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    (newest / "weights.safetensors").write_bytes(b"")
    assert cli.main(["digest", str(folder)]) == 0
    out, err = capfd.readouterr()
    assert len(out.split()) == 1
    (line,) = err.splitlines()
    assert f"{newest} is damaged" in line


# ---- in separate processes -------------------------------------------------------------------------------------------


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_a_mistake_ends_the_process_with_status_2() -> None:
    result = python("-m", "q2pi", "trian")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "q2pi: unknown command 'trian' (did you mean 'train'?); q2pi --help lists the commands\n"


@pytest.mark.parametrize("arguments", [["--help"], [], ["--version"], ["trian"]], ids=" ".join)
def test_help_is_light(arguments: list[str]) -> None:
    """It takes less than 0.3 s of CPU time and imports neither torch nor numpy."""
    code = (
        "import sys, time\n"
        "from q2pi.__main__ import main\n"
        f"main({arguments})\n"
        "heavy = {'torch', 'numpy', 'gymnasium', 'ale_py', 'tyro', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'{heavy} {time.process_time():.2f}' if heavy or time.process_time() > 0.3 else 0)"
    )
    result = python("-c", code)
    assert result.returncode == 0, result.stderr


def test_a_closed_pipe_prints_no_traceback() -> None:
    """q2pi algorithms | head -0"""
    command = f"{sys.executable} -m q2pi algorithms | true"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in result.stderr
