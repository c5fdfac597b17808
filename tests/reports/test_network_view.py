"""Animations of the network's view: the numbers and frames are those of the network and the episode."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from q2pi.__main__ import main
from q2pi.errors import UserError
from q2pi.reports.network_picture import _axis, _lengths, _summary
from q2pi.reports.network_view import _durations, action_values, record_network_view
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_agent

TRAIN = ["--num-envs", "2", "--evaluation-episodes", "0", "--threads", "1", "--device", "cpu"]
Q_LEARNING = ["train", "q_learning", "--env-id", "q2pi/FrozenLakeNoSlip-v1", "--total-timesteps", "2000", *TRAIN]
DQN = ["train", "dqn", "--env-id", "CartPole-v1", "--total-timesteps", "600", "--learning-starts", "100", *TRAIN]
PPO = ["train", "ppo", "--env-id", "CartPole-v1", "--total-timesteps", "600", "--num-steps", "32", *TRAIN]


def trained(command: list[str], folder: Path) -> RunFolder:
    assert main([*command, "--run-dir", str(folder)]) == 0
    return RunFolder.open(folder)


@pytest.fixture(scope="module")
def dqn(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trained(DQN, tmp_path_factory.mktemp("dqn") / "run")


@pytest.fixture(scope="module")
def ppo(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trained(PPO, tmp_path_factory.mktemp("ppo") / "run")


def test_q_values_are_those_of_the_greedy_action(dqn: RunFolder) -> None:
    agent = load_agent(dqn)[0]
    for observation in np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32):
        names, numbers, kind = action_values(agent, observation)
        assert (names, kind) == (["action 0", "action 1"], "Q(s, a)")
        assert numbers.argmax() == agent.predict(observation)[0]


def test_probabilities_are_the_frequencies_of_actions(ppo: RunFolder) -> None:
    agent = load_agent(ppo)[0]
    observation = np.array([0.1, 0.2, -0.1, 0.3], np.float32)
    _, numbers, kind = action_values(agent, observation)
    assert kind == "pi(a|s)"
    assert numbers.sum() == pytest.approx(1)
    drawn = agent.predict(np.repeat(observation[None], 4000, axis=0), deterministic=False)[0]
    assert drawn.mean() == pytest.approx(numbers[1], abs=0.04)  # 5 standard errors


def test_a_q_table_works_like_a_network(tmp_path: Path) -> None:
    run = trained(Q_LEARNING, tmp_path / "run")
    agent: Any = load_agent(run)[0]
    _, numbers, kind = action_values(agent, np.array([14]))
    assert kind == "Q(s, a)"
    np.testing.assert_array_equal(numbers, np.asarray(agent.table)[14].astype(np.float32))
    # 4 frames per second: every step is shown.
    video = record_network_view(run, tmp_path / "lake.gif", seconds=30)
    assert video.frames == video.entry["length"] + 1


def test_an_agent_without_q_values_and_policy_is_refused() -> None:
    nothing: Any = object()
    with pytest.raises(UserError, match="--network-view needs an agent with Q-values or a policy"):
        action_values(nothing, np.zeros(4))


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_frames_and_durations_of_an_animation(dqn: RunFolder, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cartpole{suffix}"
    assert main(["record", str(dqn.path), "--network-view", "--out", str(path), "--fps", "30", "--seconds", "0.2"]) == 0
    with Image.open(path) as animation:
        # 6 steps at 30 steps per second, every second step drawn: 0, 2, 4, at 15 frames per second.
        assert animation.n_frames == 3
        durations, pictures = [], []
        for index in range(3):
            animation.seek(index)
            durations.append(animation.info["duration"])
            pictures.append(np.asarray(animation.convert("RGB")))
    assert durations == [70, 60, 70]
    assert pictures[0][0, 0].tolist() == [255, 255, 255]
    assert all((before != after).any() for before, after in pairwise(pictures))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_durations_do_not_drift() -> None:
    assert _durations(3, 15) == [70, 60, 70]
    assert sum(_durations(180, 15)) == 12_000


def test_lengths_of_bars() -> None:
    q = np.array([1.0, 2.0, 6.0])
    assert _lengths(q, "Q(s, a)").tolist() == [-2, -1, 3]
    assert _axis(_lengths(q, "Q(s, a)"), "Q(s, a)") == (-2, 3)
    assert _lengths(q, "mode of the policy").tolist() == [1, 2, 6]
    assert _axis(q, "mode of the policy") == (0, 6)
    assert _axis(np.array([0.4, 0.6]), "pi(a|s)") == (0, 1)
    assert _axis(np.zeros(3), "Q(s, a)") == (-1, 1)


def test_the_curve_below_the_bars() -> None:
    assert _summary(np.array([1.0, 2.0, -9.0]), "Q(s, a)") == 2
    assert _summary(np.array([0.5, 0.5, 0.0]), "pi(a|s)") == pytest.approx(np.log(2))
    assert _summary(np.array([0.3]), "mode of the policy") is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--network-view", "--out", "a.mp4"], "--out a.mp4 must end in .gif or .png with --network-view"),
        (["--out", "a.gif"], "--out a.gif must end in .mp4"),
        (["--seconds", "3"], "--seconds 3 needs --network-view"),
        (["--network-view", "--seconds", "600"], "--seconds 600.0 is out of range"),
    ],
)
def test_mistakes_are_errors_of_one_line(
    dqn: RunFolder, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", str(dqn.path), *flags]) == 2
    assert message in capsys.readouterr().err
