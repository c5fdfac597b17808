"""Evaluations under other rules: the rules act, the report is stored with them, and the run's own score stays."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from small_runs import CARTPOLE, INVADERS, Steady, flags

import q2pi
from q2pi import __main__ as cli
from q2pi.algorithms.common.epsilon_greedy import EpsilonGreedyAgent
from q2pi.envs.spec import EnvSpec, resolve
from q2pi.errors import UserError
from q2pi.reports.comparison.read import collect
from q2pi.runs.evaluations import other_env
from q2pi.runs.folder import RunFolder
from q2pi.training.events import Diverged

gymnasium.register("Variant-v0", Steady, max_episode_steps=100)
gymnasium.register("Variant-v1", Steady, kwargs={"length": 5}, max_episode_steps=100)
VARIANT = {name: value for name, value in CARTPOLE.items() if name != "env_id"} | {"evaluation_episodes": 2}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run on episodes of two steps with reward 1."""
    q2pi.train("dqn", env_id="Variant-v0", run_dir=tmp_path / "run", **VARIANT)
    return RunFolder(tmp_path / "run")


def evaluated(run: RunFolder, capfd: Any, *words: str) -> dict[str, Any]:
    capfd.readouterr()
    assert cli.main(["evaluate", str(run.path), "--episodes", "2", "--json", *words]) == 0
    report: dict[str, Any] = json.loads(capfd.readouterr().out)
    return report


@pytest.mark.parametrize(
    ("words", "score", "differences"),
    [
        ([], 2.0, {}),
        (["--env-options", "length=3"], 3.0, {"env_options": [[], ["length=3"]]}),
        (["--env-id", "Variant-v1"], 5.0, {"env_id": ["Variant-v0", "Variant-v1"]}),
        (
            ["--env-id", "Variant-v1", "--env-options", "length=4", "reward=2"],
            8.0,
            {"env_id": ["Variant-v0", "Variant-v1"], "env_options": [[], ["length=4", "reward=2"]]},
        ),
        (["--epsilon", "0.5"], 2.0, {}),
    ],
)
def test_an_evaluation_under_other_rules_is_stored_apart(
    words: list[str], score: float, differences: dict[str, Any], run: RunFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    own, metrics, config = (f.read_bytes() for f in (run.evaluation_file, run.metrics_file, run.config_file))
    report = evaluated(run, capfd, *words)
    assert report["scores"] == [score, score]
    assert report["differences"] == differences
    assert ("epsilon 0.5" in report["protocol"]["policy"]) is ("--epsilon" in words)
    (stored,) = run.evaluations.iterdir()
    assert json.loads(stored.read_text()) == report
    assert [f.read_bytes() for f in (run.evaluation_file, run.metrics_file, run.config_file)] == [own, metrics, config]
    cells, _ = collect([run])
    assert cells["Variant-v0"]["dqn"][0].score == 2.0, "reports keep the run's own score"


def test_each_protocol_has_a_file_of_its_own(run: RunFolder, capfd: pytest.CaptureFixture[str]) -> None:
    for words in ([], [], ["--env-options", "length=3"], ["--seed", "5"], ["--epsilon", "0.5"]):
        evaluated(run, capfd, *words)
    assert len(list(run.evaluations.iterdir())) == 4


def test_the_table_names_what_differs(run: RunFolder, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    words = ["--env-options", "length=3", "--env-id", "Variant-v1"]
    assert cli.main(["evaluate", str(run.path), "--episodes", "2", *words]) == 0
    out = capfd.readouterr().out
    assert "--env-options" in out
    assert "length=3; in training none" in out
    assert "Variant-v1; in training Variant-v0" in out
    assert f"stored in {run.evaluations}" in out


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["--env-id", "CartPole-v1"], ["--env-id CartPole-v1", "(4,)", "trained on Variant-v0", "(1,)"]),
        (["--env-id", "FrozenLake-v1"], ["--env-id FrozenLake-v1", "trained on Variant-v0"]),
        (["--env-id", "Varian-v0"], ["Varian-v0"]),
        (["--env-options", "lenght=3"], ["--env-options lenght=3", "lenght"]),
        (["--protocol", "nature"], ["--protocol nature applies to Atari games"]),
    ],
)
def test_rules_that_do_not_fit_are_one_line(
    words: list[str], fragments: list[str], run: RunFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    assert cli.main(["evaluate", str(run.path), *words]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert [fragment for fragment in fragments if fragment not in line] == []
    assert not run.evaluations.exists()


def test_another_protocol_of_atari_has_its_own_defaults() -> None:
    own = resolve(EnvSpec("Pong", resize=(36, 36)))
    nature = other_env(own, {"protocol": "nature"})
    assert nature == resolve(EnvSpec("Pong", protocol="nature", resize=(36, 36)))
    assert nature.repeat_action_probability == 0
    chosen = resolve(EnvSpec("Pong", repeat_action_probability=0.1))
    assert other_env(chosen, {"protocol": "nature"}).repeat_action_probability == 0.1, "a choice is kept"
    assert other_env(own, {"repeat_action_probability": 0.0}).protocol == "machado"


def test_an_atari_run_is_evaluated_with_sticky_actions(tmp_path: Path, capfd: Any) -> None:
    short = INVADERS | {"total_timesteps": 150, "max_frames_per_episode": 100}
    q2pi.train("dqn", run_dir=tmp_path / "run", **short)
    report = evaluated(RunFolder(tmp_path / "run"), capfd, "--repeat-action-probability", "0.5")
    assert report["protocol"]["env"]["repeat_action_probability"] == 0.5
    assert report["differences"] == {"repeat_action_probability": [0.0, 0.5]}


def test_from_python(run: RunFolder) -> None:
    assert q2pi.evaluate(run.path, episodes=2, env_options=["length=3"]).scores == [3.0, 3.0]
    assert "epsilon 0.25" in q2pi.evaluate(run.path, episodes=2, epsilon=0.25).protocol["policy"]
    assert not run.evaluations.exists(), "the command stores, Python returns"
    with pytest.raises(UserError, match="unknown option 'lenght'"):
        q2pi.evaluate(run.path, episodes=2, lenght=3)


def test_tables_of_other_sizes_are_refused(tmp_path: Path) -> None:
    q2pi.train("q_learning", env_id="FrozenLake-v1", total_timesteps=100, threads=1, run_dir=tmp_path / "run")
    with pytest.raises(UserError, match="the tables have other sizes"):
        q2pi.evaluate(tmp_path / "run", episodes=1, env_id="FrozenLake8x8-v1")
    slippery = q2pi.evaluate(tmp_path / "run", episodes=1, env_options=["is_slippery=false"])
    assert slippery.protocol["env"]["env_options"] == ["is_slippery=false"]


def test_a_folder_that_cannot_be_written_still_gives_the_score(
    run: RunFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    run.evaluations.write_text("a file in the way")
    capfd.readouterr()
    assert cli.main(["evaluate", str(run.path), "--episodes", "2"]) == 0
    out, err = capfd.readouterr()
    assert "not stored" in out
    assert err.startswith(f"q2pi: {run.evaluations} cannot be written")


def _nan(self: Any, observation: Any) -> Any:
    return np.full((len(observation), self.actions), np.nan, np.float32)


def test_an_evaluation_of_nan_is_one_line_and_stores_nothing(
    run: RunFolder, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the check, NaN would choose action 0 and the score would be stored."""
    before = sorted(path for path in run.path.rglob("*"))
    monkeypatch.setattr(EpsilonGreedyAgent, "q_values", _nan)
    capfd.readouterr()
    assert cli.main(["evaluate", str(run.path), "--episodes", "2"]) == 1
    place = f"an evaluation of {run.path} at step 400"
    assert capfd.readouterr().err == f"q2pi: training diverged: a Q-value is NaN in {place}; nothing was stored\n"
    assert sorted(path for path in run.path.rglob("*")) == before
    with pytest.raises(Diverged, match="a Q-value is NaN"):
        q2pi.evaluate(run.path, episodes=2)


def test_nan_that_first_shows_in_an_evaluation_ends_training_as_nan_in_training_does(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    act = EpsilonGreedyAgent.evaluation_act

    def late_nan(self: Any, observation: Any, noise: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(EpsilonGreedyAgent, "q_values", _nan)
            return act(self, observation, noise)

    monkeypatch.setattr(EpsilonGreedyAgent, "evaluation_act", late_nan)
    path = tmp_path / "run"
    options = VARIANT | {"env_id": "Variant-v0", "evaluation_frequency": 240}
    assert cli.main(["train", "dqn", *flags(options), "--no-estimate", "--run-dir", str(path)]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("q2pi: training diverged: a Q-value is NaN in the evaluation after 2")
    assert f"the newest checkpoint is {path}/checkpoints/000000000200" in line
    monkeypatch.setattr(EpsilonGreedyAgent, "evaluation_act", act)
    assert cli.main(["resume", str(path)]) == 0
    assert [row["step"] for row in RunFolder(path).rows("evaluation")][-1] == 400
