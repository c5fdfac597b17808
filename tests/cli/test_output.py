"""`--json` is JSON whatever prints, and what an environment does wrong is named as its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from small_runs import QUIET, flags

import q2pi
import q2pi.envs.gymnasium
from q2pi import __main__ as cli
from q2pi.algorithms.registry import default_config
from q2pi.commands.output import prints_to_stderr
from q2pi.config import override, resolve
from q2pi.envs.errors import EnvError
from q2pi.envs.vector import VectorEnv
from q2pi.runs.checkpoint import digest
from q2pi.runs.execute import execute, execute_job
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint
from q2pi.runs.manifest import steps
from q2pi.runs.stored_config import read_config

TALKS = """
import atexit, ctypes, os, subprocess, sys
import gymnasium, numpy as np

OUT = sys.stdout
print("hello from the module")

class Talks(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self):
        print("hello from the simulator")
        ctypes.CDLL(None).puts(b"hello from C")
        os.write(1, b"hello from the descriptor\\n")
        subprocess.run(["echo", "hello from a process"])
        OUT.write("hello from the old stream ")
        atexit.register(print, "goodbye")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        print("hello again")
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), 1.0, self.steps == 10, False, {}

    def __del__(self):
        os.write(1, b"deleted\\n")

gymnasium.register("Talks-v0", Talks)
"""
PPO = QUIET | {"total_timesteps": 128, "num_envs": 2, "num_steps": 32, "hidden": (8,)}


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the module `talking` and a run on its environment."""
    folder = tmp_path_factory.mktemp("talks")
    (folder / "talking.py").write_text(TALKS)
    done = command(folder, "train", "ppo", "--env-id", "talking:Talks-v0", *flags(PPO), "--run-dir", "run")
    assert done.returncode == 0, done.stderr
    return folder


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert q2pi.__file__ is not None
    paths = os.pathsep.join([str(folder), str(Path(q2pi.__file__).parents[1])])
    return subprocess.run(
        [sys.executable, "-m", "q2pi", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )


def test_json_is_json_whatever_an_environment_prints(talks: Path) -> None:
    done = command(talks, "evaluate", "run", "--episodes", "2", "--json")
    assert len(json.loads(done.stdout)["scores"]) == 2, done.stderr
    for words in ("the module", "the simulator", "C", "the descriptor", "a process", "the old stream", "again"):
        assert f"hello from {words}" in done.stderr or f"hello {words}" in done.stderr, words
    for words in ("goodbye", "deleted"):
        assert words in done.stderr


def test_without_json_an_environment_prints_as_it_does(talks: Path) -> None:
    done = command(talks, "evaluate", "run", "--episodes", "2")
    assert "hello from the simulator" in done.stdout


def print_inside() -> None:
    with prints_to_stderr(True):
        print("inside")
        os.write(1, b"inside\n")
        raise RuntimeError


def test_standard_output_is_restored(capfd: pytest.CaptureFixture[str]) -> None:
    plain = sys.stdout
    with pytest.raises(RuntimeError):
        print_inside()
    print("after")
    os.write(1, b"after\n")
    assert sys.stdout is plain
    out, err = capfd.readouterr()
    assert (out.split(), err.split()) == (["after", "after"], ["inside", "inside"])


class Fails(gymnasium.Env[Any, Any]):
    """Raises in the step or reset that class attributes name; the numbers count over all instances."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    in_step: int | None = None
    in_reset: int | None = None
    length = 7
    counts: dict[str, int] = {"step": 0, "reset": 0}  # noqa: RUF012

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._count("reset", self.in_reset)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._count("step", self.in_step)
        self.steps += 1
        return self._observe(), float(action), self.steps == self.length, False, {}

    def _observe(self) -> Any:
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def _count(self, what: str, last: int | None) -> None:
        self.counts[what] += 1
        if self.counts[what] == last:
            raise ZeroDivisionError(f"the gripper is stuck in {what} {last}")


gymnasium.register("Fails-v0", Fails, max_episode_steps=100)
DQN = QUIET | {
    "total_timesteps": 240,
    "num_envs": 2,
    "learning_starts": 16,
    "buffer_size": 64,
    "batch_size": 4,
    "train_frequency": 2,
    "target_network_frequency": 10,
    "hidden": (8,),
    "checkpoint_frequency": 0,
}


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets where `Fails` fails; nothing fails before it is called."""

    def set_failure(**places: int | None) -> None:
        # Their steps would count.
        monkeypatch.setattr(VectorEnv, "check_reproducible", lambda envs: True)
        monkeypatch.setattr(q2pi.envs.gymnasium, "has_action_masks", lambda spec: False)
        monkeypatch.setattr(Fails, "counts", {"step": 0, "reset": 0})
        for name in ("in_step", "in_reset"):
            monkeypatch.setattr(Fails, name, places.get(name))

    set_failure()
    return set_failure


@pytest.mark.parametrize("place", [{"in_step": 101}, {"in_reset": 10}], ids=["step", "reset"])
@pytest.mark.parametrize(("algorithm", "options"), [("dqn", DQN), ("ppo", PPO)], ids=["dqn", "ppo"])
def test_an_environment_that_raises_loses_no_step_and_the_run_goes_on_bit_for_bit(
    algorithm: str, options: dict[str, Any], place: dict[str, int], failing: Any, tmp_path: Path
) -> None:
    q2pi.train(algorithm, env_id="Fails-v0", run_dir=tmp_path / "whole", **options)
    failing(**place)
    with pytest.raises(EnvError, match="the gripper is stuck"):
        q2pi.train(algorithm, env_id="Fails-v0", run_dir=tmp_path / "run", **options)
    run = RunFolder(tmp_path / "run")
    # Two environments with episodes of 7 steps: the tenth reset follows agent step 56.
    assert steps(run.checkpoints) == [100 if "in_step" in place else 54]
    failing()
    assert cli.main(["resume", str(run.path)]) == 0
    ends = [digest(load_checkpoint(RunFolder(tmp_path / name))[1]) for name in ("run", "whole")]
    assert ends[0] == ends[1]
    rows = [RunFolder(tmp_path / name).rows("episode") for name in ("run", "whole")]
    assert rows[0] == rows[1], "no episode is lost or counted twice"


def test_the_traceback_is_the_environments_own(failing: Any, tmp_path: Path, capfd: Any, no_figures: None) -> None:
    path = tmp_path / "a run"
    failing(in_step=1_500)  # after the timing run
    train = ["train", "dqn", "--env-id", "Fails-v0", *flags(DQN | {"total_timesteps": 4_000})]
    assert cli.main([*train, "--run-dir", str(path)]) == 1
    out, err = capfd.readouterr()
    assert "no step is lost; continue with:  q2pi resume '" in out
    first, second, *trace = err.splitlines()
    assert first.startswith("q2pi: --env-id Fails-v0: step raised ZeroDivisionError: the gripper is stuck in step 1500")
    assert second == "the environment's own traceback:"
    assert trace[0] == "Traceback (most recent call last):"
    assert "test_output.py" in trace[1], "its frames begin in the environment's file"
    assert trace[-1] == "ZeroDivisionError: the gripper is stuck in step 1500"


def test_an_environment_that_raises_in_an_evaluation_loses_no_step(failing: Any, tmp_path: Path) -> None:
    options = DQN | {"evaluation_episodes": 2, "evaluation_frequency": 120}
    failing(in_step=125)
    with pytest.raises(EnvError):
        q2pi.train("dqn", env_id="Fails-v0", run_dir=tmp_path / "run", **options)
    assert steps(RunFolder(tmp_path / "run").checkpoints) == [120]


def test_a_job_reports_the_traceback_as_the_cause(failing: Any, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", resolve(override(default_config("dqn"), DQN | {"env_id": "Fails-v0"})))
    failing(in_step=20)
    with pytest.raises(RuntimeError, match="Fails-v0: step raised ZeroDivisionError") as caught:
        execute_job(
            {"path": str(run.path), "config": run.table()},
            lambda message: None,
            lambda: False,
        )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


class Endless(Fails):
    """Never ends by itself."""

    length = -1


gymnasium.register("Endless-v0", Endless)
gymnasium.register("Limited-v0", Endless, max_episode_steps=10_000)


@pytest.mark.parametrize(("env_id", "count"), [("Endless-v0", 1), ("Limited-v0", 0)])
def test_episodes_cut_at_the_default_limit_are_said_once(
    env_id: str, count: int, failing: Any, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("q2pi.envs.gymnasium.DEFAULT_TIME_LIMIT", 20)
    if env_id == "Limited-v0":
        monkeypatch.setattr(Endless, "length", 25)
    q2pi.train("dqn", env_id=env_id, run_dir=tmp_path / "run", **DQN)
    config = read_config(RunFolder(tmp_path / "run"))
    assert config.env.env_id == env_id
    warnings: list[str] = []
    execute(resolve(config), tmp_path / "again", warn=warnings.append)
    assert len(warnings) == count
    if count:
        assert warnings == [
            "Endless-v0 has no time limit: an episode was cut at 20 steps; "
            "--env-options max_episode_steps=N sets another limit"
        ]
