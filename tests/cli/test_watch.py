"""q2pi plot, record and runs, on run folders as the recorder writes them."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from small_runs import write_events

from q2pi import __main__ as cli
from q2pi.algorithms.registry import default_config
from q2pi.commands import runs as runs_command
from q2pi.config import RunConfig, to_table
from q2pi.envs.spec import EnvSpec, resolve
from q2pi.envs.vector import Episode
from q2pi.evaluation.evaluate import Evaluation
from q2pi.runs.folder import RunFolder
from q2pi.training.events import Checkpoint, EpisodeEnded, Evaluated, Event, Finished, Progress

CARTPOLE = resolve(EnvSpec("CartPole-v1"))


def config_of(**changes: Any) -> RunConfig[Any]:
    return dataclasses.replace(default_config("dqn"), env=CARTPOLE, total_timesteps=100, **changes)


def pushed(number: int, seed: int, length: int) -> Episode:
    """Return an episode of CartPole in which every action pushes to the right; `length` is made up."""
    return Episode(0, number, seed, np.ones(length, np.int64), float(length), length)


def events(last: int) -> Iterator[Event]:
    yield EpisodeEnded(40, pushed(0, 1, 10))
    yield EpisodeEnded(60, pushed(1, 2, 14))
    yield Progress(60, {"loss": 0.5, "q": 1.5, "updates": 3}, {"act": 1.0})
    if last >= 80:
        protocol = {"env": to_table(CARTPOLE), "policy": "greedy"}
        yield Evaluated(80, Evaluation(80, (pushed(0, 3, 8), pushed(1, 4, 8)), protocol))
        yield Checkpoint(80, {"step": 80})
    if last >= 100:
        yield Checkpoint(100, {"step": 100})
        yield Finished(100, {"act": 1.0})


def run_of(path: Path, last: int, **changes: Any) -> RunFolder:
    run = RunFolder.create(path, config_of(**changes))
    write_events(run, events(last))
    return run


def table(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    """Return name of the run folder -> row that `q2pi runs` printed."""
    header, *lines = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    return {Path(row["run"]).name: row for row in rows}


def test_runs_shows_the_progress_of_each_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(tmp_path / "group" / "whole", 100, seed=5)
    run_of(tmp_path / "half", 80)
    run_of(tmp_path / "young", 60)
    assert cli.main(["runs", str(tmp_path)]) == 0
    rows = table(capsys)
    assert list(rows) == ["whole", "half", "young"]
    assert {name: row["state"] for name, row in rows.items()} == {
        "whole": "finished",
        "half": "stopped at 80",
        "young": "no checkpoint",
    }
    whole = rows["whole"]
    assert (whole["algorithm"], whole["environment"], whole["seed"]) == ("dqn", "CartPole-v1", "5")
    assert (whole["return"], whole["evaluation"], whole["minutes"]) == ("12.0", "8.0 [8.0, 8.0]", "0.0")
    assert (whole["agent steps"], rows["young"]["agent steps"]) == ("80 of 100", "60 of 100")
    assert rows["young"]["evaluation"] == ""


def test_runs_shows_that_a_run_is_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "half", 80)
    with run.locked():
        cli.main(["runs", str(tmp_path)])
    assert table(capsys)["half"]["state"] == "training"


def test_a_damaged_run_is_a_row_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(tmp_path / "good", 100)
    run_of(tmp_path / "metrics", 100).metrics_file.write_text('{"kind": "episode"}\n')
    run_of(tmp_path / "torn", 100).metrics_file.write_bytes(b"\xff\xfe\n")
    run_of(tmp_path / "toml", 100).config_file.write_text("= broken")
    run_of(tmp_path / "partial", 100).config_file.write_text('algorithm = "alchemy"')
    assert cli.main(["runs", str(tmp_path)]) == 0
    rows = table(capsys)
    assert rows["good"]["state"] == "finished"
    assert all(rows[name]["state"].startswith("damaged: ") for name in ("metrics", "torn", "toml", "partial"))
    assert rows["metrics"]["environment"] == "CartPole-v1"
    assert "'seed' is missing" in rows["partial"]["state"]


def test_runs_draws_a_table_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_of(tmp_path / "whole", 100)
    monkeypatch.setattr(runs_command, "Console", lambda: Console(force_terminal=True, width=200))
    cli.main(["runs", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "┏" in shown
    assert "8.0 [8.0, 8.0]" in shown


def test_runs_of_an_empty_and_of_a_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs", str(tmp_path)]) == 0
    assert f"no runs below {tmp_path}" in capsys.readouterr().out
    assert cli.main(["runs", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err


def test_plot_prints_the_path_of_its_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_of(Path("a"), 100)
    run_of(Path("b"), 60, seed=2)
    for arguments, path in (
        (["a"], "a/figures/learning_curve.png"),
        (["a", "b"], "learning_curves.png"),
        (["a", "--out", "new/x.png", "--smooth", "50"], "new/x.png"),
    ):
        assert cli.main(["plot", *arguments]) == 0
        assert capsys.readouterr().out == f"{path}\n"
        assert Path(path).read_bytes().startswith(b"\x89PNG")


def test_mistakes_of_plot_are_errors_of_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = str(run_of(tmp_path / "good", 60).path)
    empty = str(RunFolder.create(tmp_path / "empty", config_of(seed=2)).path)
    for arguments, message in (
        ([], "at least one run"),
        ([str(tmp_path)], "is not a run folder"),
        ([good, empty], "empty has nothing to draw"),
        ([good, "--out", "x.jpg"], "--out x.jpg must end in .png"),
        ([good, "--smooth", "-1"], "--smooth -1 is out of range"),
    ):
        assert cli.main(["plot", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_record_refuses_an_episode_that_cannot_be_recreated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "run", 100)
    out = tmp_path / "pole.mp4"
    arguments = ["record", str(run.path), "--episode", "newest", "--out", str(out)]
    assert cli.main(arguments) == 2  # the episode was made up
    assert "cannot recreate the episode of CartPole-v1" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(("flag", "value"), [("--episode", "7"), ("--fps", "0"), ("--out", "x.avi")])
def test_mistakes_of_record_are_errors_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    run = run_of(tmp_path / "run", 100)
    assert cli.main(["record", str(run.path), flag, value]) == 2
    error = capsys.readouterr().err
    assert f"{flag} {value}" in error
    assert error.count("\n") == 1
