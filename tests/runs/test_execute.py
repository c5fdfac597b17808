"""Executing a run repeatedly, in every state of its folder."""

from pathlib import Path
from typing import Any

import pytest
from small_runs import cartpole

from q2pi.config import ResolvedConfig, resolve
from q2pi.envs.vector import VectorEnv
from q2pi.errors import UserError
from q2pi.runs import manifest
from q2pi.runs.checkpoint import digest
from q2pi.runs.execute import execute
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint
from q2pi.runs.stored_config import is_finished
from q2pi.training.events import Event, Finished, Interrupted, Started


def small(**changes: Any) -> ResolvedConfig[Any]:
    return resolve(cartpole(**changes))


class Steps:
    """A sink that keeps the events' types and steps; it raises at the event of type `fails_at`."""

    def __init__(self, fails_at: type | None = None) -> None:
        self.fails_at = fails_at
        self.seen: list[tuple[type, int]] = []

    def write(self, event: Event) -> None:
        self.seen.append((type(event), event.step))
        if type(event) is self.fails_at:
            raise RuntimeError("the sink fails")

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def digest_of(run: Path) -> str:
    """Return the digest of a run's newest checkpoint."""
    return digest(load_checkpoint(RunFolder.open(run))[1])


def test_an_interrupted_run_continues_bit_for_bit_and_is_then_skipped(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    execute(small(), whole)
    assert execute(small(), cut, stop=lambda: True) == Interrupted(4)
    assert not is_finished(cut)
    sink = Steps()
    last = execute(small(), cut, sinks=[sink])
    assert isinstance(last, Finished)
    assert last.step == 400
    assert sink.seen[0] == (Started, 4)
    assert sink.seen[-1] == (Finished, 400)
    assert is_finished(cut)
    again = Steps()
    assert execute(small(), cut, sinks=[again]) is None
    assert again.seen == []
    assert digest_of(cut) == digest_of(whole)


def test_a_folder_without_a_checkpoint_starts_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the sink fails"):
        execute(small(), tmp_path / "run", sinks=[Steps(fails_at=Started)])
    assert manifest.steps(RunFolder(tmp_path / "run").checkpoints) == []
    assert isinstance(execute(small(), tmp_path / "run"), Finished)


def test_a_partial_config_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / ".config.toml.partial").write_text("algori")
    assert not is_finished(tmp_path)
    assert isinstance(execute(small(), tmp_path), Finished)


def test_another_configuration_in_the_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    execute(small(), tmp_path / "run")
    before = digest_of(tmp_path / "run")
    with pytest.raises(UserError, match="another configuration"):
        execute(small(seed=2), tmp_path / "run")
    assert digest_of(tmp_path / "run") == before


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", small())
    with run.locked(), pytest.raises(UserError, match="is in use"):
        execute(small(), run.path)
    assert isinstance(execute(small(), run.path), Finished)


def test_each_damaged_checkpoint_is_a_warning(tmp_path: Path) -> None:
    execute(small(), tmp_path / "run", stop=(step for step in [False] * 60 + [True]).__next__)
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    (newest / "weights.safetensors").write_bytes(b"")
    warnings: list[str] = []
    sink = Steps()
    assert isinstance(execute(small(), tmp_path / "run", sinks=[sink], warn=warnings.append), Finished)
    (line,) = warnings
    assert f"{newest} is damaged" in line
    assert sink.seen[0] == (Started, 200)


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sink = Steps()
    assert isinstance(execute(small(), None, sinks=[sink]), Finished)
    assert sink.seen[0] == (Started, 0)
    assert list(tmp_path.iterdir()) == []


def test_environments_are_closed_before_a_sinks_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The traceback keeps the loop's generator alive, so `execute` must close the environments."""
    closed = []
    monkeypatch.setattr(VectorEnv, "close", lambda self: closed.append(self))
    with pytest.raises(RuntimeError) as caught:
        execute(small(), None, sinks=[Steps(fails_at=Started)])
    assert len(closed) == 1
    assert caught.traceback, "held until here"
