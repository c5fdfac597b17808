"""Diagnostics of a run: what each kind of agent has, and that reading the agent changes nothing."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import CARTPOLE, QUIET

from q2pi import __main__ as cli
from q2pi.algorithms.registry import default_config
from q2pi.buffers.replay import Replay
from q2pi.config import override, resolve
from q2pi.lab.monitor import FIELDS, Monitor, age_in_steps
from q2pi.runs.checkpoint import digest
from q2pi.runs.execute import execute
from q2pi.runs.folder import RunFolder
from q2pi.training.events import Checkpoint

ROLLOUT = {"num_envs": 4, "num_steps": 25, "num_minibatches": 5, "update_epochs": 2, "hidden": (8,)}
RUNS: dict[str, dict[str, Any]] = {
    "dqn": CARTPOLE,
    "ppo": QUIET | ROLLOUT | {"env_id": "CartPole-v1", "total_timesteps": 400, "checkpoint_frequency": 100},
    "reinforce": QUIET
    | {"env_id": "CartPole-v1", "total_timesteps": 400, "num_envs": 2, "episodes_per_update": 4, "hidden": (8,)},
    "q_learning": QUIET | {"env_id": "FrozenLake-v1", "total_timesteps": 400, "num_envs": 2},
}
HAS = {
    "dqn": {"policy_change", "churn", "value", "value_drift", "target_drift", "dormant", "replay_age"},
    "ppo": {"policy_change", "churn", "value", "value_drift", "dormant"},
    "reinforce": {"policy_change", "churn", "dormant"},
    "q_learning": {"policy_change", "churn", "value", "value_drift"},
}


class Digests:
    """A sink that keeps the digest of the last checkpoint."""

    last = ""

    def write(self, event: Any) -> None:
        if isinstance(event, Checkpoint):
            self.last = digest(event.state)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def monitored(algorithm: str, file: Path | None) -> str:
    """Return the digest of the final state of a run, with diagnostics if `file` is given."""
    sinks: list[Any] = [Digests()]
    if file is not None:
        sinks.append(Monitor(file))
    execute(resolve(override(default_config(algorithm), RUNS[algorithm])), None, sinks=sinks)
    return str(sinks[0].last)


@pytest.mark.parametrize("algorithm", RUNS)
def test_an_agent_has_its_numbers_and_is_not_changed(algorithm: str, tmp_path: Path) -> None:
    file = tmp_path / "diagnostics.csv"
    assert monitored(algorithm, file) == monitored(algorithm, None)
    rows = list(csv.DictReader(file.open()))
    assert tuple(rows[0]) == FIELDS
    assert [int(row["step"]) for row in rows] == sorted({int(row["step"]) for row in rows})
    given = {name for name in FIELDS if rows[-1][name]} - {"step", "seconds"}
    assert given == HAS[algorithm]
    assert all(np.isfinite(float(row[name])) for row in rows for name in FIELDS if row[name])
    assert all(0 <= float(row["churn"]) <= 1 for row in rows if row["churn"])


class Fails:
    """A sink that raises an exception at an agent step, as if the process had died."""

    def __init__(self, step: int) -> None:
        self.step = step

    def write(self, event: Any) -> None:
        if event.step >= self.step:
            raise InterruptedError

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def rows_without_seconds(run: Path) -> list[str]:
    lines = RunFolder(run).diagnostics_file.read_text().splitlines()
    assert all(line.count(",") == len(FIELDS) - 1 for line in lines)
    return [line.rpartition(",")[0] for line in lines]


def with_diagnostics(algorithm: str, run: Path, fails: int | None = None, **options: Any) -> None:
    config = resolve(override(default_config(algorithm), RUNS[algorithm] | {"checkpoint_frequency": 100} | options))
    sinks: list[Any] = [Monitor(RunFolder(run).diagnostics_file)]
    execute(config, run, sinks=sinks if fails is None else [*sinks, Fails(fails)])


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("fails", [190, 370])
@pytest.mark.parametrize("algorithm", RUNS)
def test_a_resumed_run_has_the_rows_of_an_uninterrupted_one(
    algorithm: str, fails: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """At 190 the states are not complete, and at 370 they are; in both cases the file has rows after the checkpoint."""
    with_diagnostics(algorithm, tmp_path / "whole")
    expected = rows_without_seconds(tmp_path / "whole")
    with pytest.raises(InterruptedError):
        with_diagnostics(algorithm, tmp_path / "run", fails)
    file = RunFolder(tmp_path / "run").diagnostics_file
    file.write_text(file.read_text() + "180,0.")
    assert cli.main(["resume", str(tmp_path / "run")]) == 0
    capfd.readouterr()
    assert rows_without_seconds(tmp_path / "run") == expected
    seconds = [float(row["seconds"]) for row in csv.DictReader(file.open())]
    assert seconds == sorted(seconds), "seconds go on"


@pytest.mark.usefixtures("no_figures")
def test_a_row_before_the_first_batch_of_a_resumed_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Batches are rarer than rows, so the first rows after the checkpoint are of a batch from before it."""
    with_diagnostics("dqn", tmp_path / "whole", train_frequency=200)
    with pytest.raises(InterruptedError):
        with_diagnostics("dqn", tmp_path / "run", 370, train_frequency=200)
    assert cli.main(["resume", str(tmp_path / "run")]) == 0
    capfd.readouterr()
    assert rows_without_seconds(tmp_path / "run") == rows_without_seconds(tmp_path / "whole")


def test_a_state_file_newer_than_the_checkpoint(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The newest checkpoint is lost: the file has states and batches of later steps, too."""
    with_diagnostics("dqn", tmp_path / "whole")
    with pytest.raises(InterruptedError):
        with_diagnostics("dqn", tmp_path / "run", 240)
    shutil.rmtree(RunFolder(tmp_path / "run").checkpoints / "000000000200")
    assert cli.main(["resume", str(tmp_path / "run")]) == 0
    capfd.readouterr()
    assert rows_without_seconds(tmp_path / "run") == rows_without_seconds(tmp_path / "whole")


def test_without_the_kept_states_a_resumed_run_has_other_rows(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with_diagnostics("dqn", tmp_path / "whole")
    with pytest.raises(InterruptedError):
        with_diagnostics("dqn", tmp_path / "run", 190)
    (tmp_path / "run/diagnostics.safetensors").unlink()
    assert cli.main(["resume", str(tmp_path / "run")]) == 0
    capfd.readouterr()
    rows = rows_without_seconds(tmp_path / "run")
    assert len(rows) == len(rows_without_seconds(tmp_path / "whole"))
    assert rows != rows_without_seconds(tmp_path / "whole")


def test_resume_writes_no_diagnostics_of_a_run_without_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = resolve(override(default_config("dqn"), RUNS["dqn"]))
    with pytest.raises(InterruptedError):
        execute(config, tmp_path / "run", sinks=[Fails(190)])
    assert cli.main(["resume", str(tmp_path / "run")]) == 0
    capfd.readouterr()
    assert not list((tmp_path / "run").glob("diagnostics*"))


def test_the_target_network_drifts_only_when_it_is_copied(tmp_path: Path) -> None:
    file = tmp_path / "diagnostics.csv"
    slow = CARTPOLE | {"target_network_frequency": 100_000, "total_timesteps": 900}
    execute(resolve(override(default_config("dqn"), slow)), None, sinks=[Monitor(file)])
    rows = [row for row in csv.DictReader(file.open()) if row["target_drift"]]
    assert [float(row["target_drift"]) for row in rows[1:]] == [0.0] * (len(rows) - 1)
    assert any(float(row["value_drift"]) > 0 for row in rows)


def test_the_age_of_a_transition_counts_later_rows_of_its_stream() -> None:
    """Two streams, four steps, no end: the open row is 4, so the transition of row 1 is 3 rows or 6 agent steps old."""
    replay = Replay(20, 2, (1,), np.float32, stack=1, n_step=1, gamma=0.9)
    frames = np.zeros((2, 1), np.float32)
    replay.begin(frames)
    for _ in range(4):
        replay.extend(np.zeros(2), np.zeros(2), np.ones(2), frames, np.zeros(2, np.bool_), frames)
    assert age_in_steps(replay, np.array([1, replay.rows + 3])).tolist() == [6, 2]


@pytest.mark.usefixtures("no_figures")
def test_the_flag_writes_the_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = [
        "--env-id",
        "CartPole-v1",
        "--total-timesteps",
        "400",
        "--learning-starts",
        "100",
        "--log-frequency",
        "100",
    ]
    common = ["--device", "cpu", "--threads", "1", "--evaluation-episodes", "0", "--run-dir", str(tmp_path / "run")]
    assert cli.main(["train", "dqn", *options, *common, "--diagnostics"]) == 0
    capfd.readouterr()
    assert len((tmp_path / "run" / "diagnostics.csv").read_text().splitlines()) > 2
