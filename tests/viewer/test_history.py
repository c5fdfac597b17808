"""The rows of a run that trains, is interrupted, resumes, is deleted, or is damaged."""

import shutil
from pathlib import Path

import pytest
from folders import append, episode, progress, write_run

from q2pi.runs.files import write_atomically
from q2pi.runs.folder import RunFolder
from q2pi.viewer.history import LiveHistory


@pytest.fixture
def live(tmp_path: Path) -> LiveHistory:
    made = LiveHistory(RunFolder(write_run(tmp_path / "run", episode(10, 1.0), progress(20))))
    assert made.update()
    return made


def test_only_new_rows_are_read(live: LiveHistory, monkeypatch: pytest.MonkeyPatch) -> None:
    offsets: list[int] = []
    tail = RunFolder.tail

    def counted(self: RunFolder, offset: int = 0) -> object:
        offsets.append(offset)
        return tail(self, offset)

    monkeypatch.setattr(RunFolder, "tail", counted)
    size = live.run.metrics_file.stat().st_size
    append(live.run.path, episode(30, 2.0))
    assert live.update()
    assert offsets == [size]
    assert live.history.steps == [10, 30]
    assert live.history.returns == [1.0, 2.0]


def test_nothing_new_is_no_change(live: LiveHistory) -> None:
    assert not live.update()
    assert live.state == "finished"


def test_an_incomplete_line_waits_for_its_end(live: LiveHistory) -> None:
    with live.run.metrics_file.open("a") as file:
        file.write('{"kind": "episode", "step": 30, "ret')
    assert not live.update()
    with live.run.metrics_file.open("a") as file:
        file.write('urn": 5.0}\n')
    assert live.update()
    assert live.history.returns == [1.0, 5.0]


def test_a_resumed_run_forgets_the_rows_after_its_checkpoint(live: LiveHistory) -> None:
    append(live.run.path, episode(30, 2.0), episode(40, 3.0))
    live.update()
    kept = live.run.metrics_file.read_text().splitlines(keepends=True)[:2]
    write_atomically(live.run.metrics_file, "".join(kept))
    append(live.run.path, episode(35, 7.0), episode(38, 8.0), episode(39, 9.0))
    assert live.update()
    assert live.history.returns == [1.0, 7.0, 8.0, 9.0]


def test_rows_are_not_mixed_even_if_the_file_grew_past_the_old_end(live: LiveHistory) -> None:
    """With the offset alone, a replaced file whose line ends where the old one did would be read from there."""
    same_length = live.run.metrics_file.read_text().replace('"return": 1.0', '"return": 6.0')
    write_atomically(live.run.metrics_file, same_length)
    append(live.run.path, episode(30, 2.0))
    assert live.update()
    assert live.history.returns == [6.0, 2.0]


def test_a_deleted_run_is_a_problem_and_a_new_run_in_its_place_is_read_from_the_start(live: LiveHistory) -> None:
    path = live.run.path
    shutil.rmtree(path)
    assert live.update()
    assert live.problem == f"{path} was deleted"
    write_run(path, episode(5, 50.0), seed=9)
    assert live.update()
    assert (live.problem, live.history.returns, live.history.seed) == ("", [50.0], 9)


@pytest.mark.parametrize("line", ["garbage\n", "[1]\n", "3\n", '{"step": 1}\n'])
def test_a_damaged_row_is_a_problem(live: LiveHistory, line: str) -> None:
    with live.run.metrics_file.open("a") as file:
        file.write(line)
    assert live.update()
    assert str(live.run.path) in live.problem


def test_a_damaged_config_is_a_problem(live: LiveHistory) -> None:
    live.run.config_file.write_text("algorithm = [")
    assert live.update()
    assert "not valid TOML" in live.problem


def test_a_folder_that_is_no_run_is_a_problem(tmp_path: Path) -> None:
    live = LiveHistory(RunFolder(tmp_path / "missing"))
    assert live.update()
    assert live.problem == f"{tmp_path / 'missing'} is not a run folder"
