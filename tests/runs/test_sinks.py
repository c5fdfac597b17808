"""Sinks: a logger of ten lines receives every event of a run in order and is always closed."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_runs import CARTPOLE, cartpole
from tensorboardX.proto.event_pb2 import Event as BoardEvent

import q2pi
from q2pi.config import ResolvedConfig, resolve
from q2pi.runs import checkpoint
from q2pi.runs.execute import execute
from q2pi.runs.folder import RunFolder
from q2pi.training import loop
from q2pi.training.events import Checkpoint, Diverged, EpisodeEnded, Event, Finished, Interrupted, Progress, Started


class Logger:
    """A logger that a user might write."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, event: Event) -> None:
        self.lines.append(f"{type(event).__name__} {event.step}")

    def flush(self) -> None:
        self.lines.append("flush")

    def close(self) -> None:
        self.lines.append("close")


class Failing(Logger):
    """Raises at the first event of a kind."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind

    def write(self, event: Event) -> None:
        super().write(event)
        if isinstance(event, self.kind):
            raise OSError("the service is gone")


def small(**changes: Any) -> ResolvedConfig[Any]:
    return resolve(cartpole(**changes))


def lines_of_the_loop(**changes: Any) -> list[str]:
    """Return what a logger must receive: the events of the loop, with a flush before each Checkpoint and Finished."""
    lines = []
    for event in loop.run(small(**changes)):
        lines += ["flush"] if isinstance(event, Checkpoint | Finished) else []
        lines.append(f"{type(event).__name__} {event.step}")
    return [*lines, "close"]


def test_a_logger_receives_every_event_in_order(tmp_path: Path) -> None:
    logger = Logger()
    execute(small(evaluation_episodes=1, evaluation_frequency=200), tmp_path / "run", sinks=[logger])
    expected = lines_of_the_loop(evaluation_episodes=1, evaluation_frequency=200)
    assert logger.lines == expected
    assert expected[0] == "Started 0"
    assert expected[-4:] == ["Checkpoint 400", "flush", "Finished 400", "close"]
    assert {line.split()[0] for line in expected} == {
        *["Started", "EpisodeEnded", "Progress", "Evaluated", "Checkpoint", "Finished", "flush", "close"]
    }


@pytest.mark.parametrize("recorded", [True, False])
def test_train_takes_loggers(recorded: bool, tmp_path: Path) -> None:
    first, second = Logger(), Logger()
    run_dir = tmp_path / "run" if recorded else None
    agent = q2pi.train("dqn", run_dir=run_dir, sinks=[first, second], **CARTPOLE)
    assert first.lines == second.lines
    assert first.lines[0] == "Started 0"
    assert first.lines[-2:] == ["Finished 400", "close"]
    assert agent.networks()
    assert (tmp_path / "run").exists() == recorded


def test_a_logger_of_a_resumed_run_starts_at_its_checkpoint(tmp_path: Path) -> None:
    logger, resumed = Logger(), Logger()
    stop = iter([False] * 60 + [True]).__next__
    assert execute(small(), tmp_path / "run", sinks=[logger], stop=stop) == Interrupted(244)
    assert logger.lines[-4:] == ["flush", "Checkpoint 244", "Interrupted 244", "close"]
    execute(small(), tmp_path / "run", sinks=[resumed])
    assert resumed.lines[0] == "Started 244"
    assert resumed.lines[-1] == "close"


@pytest.mark.parametrize("kind", [Started, EpisodeEnded, Progress, Checkpoint, Finished])
def test_every_sink_is_closed_if_one_of_them_raises(kind: type, tmp_path: Path) -> None:
    before, failing, after = Logger(), Failing(kind), Logger()
    with pytest.raises(OSError, match="the service is gone"):
        execute(small(), tmp_path / "run", sinks=[before, failing, after])
    for sink in (before, failing, after):
        assert sink.lines.count("close") == 1
        assert not sink.lines or sink.lines[-1] == "close"
    assert before.lines[-2].startswith(kind.__name__)
    last = execute(small(), tmp_path / "run")
    if kind is Finished:
        assert last is None, "its last checkpoint was saved before"
    else:
        assert isinstance(last, Finished), "the folder is free and the run continues"


def test_a_sink_that_fails_to_close_does_not_keep_the_others_open(tmp_path: Path) -> None:
    class Stuck(Logger):
        def close(self) -> None:
            super().close()
            raise OSError("cannot close")

    before, after = Logger(), Logger()
    with pytest.raises(OSError, match="cannot close"):
        execute(small(), tmp_path / "run", sinks=[before, Stuck(), after])
    assert before.lines[-1] == after.lines[-1] == "close"


def test_sinks_are_closed_if_the_run_diverges(tmp_path: Path) -> None:
    logger = Logger()
    with pytest.raises(Diverged):
        execute(small(learning_rate=1e30), tmp_path / "run", sinks=[logger])
    assert logger.lines[0] == "Started 0"
    assert logger.lines[-1] == "close"
    assert not any(line.startswith("Finished") for line in logger.lines)


def test_every_sink_is_flushed_before_a_checkpoint_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a kill could leave a checkpoint that is newer than the log."""
    logger, save, flushed = Logger(), checkpoint.save, []

    def saving(*arguments: Any) -> Path:
        flushed.append(logger.lines[-1])
        return save(*arguments)

    monkeypatch.setattr(checkpoint, "save", saving)
    execute(small(), tmp_path / "run", sinks=[logger])
    assert flushed == ["flush"] * 4


# ---- the folder's own sinks ------------------------------------------------------------------------------------------


def scalars(run: RunFolder) -> list[tuple[str, int, float]]:
    """Return (tag, step, value) of every scalar in TensorBoard's files, in the order of writing."""
    found = []
    for path in sorted(run.tensorboard.iterdir(), key=lambda path: int(path.suffix[1:])):
        data = path.read_bytes()
        while data:  # 8 bytes of length, 4 of checksum, the event, 4 of checksum
            length = int.from_bytes(data[:8], "little")
            event = BoardEvent.FromString(data[12 : 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            data = data[16 + length :]
    return found


def test_tensorboard_has_the_scalars_of_the_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    execute(small(evaluation_episodes=2), run.path)
    rows = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    expected = []
    for row in rows:
        if row["kind"] == "episode":
            expected.append(("episode/return", row["step"], row["return"]))
        if row["kind"] == "evaluation":
            expected.append(("evaluation/mean", row["step"], row["statistics"]["mean"]))
        if row["kind"] == "train":
            names = set(row) - {"kind", "step", "seconds", "wall_seconds", "train_seconds"}
            expected += [(f"train/{name}", row["step"], row[name]) for name in row if name in names]
    found = scalars(run)
    assert [(tag, step) for tag, step, _ in found] == [(tag, step) for tag, step, _ in expected]
    assert [value for _, _, value in found] == pytest.approx([value for _, _, value in expected], rel=1e-6)
    assert {"episode/return", "evaluation/mean", "train/loss", "train/q", "train/updates"} <= {
        tag for tag, _, _ in found
    }


def test_tensorboard_of_a_resumed_run_purges_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(OSError, match="the service is gone"):
        execute(small(), run.path, sinks=[Failing(Checkpoint)])
    execute(small(), run.path)
    first, second = sorted(run.tensorboard.iterdir(), key=lambda path: int(path.suffix[1:]))
    assert (first.suffix, second.suffix) == (".0", ".100")
    data = second.read_bytes()
    starts = []
    while data:
        length = int.from_bytes(data[:8], "little")
        event = BoardEvent.FromString(data[12 : 12 + length])
        starts += [event.step] if event.HasField("session_log") else []
        data = data[16 + length :]
    assert starts == [101], "TensorBoard drops what it has from step 101 on"
