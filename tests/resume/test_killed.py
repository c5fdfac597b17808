"""A run that is killed repeatedly, at any moment, ends in the same state as an uninterrupted one."""

import io
import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_runs import cartpole, invaders

from q2pi import __main__ as cli
from q2pi.commands.terminal import TerminalRun
from q2pi.config import RunConfig, resolve
from q2pi.runs import checkpoint, execute, manifest
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint
from q2pi.runs.stored_config import read_config
from q2pi.training.events import Event

# The fork server imports torch once for all subprocesses.
SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(["q2pi.commands.train", "gymnasium.vector", "ale_py.vector_env"])

Kill = tuple[str, int]
"""(kind, n): killed at the nth flush of a file or at the nth event, or slowed by n milliseconds per flush."""


def resume(path: Path) -> int:
    """Train the rest of the run in folder `path` as the commands do; return the exit status."""
    config = resolve(read_config(RunFolder.open(path)))
    with TerminalRun(config, path, Console()) as terminal:
        execute.execute(config, path, sinks=[terminal], stop=terminal.stop, warn=terminal.warn)
    return terminal.status


def train_until_killed(path: Path, kill: Kill) -> None:
    """Train in the run folder `path`, from its newest checkpoint if there is one, until killed."""
    sys.stdout = sys.stderr = io.StringIO()
    kind, number = kill
    if kind == "flush":
        os.fsync = killing_at(os.fsync, number)
    elif kind == "slow":
        os.fsync = slow(os.fsync, number / 1000)
    else:
        events = execute.run
        execute.run = lambda *arguments: killing_at_event(events(*arguments), number, signal.Signals[kind])
    sys.exit(resume(path))


def killing_at(call: Any, number: int) -> Any:
    calls = itertools.count(1)

    def counted(*arguments: Any) -> None:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        call(*arguments)

    return counted


def slow(call: Any, seconds: float) -> Any:
    def slowed(*arguments: Any) -> None:
        time.sleep(seconds)
        call(*arguments)

    return slowed


def killing_at_event(events: Iterator[Event], number: int, by: signal.Signals) -> Iterator[Event]:
    for count, event in enumerate(events):
        if count == number:
            os.kill(os.getpid(), by)
        yield event


def exit_code_of(path: Path, kill: Kill) -> int | None:
    process = SPAWN.Process(target=train_until_killed, args=(path, kill))
    process.start()
    process.join(120)
    if process.is_alive():
        process.kill()
    return process.exitcode


def digest_of(path: Path) -> str:
    return checkpoint.digest(load_checkpoint(RunFolder.open(path))[1])


def rows(path: Path) -> list[dict[str, Any]]:
    """Return all rows of metrics.jsonl without times."""
    clock = {"seconds", "wall_seconds", "train_seconds"}
    lines = RunFolder(path).metrics_file.read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in clock} for line in lines]


def episodes(path: Path) -> list[Any]:
    return [json.loads((RunFolder(path).episodes / name).read_text()) for name in ("newest.json", "best.json")]


def check_intact(path: Path) -> None:
    """Check that every checkpoint with its final name is complete."""
    folder = RunFolder.open(path).checkpoints
    for step in manifest.steps(folder):
        assert checkpoint.load(folder / f"{step:012d}")[0]["step"] == step


@pytest.fixture
def uninterrupted(request: pytest.FixtureRequest, tmp_path: Path, no_figures: None) -> Path:
    path = tmp_path / "uninterrupted"
    assert resume(RunFolder.create(path, request.param).path) == 0
    return path


VARIANTS: dict[str, RunConfig[Any]] = {
    "CartPole, 4 environments": cartpole(),
    "Space Invaders, 1 environment": invaders(num_envs=1),
    "Space Invaders, 3 environments": invaders(num_envs=3, protocol="nature"),
}
# A checkpoint makes 10 flushes, or 11 with large frames: 4 of metrics, events and episodes, the rest in its folder.
KILLS: list[Kill] = [("flush", 19), ("SIGKILL", 2), ("flush", 2), ("flush", 17)]


@pytest.mark.parametrize("uninterrupted", VARIANTS.values(), ids=VARIANTS.keys(), indirect=True)
def test_killed_and_resumed(uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "killed"
    run = RunFolder.create(path, read_config(RunFolder(uninterrupted)))
    every = read_config(run).checkpoint_frequency
    for kill, kept, torn in zip(KILLS, [1, 1, 1, 2], [2, 2, 2, 3], strict=True):
        assert exit_code_of(path, kill) == -signal.SIGKILL
        check_intact(path)
        assert manifest.steps(run.checkpoints)[-1] // every == kept
        assert [int(path.name.split(".")[1]) // every for path in run.checkpoints.glob(".*.partial")] == [torn]
    assert cli.main(["resume", str(path)]) == 0
    capsys.readouterr()
    assert cli.main(["digest", str(path)]) == cli.main(["digest", str(uninterrupted)]) == 0
    killed, whole = capsys.readouterr().out.split()
    assert killed == whole
    assert rows(path) == rows(uninterrupted), "no row twice, none beyond, none missing"
    assert episodes(path) == episodes(uninterrupted)
    assert not list(run.checkpoints.glob(".*.partial"))


@pytest.mark.parametrize("uninterrupted", [cartpole()], indirect=True)
def test_killed_while_a_checkpoint_is_written(uninterrupted: Path, tmp_path: Path) -> None:
    path = tmp_path / "killed"
    run = RunFolder.create(path, cartpole())
    for _ in range(2):
        before = manifest.steps(run.checkpoints)
        process = SPAWN.Process(target=train_until_killed, args=(path, ("slow", 30)))
        process.start()
        deadline = time.monotonic() + 60
        while manifest.steps(run.checkpoints) == before or not list(run.checkpoints.glob(".*.partial")):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        process.join()
        check_intact(path)
        assert list(run.checkpoints.glob(".*.partial"))
    assert cli.main(["resume", str(path)]) == 0
    assert digest_of(path) == digest_of(uninterrupted)
    assert rows(path) == rows(uninterrupted)


def test_killed_before_the_first_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "killed"
    run = RunFolder.create(path, cartpole())
    assert exit_code_of(path, ("flush", 6)) == -signal.SIGKILL
    assert list(run.checkpoints.glob(".*.partial"))
    assert cli.main(["resume", str(path)]) == 2
    assert "--checkpoint-frequency" in capsys.readouterr().err


@pytest.mark.parametrize("signal_name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("uninterrupted", [cartpole()], indirect=True)
def test_a_stopped_run_saves_and_prints_how_to_resume(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], signal_name: str
) -> None:
    path = tmp_path / "stopped"
    RunFolder.create(path, cartpole())
    assert exit_code_of(path, (signal_name, 7)) == 130
    stopped_at = manifest.steps(RunFolder(path).checkpoints)[-1]
    assert 0 < stopped_at < 400
    assert rows(path)[-1]["step"] == stopped_at
    assert cli.main(["resume", str(path)]) == 0
    assert f"resuming {path} at step {stopped_at} of 400" in capsys.readouterr().out
    assert digest_of(path) == digest_of(uninterrupted)
    kept = [row for row in rows(path) if row["kind"] == "episode"]
    assert kept == [row for row in rows(uninterrupted) if row["kind"] == "episode"]
    assert episodes(path) == episodes(uninterrupted)


def test_what_ctrl_c_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    events = execute.run
    monkeypatch.setattr(execute, "run", lambda *arguments: killing_at_event(events(*arguments), 7, signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    run = RunFolder.create(tmp_path / "stopped", cartpole())
    assert resume(run.path) == 130
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1].endswith(f"continue with:  q2pi resume {run.path}")
    assert "saving a checkpoint" in printed.err
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = execute.run

    def second_interrupt(*arguments: Any) -> Iterator[Event]:
        return killing_at_event(killing_at_event(events(*arguments), 7, signal.SIGINT), 7, signal.SIGINT)

    monkeypatch.setattr(execute, "run", second_interrupt)
    run = RunFolder.create(tmp_path / "stopped", cartpole())
    with pytest.raises(KeyboardInterrupt):
        resume(run.path)
    assert manifest.steps(run.checkpoints) == []
