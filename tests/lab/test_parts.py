"""Parts of the experiments against oracles: sampled episodes, environments with known values, probes."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from q2pi import __main__ as cli
from q2pi.commands import lab
from q2pi.equations import exact
from q2pi.lab import claim, environments, screens
from q2pi.lab.claims import deadly_triad, gradient_variance, local_optima, motion, sample_reuse
from q2pi.lab.sampling import episode_gradients, random_mdp, sample, score_functions


def test_sampled_returns_agree_with_the_exact_value() -> None:
    mdp = environments.slippery_walk(5)
    pi = np.full((5, 2), 0.5)
    episodes = sample(mdp, pi, 20_000, np.random.default_rng(0))
    returns = episodes.returns(mdp.gamma)[0]
    assert returns.mean() == pytest.approx(exact.expected_return(mdp, pi), abs=4 * returns.std() / np.sqrt(20_000))
    assert (episodes.valid.sum(axis=0) == episodes.ended.argmax(axis=0) + 1).all(), "padding begins after the last step"
    assert episodes.reward[~episodes.valid].sum() == 0


def test_a_policy_for_each_episode() -> None:
    mdp = environments.tempting_chain(3)
    right, left = np.eye(2)[[1, 1, 1]], np.eye(2)[[0, 0, 0]]
    episodes = sample(mdp, np.stack([right, left]), 2, np.random.default_rng(0))
    assert episodes.valid.sum(axis=0).tolist() == [3, 1]
    assert episodes.reward.sum(axis=0).tolist() == pytest.approx([1.0, 0.2])


def test_episode_gradients_by_hand() -> None:
    """One episode, two steps in one state: 2 * (1 - 0.25, -0.75) for action 0, 3 * (-0.25, 1 - 0.75) for action 1."""
    policy = np.array([[0.25, 0.75]])
    column = np.zeros((3, 1), np.int64)
    valid = np.array([[True], [True], [False]])
    gradient = episode_gradients(policy, column, np.array([[0], [1], [0]]), np.array([[2.0], [3.0], [99.0]]), valid)
    assert gradient[0, 0].tolist() == pytest.approx([1.5 - 0.75, -1.5 + 0.75])
    assert score_functions(policy, np.array(0), np.array(0)).tolist() == pytest.approx([0.75, -0.75])


@pytest.mark.parametrize("kind", gradient_variance.KINDS)
def test_every_weight_gives_an_unbiased_gradient(kind: str) -> None:
    noise = np.random.default_rng(0)
    mdp = random_mdp(3, 2, 2, gradient_variance.GAMMA, noise)
    theta = noise.normal(0, 0.5, size=(3, 2))
    found = gradient_variance.gradients(kind, mdp, exact.softmax_policy(theta), 4, 3_000, noise)
    expected = exact.softmax_gradient(mdp, theta, np.arange(3))
    error = (found.mean(axis=0) - expected) / (found.std(axis=0) / np.sqrt(len(found)) + 1e-12)
    assert np.abs(error).max() < 4.5


def test_random_mdps_terminate_with_probability_one_tenth() -> None:
    mdp = random_mdp(8, 3, 3, 0.99, np.random.default_rng(1))
    assert mdp.transition.sum(axis=-1) == pytest.approx(np.full((8, 3), 0.9))
    assert ((mdp.transition > 0).sum(axis=-1) == 3).all()


def test_bairds_features() -> None:
    rows = deadly_triad.features()
    assert rows[0].tolist() == [2, 0, 0, 0, 0, 0, 0, 1]
    assert rows[6].tolist() == [0, 0, 0, 0, 0, 0, 1, 2]
    assert len(deadly_triad.COMBINATIONS) == 8


def test_a_table_without_a_ratio_goes_to_the_true_values() -> None:
    states = np.arange(700) % 7
    log = deadly_triad.growth((False, False, False), states, np.roll(states, -1), np.ones(700, np.bool_), 0.1)
    assert log[-1] == pytest.approx(100 * np.log10(0.9))


@pytest.mark.parametrize("name", environments.MDPS)
@pytest.mark.parametrize("env_id", ["q2pi/LabTable-v0", "q2pi/LabVector-v0"])
def test_a_finite_mdp_pays_what_its_matrices_say(name: str, env_id: str) -> None:
    env: Any = gymnasium.make(env_id, mdp=name, size=5)
    mdp: exact.MDP = environments.MDPS[name](5)
    total, episodes = 0.0, 2_000
    actions = np.random.default_rng(0)
    for episode in range(episodes):
        env.reset(seed=episode)
        ended, discount = False, 1.0
        while not ended:
            observation, reward, ended, _, _ = env.step(int(actions.integers(mdp.actions)))
            total += discount * reward
            discount *= mdp.gamma
        assert env.observation_space.contains(observation)
    uniform = np.full((mdp.states, mdp.actions), 1 / mdp.actions)
    assert total / episodes == pytest.approx(exact.expected_return(mdp, uniform), abs=0.04)


def test_known_values_of_the_environments() -> None:
    chain = environments.tempting_chain(4, temptation=0.2, gamma=0.5)
    assert exact.optimal_values(chain)[1][0].tolist() == pytest.approx([0.2, 0.125])
    bias = environments.maximisation_bias(10)
    assert exact.optimal_values(bias)[1][0].tolist() == pytest.approx([0.0] + [-0.1] * 9)


def test_the_tempting_goal_attracts_the_uniform_policy() -> None:
    mdp = environments.tempting_chain(local_optima.SIZE, local_optima.TEMPTATION)
    q = exact.policy_value(mdp, np.full((mdp.states, 2), 0.5))[1]
    assert q[0, 0] > q[0, 1], "the gradient points to the small reward"
    assert exact.optimal_values(mdp)[1][0].argmax() == 1, "the other goal is better"


def test_blind_cartpole_and_bins() -> None:
    blind = gymnasium.make("q2pi/CartPoleBlind-v0")
    full = gymnasium.make("CartPole-v1")
    assert blind.reset(seed=3)[0].tolist() == full.reset(seed=3)[0][[0, 2]].tolist()
    bins: Any = gymnasium.make("q2pi/PendulumBins-v0", bins=5)
    values = [bins.get_wrapper_attr("action")(index).tolist() for index in range(5)]
    assert values == [[-2.0], [-1.0], [0.0], [1.0], [2.0]]


def test_bins_of_several_dimensions_count_like_digits() -> None:
    class Plane(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(0, 1, (1,))
        action_space = gymnasium.spaces.Box(np.float32([-1, 0]), np.float32([1, 10]))

    bins: Any = environments.Bins(Plane(), 3)
    assert bins.action_space.n == 9
    values = [bins.action(index).tolist() for index in range(9)]
    assert values == [[x, y] for x in (-1.0, 0.0, 1.0) for y in (0.0, 5.0, 10.0)]


def test_a_claim_whose_package_is_missing_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(claim, "find_spec", lambda name: None)
    needed = "the claim large_actions needs mujoco: pip install 'q2pi[mujoco]'"
    assert cli.main(["lab", "run", "large_actions", "--budget", "quick", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"q2pi: {needed}\n"
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(lab, "NAMES", ("concave_objective", "large_actions"))
    assert cli.main(["lab", "run", "--budget", "quick", "--seeds", "1", "--out", str(tmp_path / "out")]) == 0
    assert f"q2pi: left out: {needed}\n" in capsys.readouterr().err
    assert (tmp_path / "out/concave_objective/verdict.json").exists()


def test_one_step_is_the_same_for_every_method() -> None:
    mdp = environments.slippery_walk(4)
    theta = np.zeros((4, 2))
    episodes = sample(mdp, exact.softmax_policy(theta), 20, np.random.default_rng(0))
    steps = {name: sample_reuse.improve(theta, episodes, name, 1, 0.5) for name in sample_reuse.METHODS}
    for found in steps.values():
        assert found == pytest.approx(steps["plain"])
    many = {name: sample_reuse.improve(theta, episodes, name, 50, 0.5) for name in sample_reuse.METHODS}
    assert np.abs(many["clipped"]).max() < np.abs(many["plain"]).max(), "clipping bounds the change"


# ---- screens ---------------------------------------------------------------------------------------------------------


def test_the_ball_is_found_between_the_walls() -> None:
    screen = np.zeros((2, 210, 160, 3), np.uint8)
    screen[:, 24:34] = screens.BALL
    screen[:, 194:210] = screens.BALL
    screen[0, 100:104, 60:62] = screens.BALL
    found = screens.ball_positions(screen)
    assert found[0].tolist() == [101.5, 60.5]
    assert np.isnan(found[1]).all()


def test_velocities_need_both_screens_of_one_episode() -> None:
    nan = np.nan
    ball = np.array([[0, 0], [1, 2], [2, 4], [nan, nan], [9, 9], [5, 5], [6, 6], [90, 90]])
    start = np.array([True, False, False, False, False, True, False, False])
    moved, indices = motion.velocities(ball, start, deepest=2)
    assert indices.tolist() == [1, 2, 6], "row 5 begins an episode, row 7 is a new serve"
    assert moved.tolist() == [[1, 2], [1, 2], [1, 1]]
    assert motion.velocities(ball, start, deepest=3)[1].tolist() == [2]


def test_a_probe_finds_what_is_linear_and_nothing_else() -> None:
    noise = np.random.default_rng(0)
    place = noise.integers(20, size=600)
    frames = np.zeros((600, 20), np.uint8)
    frames[np.arange(600), place] = 255
    assert screens.probe(frames, place[:, None].astype(float), 400) > 0.95
    assert screens.probe(frames, noise.normal(size=(600, 1)), 400) < 0.1
