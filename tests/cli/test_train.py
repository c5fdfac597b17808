"""The commands from end to end: train, resume, evaluate, digest, explain."""

import json
import re
from pathlib import Path

import pytest
from small_runs import CARTPOLE, INVADERS, flags

from q2pi import __main__ as cli
from q2pi.config import override, resolve, to_table
from q2pi.runs import checkpoint, manifest
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint
from q2pi.runs.stored_config import read_config
from q2pi.training.presets import configure

TRAIN = ["train", "dqn", *flags(CARTPOLE)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with an evaluation and a learning curve."""
    path = tmp_path_factory.mktemp("cli") / "run"
    assert cli.main([*TRAIN, "--evaluation-episodes", "2", "--run-dir", str(path)]) == 0
    return path


def test_files_of_a_run_folder(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()} - {".lock"}
    assert names == {
        *["config.toml", "metrics.jsonl", "tensorboard", "episodes", "evaluation.json"],
        *["figures", "videos", "checkpoints"],
    }
    run = RunFolder.open(folder)
    base, _ = configure("dqn", "CartPole-v1")
    assert to_table(read_config(run)) == to_table(resolve(override(base, CARTPOLE | {"evaluation_episodes": 2})))
    assert manifest.steps(run.checkpoints) == [300, 400]
    assert {row["kind"] for row in run.rows("train") + run.rows("episode") + run.rows("evaluation")} == {
        *["train", "episode", "evaluation"]
    }
    assert len(json.loads(run.evaluation_file.read_text())["scores"]) == 2


def test_output_of_train(tmp_path: Path, capfd: pytest.CaptureFixture[str], no_figures: None) -> None:
    path = tmp_path / "my run"
    assert cli.main([*TRAIN, "--evaluation-episodes", "2", "--run-dir", str(path)]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    for text in (
        "400 (4 parallel environments)",
        f"recording in {path}",
        "checkpoint at step 400",
        "evaluation at step 400",
    ):
        assert text in out
    for share in ("act", "environment", "learn", "evaluate"):
        assert re.search(rf"│ {share} +│ +\d", out), "time of each part"
    assert "95 % interval" in out
    assert f"q2pi evaluate '{path}' " in out, "the command can be pasted into a shell"


def test_the_same_command_gives_the_same_run(folder: Path, tmp_path: Path, no_figures: None) -> None:
    path = tmp_path / "again"
    assert cli.main([*TRAIN, "--evaluation-episodes", "2", "--run-dir", str(path)]) == 0
    first, second = load_checkpoint(RunFolder.open(folder))[1], load_checkpoint(RunFolder.open(path))[1]
    assert checkpoint.digest(first) == checkpoint.digest(second)
    assert (path / "evaluation.json").read_text() == (folder / "evaluation.json").read_text()


def test_another_seed_gives_another_run(folder: Path, tmp_path: Path, no_figures: None) -> None:
    path = tmp_path / "other"
    assert cli.main([*TRAIN, "--seed", "2", "--run-dir", str(path)]) == 0
    first, second = load_checkpoint(RunFolder.open(folder))[1], load_checkpoint(RunFolder.open(path))[1]
    assert checkpoint.digest(first) != checkpoint.digest(second)


def test_a_finished_run_is_finished(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["resume", str(folder)]) == 0
    assert capfd.readouterr().out == f"{folder} is finished: 400 agent steps\n"


def test_the_digest_is_that_of_the_newest_state(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["digest", str(folder)]) == 0
    assert capfd.readouterr().out.strip() == checkpoint.digest(load_checkpoint(RunFolder.open(folder))[1])


def test_evaluate_prints_a_table(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(folder), "--episodes", "3", "--seed", "5"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "3, seed 5" in out
    assert "95 % interval" in out


def test_evaluate_with_an_exploration_rate(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    reports = {}
    for epsilon in ("0", "1"):
        assert cli.main(["evaluate", str(folder), "--episodes", "3", "--json", "--epsilon", epsilon]) == 0
        reports[epsilon] = json.loads(capfd.readouterr().out)
    assert reports["0"]["protocol"]["policy"] == "epsilon-greedy, epsilon 0.0"
    assert reports["1"]["protocol"]["policy"] == "epsilon-greedy, epsilon 1.0"
    assert reports["0"]["scores"] != reports["1"]["scores"]
    assert cli.main(["evaluate", str(folder), "--episodes", "3", "--epsilon", "0.25"]) == 0
    assert "epsilon-greedy, epsilon 0.25" in capfd.readouterr().out


def test_evaluate_with_an_exploration_rate_needs_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    RunFolder.create(tmp_path / "run", configure("reinforce", "CartPole-v1")[0])
    assert cli.main(["evaluate", str(tmp_path / "run"), "--epsilon", "0.1"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("q2pi: --epsilon: reinforce has no exploration rate; ")
    assert "dqn" in line


def test_evaluate_prints_json_and_nothing_else(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(folder), "--episodes", "3", "--json"]) == 0
    out, err = capfd.readouterr()
    report = json.loads(out)
    assert err == ""
    assert len(report["scores"]) == 3
    assert report["protocol"]["env"]["env_id"] == "CartPole-v1"


def test_the_emulator_does_not_print_into_the_json(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], no_figures: None
) -> None:
    path = tmp_path / "run"
    short = INVADERS | {"total_timesteps": 150, "max_frames_per_episode": 100}
    assert cli.main(["train", "dqn", *flags(short), "--run-dir", str(path)]) == 0
    capfd.readouterr()
    assert cli.main(["evaluate", str(path), "--episodes", "2", "--json"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert json.loads(out)["protocol"]["env"]["max_frames_per_episode"] == 100


def test_explain_runs_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    assert cli.main([*TRAIN, "--run-dir", str(path), "--explain"]) == 0
    out, _ = capfd.readouterr()
    for text in ("agent steps", "frames", "updates", "84", "memory", "time", "target_network_frequency"):
        assert text in out
    assert not path.exists()


def test_help_shows_the_presets_defaults(capfd: pytest.CaptureFixture[str]) -> None:
    config, preset = configure("dqn", "CartPole-v1", None)
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "dqn", "--env-id", "CartPole-v1", "--help"])
    assert stop.value.code == 0
    out, _ = capfd.readouterr()
    assert "--target-network-frequency" in out
    assert str(config.hyper.batch_size) in out
    assert preset is not None
    assert preset in out


def test_options_override_the_preset(tmp_path: Path, no_figures: None) -> None:
    path = tmp_path / "run"
    arguments = ["--preset", "classic", "--total-timesteps", "200", "--learning-starts", "100", "--no-double"]
    quiet = flags({"evaluation_episodes": 0, "threads": 1, "device": "cpu", "run_dir": path})
    assert cli.main(["train", "dqn", "--env-id", "CartPole-v1", *arguments, *quiet]) == 0
    config = read_config(RunFolder.open(path))
    assert (config.hyper.double, config.hyper.learning_starts, config.hyper.batch_size) == (False, 100, 64)


def test_without_run_dir_a_new_folder_in_runs_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_figures: None
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(TRAIN) == 0
    (path,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"CartPole-v1-dqn-1-\d{8}-\d{6}", path.name)


def test_algorithms_are_listed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["algorithms"]) == 0
    out, _ = capfd.readouterr()
    assert "dqn" in out
    assert "Discrete" in out
