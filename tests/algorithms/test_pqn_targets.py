"""PQN: Q(lambda) targets by hand and against a slow oracle, actions, what a rollout stores."""

import math
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from small_pqn import FIRST, Identity, observe, scripted, states, step_through

from q2pi.algorithms import pqn


def off_by_one_targets(agent: pqn.Agent) -> list[float]:
    """Return the targets of one environment as six files of the paper's code compute them.

    Going backwards, the second-last step uses the value that follows the last step instead of the value that follows
    itself.
    """
    rollout, mix = agent.rollout, agent.config.q_lambda
    final_value = rollout.final_value[-1, 0] if not rollout.ended[-1, 0] else 0.0
    following = [*rollout.value[1:-1, 0], final_value]
    target = rollout.reward[-1, 0] + rollout.discount[-1, 0] * final_value
    targets = [target]
    for t in reversed(range(len(following))):
        target = rollout.reward[t, 0] + rollout.discount[t, 0] * ((1 - mix) * following[t] + mix * target)
        targets.insert(0, target)
    return [float(target) for target in targets]


def test_the_second_last_target_is_not_off_by_one() -> None:
    """gamma and lambda 1/2. Last: 4 + 16/2 = 12. Second-last: 2 + (6 + 12)/4 = 6.5. First: 1 + (2 + 6.5)/4 = 3.125.

    The error takes 16, the value after the rollout, for the 6 of the observation between the last two steps.
    """
    agent = scripted(num_steps=3)
    step_through(agent, values=[8, 2, 6, 16], rewards=[1, 2, 4])
    assert agent.targets()[:, 0].tolist() == [3.125, 6.5, 12]
    assert off_by_one_targets(agent) == [3.75, 9, 12], "2 + (16 + 12)/4 = 9 and 1 + (2 + 9)/4 = 3.75"


def test_the_second_last_target_is_right_if_the_episode_ends_with_the_rollout() -> None:
    """Second-last: 2 + (6 + 4)/4 = 4.5; the error leaves out that the network's value of the last state is 6."""
    agent = scripted(num_steps=3)
    step_through(agent, [8, 2, 6, 16], [1, 2, 4], {2: "terminated"})
    assert agent.targets()[1:, 0].tolist() == [4.5, 4]
    assert off_by_one_targets(agent)[1:] == [3, 4]


@pytest.mark.parametrize(
    ("ending", "targets"),
    [
        ("terminated", [1 + (2 + 2) / 4, 2]),
        ("truncated", [1 + (2 + 22) / 4, 2 + 40 / 2]),
        ("life_lost", [1 + (2 + 2) / 4, 2]),
    ],
)
def test_an_end_of_the_episode_ends_the_return(ending: str, targets: list[float]) -> None:
    """The end is at the second of four steps; 40 is the final observation's value.

    The last two targets are 8 + 32/2 = 24 and 4 + (6 + 24)/4 = 11.5, whatever happened before.
    """
    agent = scripted(num_steps=4)
    step_through(agent, [8, 2, 40, 6, 32], [1, 2, 4, 8], {1: ending}, life_loss_discount=True)
    assert agent.targets()[:, 0].tolist() == [*targets, 11.5, 24]
    plain = scripted(num_steps=4)
    step_through(plain, [8, 2, 40, 6, 32], [1, 2, 4, 8])
    assert plain.targets()[1, 0] == 2 + (40 + 11.5) / 4, "without an end the return continues"


def test_a_lost_life_ends_the_return_only_if_the_rules_say_so() -> None:
    agent = scripted(num_steps=2)
    step_through(agent, [8, 2, 6], [1, 2], {0: "life_lost"})
    assert agent.targets()[:, 0].tolist() == [1 + (2 + 5) / 4, 5]


def slow_target(agent: pqn.Agent, history: list[dict[str, Any]], t: int) -> float:
    """Return a target as the weighted mean of n-step returns, each summed forwards from the rewards."""
    mix = agent.config.q_lambda

    def n_step(n: int) -> float:
        total, weight = 0.0, 1.0
        for row in history[t : t + n]:
            total, weight = total + weight * row["reward"], weight * agent.config.gamma
            if row["ending"] == "terminated":
                return total
        return total + weight * row["following"]

    longest = 1
    while t + longest < len(history) and not history[t + longest - 1]["ending"]:
        longest += 1
    mean = sum((1 - mix) * mix ** (n - 1) * n_step(n) for n in range(1, longest))
    return mean + mix ** (longest - 1) * n_step(longest)


@pytest.mark.parametrize("q_lambda", [0.0, 0.65, 1.0])
def test_targets_of_random_steps_equal_those_of_a_slow_oracle(q_lambda: float) -> None:
    draw = np.random.default_rng(3)
    envs, steps = 3, 12
    agent = scripted(num_envs=envs, num_steps=steps, q_lambda=q_lambda, gamma=0.9)
    value = draw.normal(size=envs)
    history: list[list[dict[str, Any]]] = [[] for _ in range(envs)]
    for t in range(steps):
        agent.act(states(*value), t)
        reward, following = draw.normal(size=envs), draw.normal(size=envs)
        ending = [str(draw.choice(["terminated", "truncated", "", "", ""])) for _ in range(envs)]
        observe(agent, list(reward), list(following), ending)
        for env, rows in enumerate(history):
            rows.append({"reward": reward[env], "following": following[env], "ending": ending[env]})
        value = np.where([bool(name) for name in ending], FIRST, following)
    endings = {row["ending"] for rows in history for row in rows}
    assert endings == {"terminated", "truncated", ""}
    expected = [[slow_target(agent, rows, t) for rows in history] for t in range(steps)]
    np.testing.assert_allclose(agent.targets().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_watkins_cuts_the_return_before_an_exploring_action() -> None:
    """gamma and lambda 1/2. Last: 4 + 16/2 = 12. Second: 2 + (6 + 12)/4 = 6.5.

    First: 1 + (2 + 6.5)/4 = 3.125, or 1 + 2/2 = 2 if the second action is not the greedy one.
    """
    for explores, first in ((False, 3.125), (True, 2.0)):
        agent = scripted(num_steps=3, watkins=True, start_e=0.0, end_e=0.0)
        for t, (value, reward, following) in enumerate(((8, 1, 2), (2, 2, 6), (6, 4, 16))):
            rate = 1.0 if explores and t == 1 else 0.0
            agent.exploration = lambda step, rate=rate: rate  # type: ignore[assignment,misc]
            agent.random_actions = lambda observation, noise: np.zeros(1, np.int64)  # type: ignore[method-assign]
            agent.act(states(value), t)
            observe(agent, [reward], [following])
        assert agent.rollout.greedy[:, 0].tolist() == [True, not explores, True]
        assert agent.targets()[:, 0].tolist() == [first, 6.5, 12]


def test_a_random_action_that_is_the_greedy_one_does_not_cut() -> None:
    agent = scripted(num_envs=40, num_steps=1, watkins=True, start_e=1.0, end_e=1.0)
    action = agent.act(states(*np.ones(40)), 0)
    observe(agent, [0] * 40, [0] * 40)
    assert agent.rollout.greedy[0].tolist() == (action == 1).tolist()
    assert 0 < action.sum() < 40


def test_no_observation_has_two_forward_passes() -> None:
    """4 steps of 2 environments, a truncation in one, and the 2 observations after the rollout: 8 + 1 + 2."""
    agent = scripted(num_envs=2, num_steps=4)
    for t in range(4):
        agent.act(states(t, t), t)
        observe(agent, [0, 0], [t + 1, t + 1], ["truncated" if t == 1 else "", "terminated" if t == 2 else ""])
    agent.targets()
    assert isinstance(agent.online, Identity)
    assert agent.online.rows == 11


def test_rewards_are_clipped_if_the_rules_say_so() -> None:
    for clips, expected in ((True, [1, -1, 0]), (False, [5, -0.5, 0])):
        agent = scripted(num_steps=3)
        step_through(agent, [0, 0, 0, 0], [5, -0.5, 0], clip_rewards=clips)
        assert agent.rollout.reward[:, 0].tolist() == expected


# ---- acting ----------------------------------------------------------------------------------------------------------


def test_each_environment_draws_its_own_coin() -> None:
    agent = scripted(num_envs=2_000, num_steps=1, start_e=0.5, end_e=0.5)
    action = agent.act(states(*np.ones(2_000)), 0)
    assert (action == 0).mean() == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 2_000))
    assert np.array_equal(agent.act(states(*np.ones(2_000)), 0), action), "the coins are a function of the step"
    assert not np.array_equal(agent.act(states(*np.ones(2_000)), 2_000), action)


def test_an_exploring_step_stores_the_value_of_the_best_action() -> None:
    agent = scripted(num_envs=50, num_steps=1, start_e=1.0, end_e=1.0)
    observation = states(*np.arange(50.0))
    action = agent.act(observation, 0)
    assert set(action) == {0, 1}
    observe(agent, [0] * 50, [0] * 50)
    assert agent.rollout.value[0].tolist() == list(range(50))
    assert agent.rollout.action[0].tolist() == action.tolist()


def test_epsilon_falls_over_the_budget_and_evaluation_has_another() -> None:
    agent = scripted(num_steps=1, start_e=1.0, end_e=0.2, exploration_fraction=0.5, eval_epsilon=0.0)
    assert [agent.epsilon(step) for step in (0, 25, 50, 99)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert agent.evaluation_act(states(*np.ones(200)), np.random.default_rng(1)).tolist() == [1] * 200
    assert agent.evaluation_policy == "epsilon-greedy, epsilon 0.0"


def test_actions_count_from_the_start_of_their_space() -> None:
    agent = scripted(num_steps=1, space=spaces.Discrete(2, start=5), start_e=0.0, end_e=0.0)
    assert agent.act(states(1), 0).tolist() == [6]
    assert agent.predict(states(1)[0])[0] == 6
    observe(agent, [0], [0])
    assert agent.rollout.action.tolist() == [[1]], "the rollout counts actions from 0"
