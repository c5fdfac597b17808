"""The commands on environments that people bring."""

import sys
from pathlib import Path
from typing import Any

import pytest
from own_envs import Small, registered

from q2pi import __main__ as cli

PPO = ["--total-timesteps", "256", "--num-envs", "1", "--num-steps", "32", "--threads", "1"]


class OnlyOne(Small):
    """A simulator of which one instance can run."""

    alive = 0
    made = 0

    def __init__(self, render_mode: str | None = None) -> None:
        if OnlyOne.alive:
            raise RuntimeError("the simulator's port is in use already")
        OnlyOne.alive += 1
        OnlyOne.made += 1
        super().__init__(render_mode)

    def close(self) -> None:
        OnlyOne.alive -= 1


@pytest.mark.parametrize("more", [[], ["--explain"], ["--no-estimate"]], ids=str)
def test_one_environment_without_evaluation_is_one_instance(more: list[str], tmp_path: Path, no_figures: None) -> None:
    with registered(OnlyOne) as env_id:
        run = ["train", "ppo", "--env-id", env_id, *PPO, "--evaluation-episodes", "0", *more]
        assert cli.main([*run, "--run-dir", str(tmp_path / "run")]) == 0
    assert OnlyOne.alive == 0


def test_evaluation_needs_more_instances(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with registered(OnlyOne) as env_id:
        run = ["train", "ppo", "--env-id", env_id, *PPO, "--evaluation-episodes", "1", "--no-estimate"]
        assert cli.main([*run, "--run-dir", str(tmp_path / "run")]) == 1
    assert OnlyOne.alive == 0
    assert "it cannot be made: RuntimeError: the simulator's port is in use already" in capfd.readouterr().err


def test_no_estimate_skips_the_timing_run(tmp_path: Path, capfd: pytest.CaptureFixture[str], no_figures: None) -> None:
    made = []
    for more in ([], ["--no-estimate"]):
        OnlyOne.made = 0
        with registered(OnlyOne) as env_id:
            run = ["train", "ppo", "--env-id", env_id, *PPO, "--evaluation-episodes", "0", "--explain", *more]
            assert cli.main(run) == 0
        made.append(OnlyOne.made)
    assert made[0] > made[1] == 3
    assert "not estimated (--no-estimate)" in capfd.readouterr().out


@pytest.mark.parametrize("reward", [float("nan"), None])
def test_a_bad_reward_is_the_environments(
    reward: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], no_figures: None
) -> None:
    class Broken(Small):
        def step(self, action: Any) -> Any:
            observation, paid, *rest = super().step(action)
            return observation, reward if self.t == 5 else paid, *rest

    with registered(Broken) as env_id:
        run = ["train", "ppo", "--env-id", env_id, *PPO, "--no-estimate", "--run-dir", str(tmp_path / "run")]
        assert cli.main(run) == 2
    error = capfd.readouterr().err
    assert f"--env-id {env_id}: step returned the reward {reward}" in error
    assert "learning-rate" not in error


@pytest.mark.parametrize(("reward", "blamed"), [(1e30, "reward"), (-1e30, "reward"), (1.0, "rate")])
def test_large_rewards_are_named_if_training_diverges(
    reward: float, blamed: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], no_figures: None
) -> None:
    class Rich(Small):
        def step(self, action: Any) -> Any:
            observation, _, *rest = super().step(action)
            return observation, reward, *rest

    with registered(Rich) as env_id:
        run = ["train", "ppo", "--env-id", env_id, *PPO, "--no-estimate", "--run-dir", str(tmp_path / "run")]
        assert cli.main([*run, "--evaluation-episodes", "0", "--learning-rate", "1e30"]) == 1
    error = capfd.readouterr().err
    assert ("rewards are as large as 1e+30: try --clip-rewards or --normalize-rewards" in error) is (blamed == "reward")
    assert ("try a smaller --learning-rate" in error) is (blamed == "rate")


def test_a_module_and_wrappers_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], no_figures: None
) -> None:
    (tmp_path / "own_garden.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Garden-v0', entry_point='gymnasium.envs.classic_control:CartPoleEnv')\n"
        "class Twice(gymnasium.RewardWrapper):\n"
        "    def reward(self, reward):\n"
        "        return 2 * reward\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    run = ["train", "ppo", "--env-id", "own_garden:Garden", "--wrappers", "own_garden:Twice", *PPO]
    assert cli.main([*run, "--no-estimate", "--evaluation-episodes", "1", "--run-dir", "run"]) == 0
    capfd.readouterr()
    assert cli.main(["evaluate", "run", "--episodes", "1", "--json"]) == 0
    assert '"own_garden:Twice"' in capfd.readouterr().out
    assert cli.main(["record", "run", "--out", "a.mp4"]) == 0
