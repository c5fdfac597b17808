"""Run folders: what the sinks write, what a resumed run removes, and locking."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import cartpole, write_events

from q2pi.envs.vector import Episode
from q2pi.errors import UserError
from q2pi.evaluation.evaluate import Evaluation
from q2pi.runs import manifest
from q2pi.runs.folder import RunFolder
from q2pi.runs.stored_config import read_config
from q2pi.training.events import Checkpoint, EpisodeEnded, Evaluated, Event, Finished, Progress, Started


def started(step: int = 0) -> Event:
    return Started(step, cartpole(), None)  # type: ignore[arg-type]


def ended(step: int, score: float, number: int = 0) -> Event:
    return EpisodeEnded(step, Episode(0, number, 1000 + number, np.array([1, 0, 1]), score, 3))


def saved(step: int) -> Event:
    return Checkpoint(step, {"step": step})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", cartpole())


def scores(run: RunFolder, file: str) -> list[float]:
    return [entry["return"] for entry in json.loads((run.episodes / file).read_text())]


def test_a_new_run_holds_its_config(run: RunFolder) -> None:
    assert [path.name for path in run.path.iterdir()] == ["config.toml"]
    assert read_config(RunFolder.open(run.path)) == cartpole()


def test_an_empty_folder_can_become_a_run(tmp_path: Path) -> None:
    assert RunFolder.create(tmp_path, cartpole()).config_file.is_file()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(UserError, match="exists already"):
        RunFolder.create(tmp_path, cartpole())
    with pytest.raises(UserError, match="exists already"):
        RunFolder.create(tmp_path / "precious", cartpole())
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_no_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"--run-dir .*file is not a writable folder"):
        RunFolder.create(tmp_path / "file" / "a" / "b", cartpole())


def test_a_folder_that_cannot_be_created() -> None:
    with pytest.raises(UserError, match=r"^--run-dir /proc/none/run cannot be created: "):
        RunFolder.create("/proc/none/run", cartpole())


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        RunFolder.open(tmp_path)


def test_rows_are_written_by_kind(run: RunFolder) -> None:
    evaluation = Evaluation(8, (Episode(0, 0, 5, np.array([1]), 7.0, 1),), {"env": {"env_id": "CartPole-v1"}})
    seconds = {"act": 1.0, "learn": 2.0, "evaluate": 4.0}
    progress = Progress(8, {"loss": 0.5}, seconds)
    write_events(run, [started(), ended(4, 9.0), Evaluated(8, evaluation), progress, saved(8), Finished(8, {})])
    (episode,) = run.rows("episode")
    indices = {"env_index": 0, "episode_index": 0}
    assert episode == indices | {"kind": "episode", "step": 4, "return": 9.0, "length": 3, "seed": 1000}
    (train,) = run.rows("train")
    assert (train["step"], train["loss"], train["seconds"]) == (8, 0.5, seconds)
    assert train["train_seconds"] == 3.0, "training, without the evaluation"
    (evaluated,) = run.rows("evaluation")
    assert (evaluated["step"], evaluated["scores"], evaluated["statistics"]["mean"]) == (8, [7.0], 7.0)
    assert json.loads(run.evaluation_file.read_text())["protocol"] == {"env": {"env_id": "CartPole-v1"}}
    assert manifest.steps(run.checkpoints) == [8]


def test_the_best_and_the_newest_episodes_are_kept(run: RunFolder) -> None:
    """Of twelve episodes, the best four in order (equal returns in order of time), and the newest eight."""
    returns = [3, 9, 1, 7, 9, 2, 8, 5, 7, 0, 4, 6]
    write_events(run, [started(), *[ended(4 * n, score, n) for n, score in enumerate(returns)], saved(48)])
    assert scores(run, "best.json") == [9, 9, 8, 7]
    assert [entry["episode_index"] for entry in json.loads((run.episodes / "best.json").read_text())] == [1, 4, 6, 3]
    assert scores(run, "newest.json") == returns[4:]
    first = json.loads((run.episodes / "best.json").read_text())[0]
    assert (first["seed"], first["actions"], first["step"]) == (1001, [1, 0, 1], 4)


def test_a_resumed_run_removes_rows_after_its_checkpoint(run: RunFolder) -> None:
    """The run was killed after writing the episodes and before the checkpoint at step 8: it resumes from step 4."""
    write_events(run, [started(), ended(2, 5.0, 0), ended(4, 3.0, 1), saved(4)])
    before = {name: scores(run, name) for name in ("best.json", "newest.json")}
    write_events(run, [started(4), *[ended(6, 9.0, n) for n in range(2, 12)], Finished(8, {})])
    with run.metrics_file.open("a") as file:
        file.write('{"kind": "episode", "st')
    assert scores(run, "best.json") == [9, 9, 9, 9]
    write_events(run, [started(4), Finished(4, {})])
    assert {name: scores(run, name) for name in ("best.json", "newest.json")} == before
    assert [row["episode_index"] for row in run.rows("episode")] == [0, 1]


def test_an_incomplete_last_line_is_not_a_row(run: RunFolder) -> None:
    write_events(run, [started(), ended(2, 5.0, 0), Finished(4, {})])
    with run.metrics_file.open("a") as file:
        file.write('{"kind": "episode", "step": 3, "return": 1')
    assert len(run.rows("episode")) == 1


def test_the_tail_gives_each_complete_row_once(run: RunFolder) -> None:
    assert run.tail() == ([], 0)
    first, second = b'{"kind": "train", "step": 1}\n', b'{"kind": "train", "step": 2}\n'
    run.metrics_file.write_bytes(first + second[:20])
    rows, offset = run.tail()
    assert ([row["step"] for row in rows], offset) == ([1], len(first))
    assert run.tail(offset) == ([], offset), "the second row is not complete yet"
    run.metrics_file.write_bytes(first + second)
    rows, offset = run.tail(offset)
    assert ([row["step"] for row in rows], offset) == ([2], len(first + second))
    assert run.tail(offset) == ([], offset)


@pytest.mark.parametrize("kept", [0, 1])
def test_the_tail_starts_over_if_a_resumed_run_has_dropped_rows(run: RunFolder, kept: int) -> None:
    rows = [b'{"kind": "train", "step": 1}\n', b'{"kind": "train", "step": 22}\n', b'{"kind": "train", "step": 333}\n']
    run.metrics_file.write_bytes(b"".join(rows))
    _, offset = run.tail()
    run.metrics_file.write_bytes(b"".join(rows[:kept]))
    assert run.tail(offset) == ([], 0)
    # The file is longer than before: the offset is now in the middle of a line.
    run.metrics_file.write_bytes(b"".join(rows[:kept] + [b'{"kind": "train", "step": 22, "loss": 0.123456789}\n'] * 3))
    assert run.tail(offset) == ([], 0)


def test_a_run_without_metrics_has_no_rows(run: RunFolder) -> None:
    assert run.rows("train") == []


def test_a_second_process_is_refused(run: RunFolder) -> None:
    with run.locked(), pytest.raises(UserError, match="is in use"):
        write_events(run, [started()])
    write_events(run, [started()])


def test_time_before_a_resume_counts(run: RunFolder) -> None:
    write_events(run, [started(), saved(4)], seconds_before=100.0)
    assert 100 <= manifest.notes(run.checkpoints, 4)["seconds"] < 160


def tensorboard(run: RunFolder) -> list[tuple[int, Any]]:
    """Return (step, name and value) of each event, or (step, "void") for a mark that purges later steps."""
    from tensorboardX.proto.event_pb2 import Event as BoardEvent

    found: list[tuple[int, Any]] = []
    for path in sorted(run.tensorboard.iterdir()):
        data, position = path.read_bytes(), 0
        while position < len(data):
            (length,) = struct.unpack_from("<Q", data, position)
            event = BoardEvent.FromString(data[position + 12 : position + 12 + length])
            position += 16 + length
            if event.HasField("session_log"):
                found.append((event.step, "void"))
            found += [(event.step, (value.tag, value.simple_value)) for value in event.summary.value]
    return found


def test_tensorboard_gets_the_same_numbers(run: RunFolder) -> None:
    write_events(run, [started(), ended(2, 5.0), Progress(4, {"loss": 0.5}, {}), Finished(4, {})])
    write_events(run, [started(2), Progress(4, {"loss": 0.25}, {}), Finished(4, {})])
    assert tensorboard(run) == [
        (2, ("episode/return", 5.0)),
        (4, ("train/loss", 0.5)),
        (3, "void"),
        (4, ("train/loss", 0.25)),
    ]


@pytest.mark.parametrize("text", ["total_timesteps = ", b"\xff\xfe", "seed = 1", "algorithm = 3"])
def test_a_config_that_cannot_be_read(run: RunFolder, text: str | bytes) -> None:
    run.config_file.write_bytes(text if isinstance(text, bytes) else text.encode())
    for read in (read_config, RunFolder.table, RunFolder.env):
        with pytest.raises(UserError, match=r"config\.toml") as caught:
            read(run)
        assert "\n" not in str(caught.value)


def test_the_environment_is_read_without_the_algorithm(run: RunFolder) -> None:
    run.config_file.write_text(run.config_file.read_text().replace('algorithm = "dqn"', 'algorithm = "alchemy"'))
    assert run.table()["algorithm"] == "alchemy"
    assert run.env() == cartpole().env
    with pytest.raises(UserError, match="alchemy"):
        read_config(run)
