"""Loggers of other services: the scalars they receive, resumed runs, missing packages, and runs that do not change."""

import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from small_runs import CARTPOLE, flags

import q2pi
from q2pi import __main__ as cli
from q2pi.errors import UserError
from q2pi.runs.checkpoint import digest
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint
from q2pi.runs.loggers import LOGGERS, make_loggers
from q2pi.runs.loggers.wandb import WandB

SMALL = CARTPOLE | {"evaluation_episodes": 2, "log_frequency": 100}


class Service:
    """A stub of both packages: it keeps what it receives."""

    Error = RuntimeError

    def __init__(self) -> None:
        self.starts: list[dict[str, Any]] = []
        self.rows: list[tuple[dict[str, Any], int | None]] = []
        self.finished = 0

    def Settings(self, **options: Any) -> dict[str, Any]:
        return options

    def init(self, **options: Any) -> "Service":
        self.starts.append(options)
        return self

    def define_metric(self, name: str, **options: Any) -> None: ...

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self.rows.append((values, step))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture(params=LOGGERS)
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Service]:
    """Return the name of a service and the stub that stands for its package."""
    stub, module = Service(), ModuleType(request.param)
    module.__spec__ = ModuleSpec(request.param, None, origin="stub")
    for name in ("init", "Settings", "Error"):
        setattr(module, name, getattr(stub, name))
    monkeypatch.setitem(sys.modules, request.param, module)
    return request.param, stub


def step_of(row: tuple[dict[str, Any], int | None]) -> int:
    values, step = row
    return step if step is not None else values["agent_steps"]


def test_a_service_receives_the_scalars_of_a_run(service: Any, tmp_path: Path) -> None:
    name, stub = service
    run = RunFolder(tmp_path / "run")
    q2pi.train("dqn", run_dir=run.path, sinks=make_loggers((name,), run.path), **SMALL)
    (start,) = stub.starts
    assert (start["project"], start["name"]) == ("q2pi", "run")
    assert start["config"]["hyper"]["batch_size"] == 8
    assert stub.finished == 1
    found = {key: step_of(row) for row in stub.rows for key in row[0]}
    assert {"episode/return", "train/loss", "train/epsilon", "evaluation/mean"} <= found.keys()
    assert found["evaluation/mean"] == 400
    returns = [row[0]["episode/return"] for row in stub.rows if "episode/return" in row[0]]
    assert returns == [row["return"] for row in run.rows("episode")]


def test_a_resumed_run_continues_what_it_logged(service: Any, tmp_path: Path, no_figures: None) -> None:
    name, stub = service
    path = tmp_path / "run"
    assert cli.main(["train", "dqn", *flags(SMALL), "--run-dir", str(path), "--log", name]) == 0
    assert cli.main(["resume", str(path), "--total-timesteps", "600", "--log", name]) == 0
    first, second = stub.starts
    assert first["name"] == second["name"]
    if name == "wandb":
        assert first["id"] == second["id"]
    assert second["resume"] == "allow"
    assert max(step_of(row) for row in stub.rows) == 600


def test_logging_does_not_change_a_run(service: Any, tmp_path: Path, no_figures: None) -> None:
    name, _ = service
    for folder, words in (("logged", ["--log", name]), ("plain", [])):
        assert cli.main(["train", "dqn", *flags(SMALL), "--run-dir", str(tmp_path / folder), *words]) == 0
    runs = [RunFolder(tmp_path / folder) for folder in ("logged", "plain")]
    assert runs[0].config_file.read_text() == runs[1].config_file.read_text()
    assert digest(load_checkpoint(runs[0])[1]) == digest(load_checkpoint(runs[1])[1])


def test_two_services_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SimpleNamespace(origin="stub")
    monkeypatch.setattr("q2pi.runs.loggers.find_spec", lambda name: spec)
    assert [type(sink).__name__ for sink in make_loggers(("wandb", "trackio", "wandb"), None)] == ["WandB", "Trackio"]


@pytest.mark.parametrize("spec", [None, SimpleNamespace(origin=None)], ids=["missing", "folder of this name"])
@pytest.mark.parametrize("command", ["train", "resume"])
def test_a_missing_package_is_one_line(
    command: str, spec: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("q2pi.runs.loggers.find_spec", lambda name: spec)
    words = ["dqn", *flags(SMALL)] if command == "train" else [str(tmp_path)]
    assert cli.main([command, *words, "--log", "trackio"]) == 2
    out, err = capfd.readouterr()
    assert (out, err) == ("", "q2pi: --log trackio needs the package trackio: pip install 'q2pi[trackio]'\n")


def test_an_unknown_service_is_named() -> None:
    with pytest.raises(UserError, match=r"--log wanb: it must be one of wandb, trackio \(did you mean 'wandb'\?\)"):
        make_loggers(("wanb",), None)


def test_packages_are_imported_only_if_they_are_used() -> None:
    code = "import sys, q2pi.commands.train, q2pi.runs.loggers; print({'wandb', 'trackio'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_an_account_that_is_missing_is_one_line(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _ = service
    if name != "wandb":
        return

    def refuse(**options: Any) -> None:
        raise RuntimeError("No API key configured.\nUse `wandb login`.")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(UserError, match=r"^--log wandb: No API key configured\.; WANDB_MODE=offline"):
        q2pi.train("dqn", sinks=[WandB()], **SMALL)


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package itself, if it is installed: its file of the run has the names of the scalars."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    run = RunFolder(tmp_path / "run")
    q2pi.train("dqn", run_dir=run.path, sinks=make_loggers(("wandb",), run.path), **SMALL)
    (file,) = run.path.glob("wandb/offline-run-*/*.wandb")
    for name in (b"episode/return", b"train/loss", b"evaluation/mean", b"agent_steps"):
        assert name in file.read_bytes()
    assert (run.path / "wandb" / "id").read_text() in file.name
