"""`--help` and mistakes in the options are answered without torch, whose import takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import cartpole

from q2pi.__main__ import COMMANDS
from q2pi.algorithms import registry
from q2pi.runs.execute import execute

HEAVY = ("torch", "gymnasium", "ale_py", "matplotlib", "scipy", "optuna", "ray", "nicegui")
SHOW = f"print(*[name for name in {HEAVY} if name in sys.modules])"
RUN = f"""
import contextlib, io, json, sys
from q2pi.__main__ import main
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code
    heavy = [name for name in {HEAVY} if name in sys.modules]
    print(json.dumps([status, out.getvalue(), err.getvalue(), heavy]))
"""
CARTPOLE = ("--env-id", "CartPole-v1")
MISTAKES: dict[str, dict[tuple[str, ...], str]] = {
    "train": {
        ("dqn", "--learning-ratee", "1"): "--learning-rate",
        ("dqn", "--run-dir", "."): "--run-dir . exists already",
        ("dqn", "--precision", "fp33"): "fp33",
        ("dqnn",): "did you mean 'dqn'?",
        ("dqn", "--env-id", "SpaceInvader"): "did you mean 'SpaceInvaders'",
        ("dqn", *CARTPOLE, "--batch-size", "0"): "--batch-size 0 is out of range",
        ("dqn", *CARTPOLE, "--actors", "2"): "--actors 2 needs a cluster",
        ("ppo", *CARTPOLE, "--num-minibatches", "7"): "--num-minibatches 7 does not divide",
        ("ppo", *CARTPOLE, "--preset", "classi"): "did you mean 'classic'?",
        ("rainbow", *CARTPOLE, "--log", "wand"): "did you mean 'wandb'?",
        ("q_learning", "--gamma", "2"): "--gamma 2.0 is out of range",
    },
    "resume": {(".", "--total-timestep", "1"): "--total-timesteps", (".",): ". is not a run folder"},
    "evaluate": {(".", "--episode", "1"): "--episodes", (".", "--episodes", "0"): "--episodes 0 is out of range"},
    "record": {(".", "--episod", "1"): "--episode", (".", "--fps", "0"): "--fps 0.0 is out of range"},
    "plot": {(".", "--smoot", "1"): "--smooth", (".", "--smooth", "-1"): "--smooth -1 is out of range"},
    "watch": {(".", "--por", "1"): "--port", (".", "--port", "0x"): "0x"},
    "play": {("--por", "1"): "--port", ("Pongg",): "Pongg"},
    "dashboard": {(".", "--por", "1"): "--port", (".", "--port", "0x"): "0x"},
    "runs": {("--folderr", "x"): "--folderr", ("missing",): "missing"},
    "sweep": {(".", "--worker", "1"): "--workers", (".", "--workers", "0"): "--workers 0 is out of range"},
    "ablate": {
        ("--seed", "1"): "--seeds",
        ("--seeds", "0"): "--seeds 0 is out of range",
        ("--option", "learning_ratee=1"): "unknown option 'learning_ratee'",
    },
    "report": {
        (
            ".",
            "--jsonn",
        ): "--json",
        ("missing",): "missing",
    },
    "tune": {
        ("dqn", "--trialss", "1"): "--trials",
        ("dqn", "--trials", "0"): "--trials 0 is out of range",
        ("dqn", *CARTPOLE, "--gamma", "2"): "--gamma 2.0 is out of range",
    },
    "bench": {("train", "--step", "1"): "--steps", ("train", "--steps", "0"): "--steps 0 is out of range"},
    "inspect": {("--stac", "1"): "--stack", ("Pongg",): "did you mean 'Pong'?"},
    "digest": {(".", "--jsonn"): "--jsonn", (".",): ". is not a run folder"},
    "algorithms": {("--jsonn",): "--jsonn"},
    "lab": {("--jsonn",): "--json", ("run", "replayy"): "did you mean 'replay'?"},
}
"""Command -> arguments that it refuses -> a part of the message: the suggestion, or the value."""


def python(source: str, *arguments: str, folder: Path | None = None) -> str:
    """Return what a Python program prints."""
    command = [sys.executable, "-c", source, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=folder)
    return result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_mistakes_load_no_torch(command: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()  # the folder is not empty: no run may start in it
    calls = [("--help",), *MISTAKES[command]]
    printed = python(RUN, json.dumps([[command, *arguments] for arguments in calls]), folder=tmp_path)
    results = [json.loads(line) for line in printed.splitlines()]
    status, text, errors, heavy = results[0]
    assert (status, errors, heavy) == (0, "", [])
    assert f"usage: q2pi {command}" in text
    for (arguments, expected), (status, _, errors, heavy) in zip(MISTAKES[command].items(), results[1:], strict=True):
        assert status == 2, arguments
        assert expected in errors, arguments
        assert (errors.count("\n"), "---" in errors) == (1, False), "one line, although tyro's box is ASCII here"
        assert not {"torch", "matplotlib", "scipy", "ray", "nicegui"} & set(heavy), arguments


def test_a_mistake_in_a_sweep_loads_no_torch(tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(
        'env_ids = ["CartPole-v1"]\nalgorithms = ["dqn"]\nseeds = 1\n[options]\ngamma = 2.0\n'
    )
    status, _, errors, heavy = json.loads(python(RUN, '[["sweep", "sweep.toml"]]', folder=tmp_path))
    assert status == 2
    assert "--gamma 2.0 is out of range" in errors
    assert "torch" not in heavy


def test_the_list_of_algorithms_loads_no_heavy_package() -> None:
    status, text, _, heavy = json.loads(python(RUN, '[["algorithms"]]'))
    assert (status, heavy) == (0, [])
    for name in registry.names():
        assert f"\n{name:<14}{(registry.find(name).__doc__ or '').splitlines()[0].rstrip('.')}\n" in f"\n{text}"


@pytest.mark.parametrize("module", ["q2pi", "q2pi.api", "q2pi.config", "q2pi.runs.sweep", "q2pi.training.presets"])
def test_modules_that_load_no_heavy_package(module: str) -> None:
    assert python(f"import sys, {module}; {SHOW}") == "\n"


def test_environments_are_made_without_torch() -> None:
    source = "import sys, q2pi; q2pi.make_envs('CartPole-v1', 2).reset(); q2pi.make_envs('Pong').reset()"
    assert "torch" not in python(f"{source}; {SHOW}").split()


@pytest.mark.parametrize("name", registry.names())
def test_hyperparameters_need_no_torch_and_an_agent_does(name: str) -> None:
    """The module of the agent does load torch, so the first half would notice a Config that does."""
    env_id = "FrozenLake-v1" if name == "q_learning" else "CartPole-v1"
    source = f"""
import sys
from q2pi.algorithms import registry
from q2pi.config import from_table, resolve, to_table
from q2pi.training.presets import configure
registry.default_config("{name}")
config = resolve(configure("{name}", "{env_id}")[0])
config.hyper.check(config)
config.hyper.repaired(config).hyper.check(config)
config.hyper.timing_config(config)
config.hyper.schedules(10, config.total_timesteps)
config.hyper.ablations()
assert config.hyper.updates_due(1000, config.num_envs) >= 0
assert from_table(config, to_table(config), "") == config
print("torch" in sys.modules)
agent = registry.find("{name}").Agent
print("torch" in sys.modules, agent.__module__)
"""
    assert python(source).splitlines() == ["False", f"True q2pi.algorithms.{name}"]


def test_a_command_that_needs_the_agent_loads_torch(tmp_path: Path) -> None:
    """The same program reports torch if a command uses it."""
    execute(cartpole(), tmp_path / "run")
    status, text, _, heavy = json.loads(python(RUN, json.dumps([["digest", str(tmp_path / "run")]])))
    assert (status, len(text)) == (0, 65)
    assert "torch" in heavy
