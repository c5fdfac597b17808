"""The Python interface."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_runs import CARTPOLE, cartpole

import q2pi
from q2pi.config import override, resolve, to_table
from q2pi.errors import UserError
from q2pi.runs import checkpoint
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint
from q2pi.runs.stored_config import read_config
from q2pi.training.presets import configure


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("api") / "run"
    q2pi.train("dqn", run_dir=path, **CARTPOLE)
    return path


def test_a_loaded_agent_equals_the_trained_one(folder: Path, tmp_path: Path) -> None:
    trained = q2pi.train("dqn", **CARTPOLE)
    loaded = q2pi.load(folder)
    learned, same = trained.state(), loaded.state()
    # Loading an agent for acting does not load its replay.
    learned.pop("replay"), same.pop("replay")
    assert checkpoint.digest(learned) == checkpoint.digest(same)
    observation = np.array([[0.1, -0.2, 0.05, 0.3], [0.0, 1.0, -0.1, -1.0]], np.float32)
    expected, _ = trained.predict(observation)
    assert loaded.predict(observation)[0].tolist() == expected.tolist()


def test_a_recorded_run_can_be_opened(folder: Path) -> None:
    run = RunFolder.open(folder)
    assert to_table(read_config(run)) == to_table(resolve(override(configure("dqn", "CartPole-v1")[0], CARTPOLE)))
    assert run.rows("train")
    assert load_checkpoint(run)[0] == 400


def test_a_run_is_evaluated(folder: Path) -> None:
    evaluation = q2pi.evaluate(folder, episodes=3, seed=5)
    assert len(evaluation.scores) == 3
    assert evaluation.step == 400
    assert q2pi.evaluate(folder, episodes=3, seed=5).report() == evaluation.report()


def test_make_envs() -> None:
    envs = q2pi.make_envs("CartPole-v1", 3, seed=2)
    assert envs.reset().shape == (3, 4)
    envs.close()
    with pytest.raises(UserError, match="unknown option 'stak'"):
        q2pi.make_envs("CartPole-v1", stak=2)


def test_options_set_fields_of_run_environment_and_hyperparameters() -> None:
    config = override(cartpole(), {"seed": 9, "stack": 2, "gamma": 0.5})
    assert (config.seed, config.env.stack, config.hyper.gamma) == (9, 2, 0.5)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"sed": 1}, "unknown option 'sed' of dqn"),
        ({"hyper": {}}, "unknown option 'hyper' of dqn"),
        ({"gamma": "high"}, "options: gamma = 'high': it must be of type float"),
    ],
)
def test_invalid_options(options: dict[str, object], line: str) -> None:
    with pytest.raises(UserError) as caught:
        q2pi.train("dqn", env_id="CartPole-v1", **options)
    assert str(caught.value) == line


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = q2pi.trian
    assert set(q2pi.__all__) == {"UserError", "__version__", "evaluate", "load", "make_envs", "train"}


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import q2pi, sys; print([m for m in ('torch', 'numpy', 'gymnasium', 'ale_py') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
