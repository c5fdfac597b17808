"""Executing a run again and again, whatever was left in its folder."""

from pathlib import Path

import pytest
from small_runs import cartpole

from q2pi.errors import UserError
from q2pi.runs.checkpoint import digest
from q2pi.runs.execute import execute, is_finished
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint
from q2pi.runs.manifest import steps
from q2pi.training.events import Finished, Interrupted, Started


def digest_of(run: Path) -> str:
    """Return the digest of a run's newest checkpoint."""
    return digest(load_checkpoint(RunFolder.open(run))[1])


def test_a_run_cut_short_goes_on_to_the_same_end_and_is_then_skipped(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    list(execute(cartpole(), whole))
    assert isinstance(list(execute(cartpole(), cut, stop=lambda: True))[-1], Interrupted)
    assert not is_finished(cut)
    events = list(execute(cartpole(), cut))
    assert isinstance(events[0], Started)
    assert events[0].step == 4
    assert isinstance(events[-1], Finished)
    assert is_finished(cut)
    assert list(execute(cartpole(), cut)) == []
    assert digest_of(cut) == digest_of(whole)


def test_a_folder_without_a_checkpoint_begins_anew(tmp_path: Path) -> None:
    events = execute(cartpole(), tmp_path / "run")
    next(events)
    events.close()
    assert steps(RunFolder(tmp_path / "run").checkpoints) == []
    assert isinstance(list(execute(cartpole(), tmp_path / "run"))[-1], Finished)


def test_a_torn_config_is_no_run(tmp_path: Path) -> None:
    (tmp_path / ".config.toml.partial").write_text("algori")
    assert not is_finished(tmp_path)
    assert isinstance(list(execute(cartpole(), tmp_path))[-1], Finished)


def test_another_configuration_in_the_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    list(execute(cartpole(), tmp_path / "run"))
    before = digest_of(tmp_path / "run")
    with pytest.raises(UserError, match="another configuration"):
        list(execute(cartpole(seed=2), tmp_path / "run"))
    assert digest_of(tmp_path / "run") == before
