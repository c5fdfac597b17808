"""The newest checkpoint of a run folder, while training writes, restarts, or the folder is deleted."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import CARTPOLE

import q2pi
from q2pi.errors import UserError
from q2pi.viewer.source import RunSource


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "run"
    q2pi.train("dqn", run_dir=path, **CARTPOLE)
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def q_values(agent: Any) -> Any:
    return agent.q_values(np.ones((1, 4), np.float32))


def test_the_newest_checkpoint_is_loaded_and_followed(run: Path) -> None:
    hidden = run / "checkpoints" / f"{400:012d}"
    hidden.rename(run / "later")
    source = RunSource(run)
    loaded = source.load()
    assert (loaded.step, source.title) == (300, "run")
    first = q_values(loaded.agent)
    assert source.refresh(loaded) == (loaded, "")
    (run / "later").rename(hidden)
    newer, problem = source.refresh(loaded)
    assert (newer.step, problem) == (400, "")
    assert newer.agent is loaded.agent
    assert not np.array_equal(q_values(newer.agent), first)


def test_a_deleted_run_leaves_its_agent(run: Path) -> None:
    source = RunSource(run)
    loaded = source.load()
    shutil.rmtree(run)
    assert source.refresh(loaded) == (loaded, f"{run} was deleted; the agent that was loaded from it goes on")


def test_a_damaged_newer_checkpoint_is_reported_once_and_not_read_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from q2pi.viewer import source as module

    source = RunSource(run)
    loaded = source.load()
    newest = run / "checkpoints" / f"{500:012d}"
    newest.mkdir()
    reads: list[int] = []
    read = module.load_state_of_agent
    monkeypatch.setattr(module, "load_state_of_agent", lambda folder: (reads.append(1), read(folder))[1])
    for _ in range(3):
        newer, _ = source.refresh(loaded)
        assert newer.step == 400
    assert len(reads) == 1


def test_another_run_in_the_same_folder_is_another_agent(run: Path) -> None:
    source = RunSource(run)
    loaded = source.load()
    shutil.rmtree(run)
    q2pi.train("dqn", run_dir=run, **CARTPOLE | {"hidden": (8,), "seed": 7})
    newer, problem = source.refresh(loaded)
    assert problem == ""
    assert newer.agent is not loaded.agent
    assert newer.config.seed == 7


def test_a_run_of_another_version_is_a_message(run: Path) -> None:
    config = run / "config.toml"
    config.write_text(config.read_text() + "option_of_tomorrow = 1\n")
    with pytest.raises(UserError, match="unknown option 'option_of_tomorrow'"):
        RunSource(run).load()


def test_a_run_without_checkpoint_is_a_message(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="no checkpoint in"):
        RunSource(run).load()
