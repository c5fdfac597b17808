"""A full disk and a read-only disk: a small temporary file system."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import cartpole, digests

from q2pi import __main__ as cli
from q2pi.config import resolve
from q2pi.runs import checkpoint, manifest
from q2pi.runs.execute import execute
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint


def mount(*arguments: str) -> bool:
    if shutil.which("mount") is None:
        return False
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 16 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)):
        pytest.skip("no file system can be mounted here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def shrink(disk: Path, room: int) -> None:
    """Fill the disk up to `room` free bytes."""
    used = int(subprocess.run(["du", "-sk", str(disk)], capture_output=True, text=True, check=True).stdout.split()[0])
    assert mount("-o", f"remount,size={used * 1024 + room}", str(disk))


CONFIG = resolve(cartpole(total_timesteps=1_600, checkpoint_frequency=400))


@pytest.fixture(scope="module")
def digest_with_space() -> str:
    """Return the digest of the run on a disk with enough space."""
    return digests(CONFIG)[1_600]


@pytest.mark.parametrize("room", [0, 15_000, 30_000, 45_000])
def test_a_disk_that_fills_up(
    disk: Path, room: int, digest_with_space: str, capfd: pytest.CaptureFixture[str], no_figures: None
) -> None:
    """The disk fills up after the first checkpoint: an error of one line; with free space again, the run resumes."""
    path = disk / "run"
    run = RunFolder(path)
    stopping = iter([False] * 100 + [True])
    execute(CONFIG, path, stop=lambda: next(stopping))
    assert manifest.steps(run.checkpoints) == [400, 404]
    shrink(disk, room)
    capfd.readouterr()
    assert cli.main(["resume", str(path)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("q2pi: no space left on device")
    for step in manifest.steps(run.checkpoints):
        checkpoint.load(run.checkpoints / f"{step:012d}")
    assert not list(run.checkpoints.glob(".*.partial"))
    assert mount("-o", "remount,size=16m", str(disk))
    assert cli.main(["resume", str(path)]) == 0
    assert checkpoint.digest(load_checkpoint(run)[1]) == digest_with_space
    steps = [row["step"] for row in run.rows("episode")]
    assert steps == sorted(steps)
    assert len({(row["env_index"], row["episode_index"]) for row in run.rows("episode")}) == len(steps)


def test_a_read_only_disk(disk: Path, capfd: pytest.CaptureFixture[str], no_figures: None) -> None:
    path = disk / "run"
    stopping = iter([False] * 30 + [True])
    execute(resolve(cartpole()), path, stop=lambda: next(stopping))
    assert mount("-o", "remount,ro", str(disk))
    capfd.readouterr()
    assert cli.main(["resume", str(path)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "read-only file system" in line
    assert cli.main(["train", "dqn", "--env-id", "CartPole-v1", "--run-dir", str(disk / "new")]) == 2
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    assert f"--run-dir {disk}/new cannot be created" in line
    assert cli.main(["evaluate", str(path), "--episodes", "2", "--json"]) == 0, "an evaluation only reads"
