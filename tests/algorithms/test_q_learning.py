"""Tabular agents: single updates by hand, environments with known values, exact resumption, mistakes."""

import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q2pi import api
from q2pi.algorithms.build import agent_spec, build_agent
from q2pi.algorithms.q_learning import Agent, Config
from q2pi.config import RunConfig, resolve
from q2pi.envs.aliased_vacuum import AliasedVacuum
from q2pi.envs.make import make_envs
from q2pi.envs.spec import EnvSpec
from q2pi.envs.vector import Step
from q2pi.equations.exact import optimal_values, policy_value
from q2pi.equations.tabular import Target, epsilon_greedy
from q2pi.errors import UserError
from q2pi.runs.checkpoint import digest
from q2pi.runs.estimate import estimate
from q2pi.training.events import Checkpoint, Finished, Started
from q2pi.training.loop import run
from q2pi.training.presets import configure, names

LAKE = "FrozenLake-v1"  # 16 states, 4 actions
CELLS = "q2pi/AliasedVacuumCells-v0"
TARGETS: list[Target] = ["q_learning", "sarsa", "expected_sarsa", "double_q"]


def config_for(env_id: str, *, num_envs: int = 1, steps: int = 1000, seed: int = 1, **hyper: Any) -> RunConfig[Config]:
    return RunConfig(
        algorithm="q_learning",
        total_timesteps=steps,
        num_envs=num_envs,
        seed=seed,
        device="cpu",
        threads=1,
        checkpoint_frequency=0,
        evaluation_episodes=0,
        env=EnvSpec(env_id),
        hyper=Config(**hyper),
    )


def agent_for(env_id: str = LAKE, **options: Any) -> Agent:
    config = resolve(config_for(env_id, **options))
    envs = make_envs(config.env, config.num_envs, config.seed)
    agent = build_agent(config, envs)
    envs.close()
    assert isinstance(agent, Agent)
    agent.begin(np.zeros((config.num_envs, *agent.spec.observation_shape), np.int64))
    return agent


def result(next_state: int, reward: float, *, end: str = "", first: int | None = None) -> Step:
    """Return a step of one environment; `first` is the first state of the next episode."""
    following = np.array([[next_state]])
    return Step(
        next_observation=following,
        observation=following if first is None else np.array([[first]]),
        reward=np.array([reward], np.float32),
        terminated=np.array([end == "terminated"]),
        truncated=np.array([end == "truncated"]),
        life_lost=np.array([False]),
        episodes=(),
    )


def take(agent: Agent, action: int, step: Step) -> int:
    """Observe one step of one environment and return the number of updates made."""
    agent.observe(np.array([action]), step)
    return len(agent.learn(1))


def trained(config: RunConfig[Config], state: Any = None) -> Agent:
    for event in run(resolve(config), state):
        if isinstance(event, Started):
            agent = event.agent
    assert isinstance(event, Finished)
    assert isinstance(agent, Agent)
    return agent


def test_q_learning_by_hand() -> None:
    agent = agent_for(gamma=0.1, learning_rate=0.5)
    agent.q[0, 1] = [4, 99, 7, 0]
    assert take(agent, 2, result(1, 1.0)) == 1
    assert agent.q[0, 0].tolist() == [0, 0, pytest.approx(0.5 * (1 + 9.9)), 0]
    assert agent.q[0, 1].tolist() == [4, 99, 7, 0]
    assert agent.states.tolist() == [1]


@pytest.mark.parametrize("target", ["q_learning", "sarsa", "expected_sarsa"])
def test_truncation_bootstraps_from_the_final_state_and_termination_does_not(target: Target) -> None:
    """91 is the value of the next episode's first state, from which no target may bootstrap."""
    expected = {"terminated": 1.0, "truncated": 1 + 0.5 * 8}
    for end, value in expected.items():
        agent = agent_for(gamma=0.5, learning_rate=1.0, target=target, start_e=0.0, end_e=0.0)
        agent.q[0, 1], agent.q[0, 7] = [2, 8, 6, 4], 91
        assert take(agent, 2, result(1, 1.0, end=end, first=7)) == 1
        assert agent.q[0, 0, 2] == value
        assert agent.states.tolist() == [7]


def test_sarsa_waits_for_the_next_action() -> None:
    agent = agent_for(gamma=0.1, learning_rate=0.5, target="sarsa")
    agent.q[0, 1] = [4, 99, 7, 0]
    assert take(agent, 2, result(1, 1.0)) == 0
    assert not agent.q[0, 0].any()
    assert take(agent, 0, result(5, 3.0)) == 1
    assert agent.q[0, 0, 2] == pytest.approx(0.5 * (1 + 0.4))
    assert agent.q[0, 1].tolist() == [4, 99, 7, 0]


def test_sarsa_never_joins_two_episodes() -> None:
    """An episode's last step gives two updates, in order; the next episode's first action gives none."""
    agent = agent_for(gamma=0.5, learning_rate=1.0, target="sarsa")
    agent.q[0, 1], agent.q[0, 7] = 6, 91
    take(agent, 2, result(1, 1.0))
    assert take(agent, 3, result(5, 10.0, end="terminated", first=7)) == 2
    assert agent.q[0, 0, 2] == 1 + 0.5 * 6
    assert agent.q[0, 1, 3] == 10
    before = agent.q.copy()
    assert take(agent, 1, result(6, 100.0)) == 0
    np.testing.assert_array_equal(agent.q, before)


def test_truncated_sarsa_takes_the_mean_over_its_policy() -> None:
    agent = agent_for(gamma=0.5, learning_rate=1.0, target="sarsa", start_e=0.4, end_e=0.4)
    agent.q[0, 1] = [1, 2, 3, 10]
    take(agent, 2, result(1, 1.0, end="truncated", first=7))
    assert agent.q[0, 0, 2] == pytest.approx(1 + 0.5 * (0.1 * (1 + 2 + 3) + 0.7 * 10))


def test_the_transition_that_sarsa_holds_is_part_of_the_state() -> None:
    values = {}
    for kept in (True, False):
        first, second = (agent_for(gamma=0.1, learning_rate=0.5, target="sarsa", num_envs=1) for _ in range(2))
        first.q[0, 1] = [4, 99, 7, 0]
        take(first, 2, result(1, 1.0))
        state = copy.deepcopy(first.state())
        if not kept:
            state["pending"][:] = np.nan
        second.load(state)
        take(second, 0, result(5, 3.0))
        values[kept] = second.q[0, 0, 2]
    assert values[True] == pytest.approx(0.7)
    assert values[False] == 0  # without it the step's reward is lost


def test_tables_of_another_environment_are_refused() -> None:
    with pytest.raises(UserError, match=r"have shape \(1, 6, 4\), this run needs \(2, 6, 4\): --env-id and --target"):
        agent_for(CELLS, target="double_q").load(agent_for(CELLS).state())


def test_double_q_updates_one_table_with_the_values_of_the_other() -> None:
    updated = []
    for seed in range(12):
        agent = agent_for(gamma=0.1, learning_rate=0.5, target="double_q", seed=seed)
        agent.q[0, 1], agent.q[1, 1] = [1, 2, 3, 0], [4, 99, 7, 0]
        take(agent, 2, result(1, 1.0))
        changed = np.flatnonzero(agent.q[:, 0, 2])
        assert len(changed) == 1
        updated.append(int(changed[0]))
        chosen_by_the_updated = {0: 1 + 0.1 * 7, 1: 1 + 0.1 * 2}
        assert agent.q[changed[0], 0, 2] == pytest.approx(0.5 * chosen_by_the_updated[updated[-1]])
    assert set(updated) == {0, 1}
    np.testing.assert_array_equal(agent.table, agent.q.mean(0))


def test_environments_update_one_table_in_their_order() -> None:
    agent = agent_for(gamma=0.5, learning_rate=1.0, num_envs=2)
    both = np.array([[0], [0]])
    no = np.array([False, False])
    agent.observe(np.array([2, 2]), Step(both, both, np.array([1.0, 3.0], np.float32), no, no, no, ()))
    assert len(agent.learn(2)) == 2
    assert agent.q[0, 0, 2] == 3 + 0.5 * 1


def test_each_environment_draws_its_own_coin_and_exploration_falls_with_the_steps() -> None:
    agent = agent_for(steps=1000, start_e=1.0, end_e=0.2, exploration_fraction=0.5)
    agent.q[0, 0] = [0, 1, 0, 0]
    assert [agent.epsilon(step) for step in (0, 250, 500, 900)] == [1.0, pytest.approx(0.6), 0.2, 0.2]
    envs = np.zeros((4000, 1), np.int64)
    for step, share in ((0, 0.25), (250, 0.55), (900, 0.85)):
        actions = agent.act(envs, step)
        assert np.mean(actions == 1) == pytest.approx(share, abs=4 * np.sqrt(0.25 / 4000))
        np.testing.assert_array_equal(actions, agent.act(envs, step))
    assert (agent.act(envs, 900) != agent.act(envs, 901)).any()


def test_ties_are_broken_at_random_and_by_predict_to_the_lowest_action() -> None:
    agent = agent_for(start_e=0.0, end_e=0.0)
    agent.q[0, 0] = [0, 5, 5, 1]
    envs = np.zeros((400, 1), np.int64)
    assert set(agent.act(envs, 0)) == {1, 2}
    assert set(agent.evaluation_act(envs, np.random.default_rng(0))) == {1, 2}
    assert set(agent.predict(envs)[0]) == {1}
    assert agent.evaluation_policy == "greedy, ties broken at random"


def test_the_learning_rate_falls_to_its_final_value() -> None:
    assert agent_for(steps=100, learning_rate=0.4).learning_rate(50) == 0.4
    falling = agent_for(steps=100, learning_rate=0.4, final_learning_rate=0.2, gamma=0.0)
    assert [falling.learning_rate(step) for step in (0, 50, 100)] == [0.4, pytest.approx(0.3), 0.2]
    falling.observe(np.array([1]), result(3, 10.0))
    falling.learn(50)
    assert falling.q[0, 0, 1] == pytest.approx(3.0)


def test_rewards_are_clipped_if_the_rules_say_so() -> None:
    config = resolve(config_for("CliffWalking-v1", learning_rate=1.0))
    clipped = resolve(replace(config, env=EnvSpec("CliffWalking-v1", clip_rewards=True)))
    for chosen, expected in ((config, -100.0), (clipped, -1.0)):
        envs = make_envs(chosen.env, 1, 1)
        agent = build_agent(chosen, envs)
        assert envs.reset().tolist() == [[36]]
        agent.begin(envs.observation)
        envs.send(np.array([1]))
        agent.observe(np.array([1]), envs.recv())
        envs.close()
        agent.learn(1)
        assert isinstance(agent, Agent)
        assert agent.q[0, 36, 1] == expected


def test_an_observation_of_several_numbers_is_one_row() -> None:
    agent = agent_for("Blackjack-v1")
    assert agent.q.shape == (1, 32 * 11 * 2, 2)
    assert agent._rows(np.array([[20, 10, 1], [0, 0, 1]])).tolist() == [(20 * 11 + 10) * 2 + 1, 1]


def test_q_learning_learns_the_optimal_values() -> None:
    config = config_for(CELLS, num_envs=8, steps=8000, gamma=0.9, learning_rate=1.0, end_e=1.0)
    expected = optimal_values(AliasedVacuum().mdp(0.9)[0])[1]
    np.testing.assert_allclose(trained(config).table[:5], expected, atol=1e-6)


def test_expected_sarsa_learns_the_values_of_its_epsilon_greedy_policy() -> None:
    config = config_for(
        CELLS, num_envs=8, steps=12_000, learning_rate=1.0, target="expected_sarsa", gamma=0.9, start_e=0.4, end_e=0.4
    )
    mdp, _ = AliasedVacuum().mdp(0.9)
    table = trained(config).table[:5]
    of_its_policy = policy_value(mdp, epsilon_greedy(table, 0.4))[1]
    np.testing.assert_allclose(table, of_its_policy, atol=1e-3)
    assert np.abs(of_its_policy - optimal_values(mdp)[1]).max() > 0.1  # the values that Q-learning learns


def test_sarsa_learns_the_values_of_its_epsilon_greedy_policy_from_samples() -> None:
    config = config_for(
        CELLS,
        num_envs=8,
        steps=24_000,
        target="sarsa",
        gamma=0.9,
        start_e=0.4,
        end_e=0.4,
        learning_rate=0.5,
        final_learning_rate=0.01,
    )
    table = trained(config).table[:5]
    mdp, _ = AliasedVacuum().mdp(0.9)
    near, far = policy_value(mdp, epsilon_greedy(table, 0.4))[1], optimal_values(mdp)[1]
    assert np.abs(table - near).mean() < 0.05 < np.abs(table - far).mean()


def test_double_q_learns_the_optimal_values() -> None:
    config = config_for(CELLS, num_envs=8, steps=12_000, gamma=0.9, learning_rate=1.0, end_e=1.0, target="double_q")
    expected = optimal_values(AliasedVacuum().mdp(0.9)[0])[1]
    np.testing.assert_allclose(trained(config).q[:, :5], [expected, expected], atol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_a_resumed_run_is_the_uninterrupted_one(target: Target) -> None:
    config = config_for("CliffWalkingSlippery-v1", num_envs=3, steps=600, target=target)
    frequent = replace(config, checkpoint_frequency=111)
    states = {}
    for event in run(resolve(frequent)):
        if isinstance(event, Checkpoint):
            states[event.step] = copy.deepcopy(event.state)
    resumed = [event.state for event in run(resolve(frequent), states[222]) if isinstance(event, Checkpoint)]
    assert digest(resumed[-1]) == digest(states[600])
    assert digest(states[222]) != digest(states[600])


def test_evaluation_and_predict_change_no_state() -> None:
    agent = agent_for()
    agent.q[:] = np.random.default_rng(0).normal(size=agent.q.shape)
    before = digest(agent.state())
    agent.evaluation_act(np.array([[3]]), np.random.default_rng(0))
    agent.predict(3, deterministic=False)
    assert digest(agent.state()) == before


def test_predict_takes_one_state_or_several() -> None:
    agent = agent_for()
    agent.q[0, 3], agent.q[0, 9] = [0, 0, 7, 0], [0, 5, 0, 0]
    assert agent.predict(3)[0] == 2
    assert agent.predict(np.array([3]))[0] == 2
    assert agent.predict(np.array([3, 9]))[0].tolist() == [2, 1]
    assert agent.predict(np.array([[3], [9]]))[0].tolist() == [2, 1]


def test_a_run_is_recorded_loaded_and_evaluated(tmp_path: Path) -> None:
    options: dict[str, Any] = {"total_timesteps": 400, "evaluation_episodes": 4, "num_envs": 4, "device": "cpu"}
    agent = api.train("q_learning", env_id=LAKE, run_dir=tmp_path / "run", threads=1, **options)
    loaded = api.load(tmp_path / "run")
    assert isinstance(agent, Agent)
    assert isinstance(loaded, Agent)
    np.testing.assert_array_equal(loaded.q, agent.q)
    assert loaded.updates == 400
    assert api.evaluate(tmp_path / "run", episodes=2).protocol["policy"] == "greedy, ties broken at random"


def test_storage_and_updates_are_estimated() -> None:
    for target, tables in (("q_learning", 1), ("double_q", 2)):
        config = resolve(config_for(LAKE, target=target))
        envs = make_envs(config.env, 1, 1)
        assert config.hyper.storage_bytes(agent_spec(config, envs), sys.maxsize) == tables * 16 * 4 * 8
        assert estimate(config).updates == 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env_id": "CartPole-v1"}, "--env-id CartPole-v1 has observations Box(4): q_learning needs Discrete ones"),
        (
            {"env_id": LAKE, "learning_rate": 1.5},
            "--learning-rate 1.5 is out of range: it must be in [0, 1]",
        ),
        (
            {"env_id": LAKE, "final_learning_rate": -0.1},
            "--final-learning-rate -0.1 is out of range: it must be in [0, 1]",
        ),
        ({"env_id": LAKE, "end_e": 2.0}, "--end-e 2.0 is out of range: it must be in [0, 1]"),
    ],
)
def test_mistakes_are_one_line_with_flag_and_bound(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        agent_for(**options)
    assert str(raised.value) == message


def test_a_table_that_is_too_large_is_refused_before_it_is_allocated() -> None:
    config = resolve(replace(config_for("Blackjack-v1"), env=EnvSpec("Blackjack-v1", stack=4)))
    envs = make_envs(config.env, 1, 1)
    with pytest.raises(UserError, match=r"--env-id Blackjack-v1 with --stack 4 has 2.46e\+11 states"):
        build_agent(config, envs)


@pytest.mark.parametrize("name", names("q_learning"))
def test_presets_are_complete(name: str) -> None:
    config, used = configure("q_learning", None, name)
    assert used == name
    resolve(config)


@pytest.mark.learning
def test_q_learning_learns_taxi() -> None:
    config, _ = configure("q_learning", "Taxi-v3")
    report = [event for event in run(resolve(config)) if hasattr(event, "evaluation")][-1].evaluation.report()
    assert report["statistics"]["mean_minus_std"] >= 4.5


def test_expected_sarsa_takes_the_exploration_rate_of_the_step() -> None:
    """Budget 1000, epsilon from 1 to 0 over half of it: at step 250 the policy explores with probability 1/2."""
    options = {"start_e": 1.0, "end_e": 0.0, "exploration_fraction": 0.5, "gamma": 0.5, "learning_rate": 1.0}
    agent = agent_for(target="expected_sarsa", **options)
    agent.q[0, 1] = [8, 0, 0, 0]
    agent.observe(np.array([2]), result(1, 1.0))
    (metrics,) = agent.learn(250)
    assert metrics["epsilon"] == 0.5
    assert agent.q[0, 0, 2] == pytest.approx(1 + 0.5 * (0.5 * 8 + 0.5 * 2))
