"""Exact solutions against hand values, brute force, sampling and finite differences."""

import itertools

import numpy as np
import pytest
import scipy.optimize
from numpy.typing import NDArray

from q2pi.equations.exact import (
    MDP,
    action_values,
    aliased_pair,
    best_memoryless_deterministic,
    best_memoryless_stochastic,
    chain,
    expected_return,
    greedy,
    optimal_values,
    policy_gradient,
    policy_over_states,
    policy_value,
    short_corridor,
    softmax_gradient,
    softmax_policy,
    state_distribution,
)
from q2pi.rng import stream

Array = NDArray[np.float64]


def random_mdp(seed: int, states: int = 4, actions: int = 3, gamma: float = 0.8) -> MDP:
    """Return a dense random MDP in which each step terminates with probability up to 0.3."""
    generator = stream(seed, "random-mdp")
    survival = generator.uniform(0.7, 1.0, size=(states, actions, 1))
    transition = survival * generator.dirichlet(np.ones(states), size=(states, actions))
    start = generator.dirichlet(np.ones(states))
    return MDP(transition, generator.normal(size=(states, actions)), gamma, start)


def random_policy(seed: int, rows: int = 4, actions: int = 3) -> Array:
    return stream(seed, "random-policy").dirichlet(np.ones(actions), size=rows)


def deterministic_policies(states: int, actions: int) -> list[Array]:
    return [np.eye(actions)[list(choice)] for choice in itertools.product(range(actions), repeat=states)]


def test_chain_by_hand() -> None:
    value, q = optimal_values(chain(4, gamma=0.1))
    np.testing.assert_allclose(value, [0.001, 0.01, 0.1, 1])
    np.testing.assert_allclose(q, [[0.0001, 0.001], [0.0001, 0.01], [0.001, 0.1], [0.01, 1]])
    assert expected_return(chain(4, gamma=0.1), greedy(q)) == pytest.approx(0.001)


def test_short_corridor_without_aliasing() -> None:
    value, q = optimal_values(short_corridor()[0])
    np.testing.assert_allclose(value, [-3, -2, -1])
    np.testing.assert_allclose(q, [[-4, -3], [-2, -4], [-3, -1]])


def test_aliased_pair_without_aliasing() -> None:
    value, q = optimal_values(aliased_pair(gamma=0.5)[0])
    np.testing.assert_allclose(value, [2, 2])
    np.testing.assert_allclose(q, [[2, 0], [0, 2]])


def test_optimum_is_bellmans_fixed_point_and_no_policy_is_better() -> None:
    for seed in range(3):
        mdp = random_mdp(seed)
        value, q = optimal_values(mdp)
        np.testing.assert_allclose(q.max(-1), value)
        np.testing.assert_allclose(action_values(mdp, value), q)
        every = np.array([policy_value(mdp, pi)[0] for pi in deterministic_policies(4, 3)])
        np.testing.assert_allclose(value, every.max(axis=0))


def test_policy_iteration_stops_if_all_policies_are_equal() -> None:
    mdp = random_mdp(0)
    value, _ = optimal_values(MDP(mdp.transition[:, [0, 0, 0]], mdp.reward[:, [0, 0, 0]], mdp.gamma, mdp.start))
    np.testing.assert_allclose(value, policy_value(mdp, np.eye(3)[[0, 0, 0, 0]])[0])


def test_policy_value_is_the_sum_of_discounted_rewards() -> None:
    """The slow oracle pushes the state probabilities forward for 300 steps."""
    mdp, pi = random_mdp(1), random_policy(1)
    for state in range(mdp.states):
        probability, total, weight = np.eye(mdp.states)[state], 0.0, 1.0
        for _ in range(300):
            joint = probability[:, None] * pi
            total += weight * (joint * mdp.reward).sum()
            probability = (joint[..., None] * mdp.transition).sum((0, 1))
            weight *= mdp.gamma
        assert policy_value(mdp, pi)[0][state] == pytest.approx(total, abs=1e-12)


def test_expected_return_against_sampled_episodes() -> None:
    mdp, pi = random_mdp(2), random_policy(2)
    generator = stream(0, "played-episodes")
    envs = 20_000
    state = generator.choice(mdp.states, size=envs, p=mdp.start)
    alive, returns = np.ones(envs, dtype=bool), np.zeros(envs)
    for step in range(60):  # 0.8^60 is 1.5e-6
        action = (generator.random((envs, 1)) > pi[state].cumsum(-1)).sum(-1).clip(max=mdp.actions - 1)
        returns += alive * mdp.gamma**step * mdp.reward[state, action]
        cumulative = mdp.transition[state, action].cumsum(-1)
        arrival = (generator.random((envs, 1)) > cumulative).sum(-1)
        alive &= arrival < mdp.states
        state = arrival.clip(max=mdp.states - 1)
    error = returns.std() / np.sqrt(envs)
    assert abs(returns.mean() - expected_return(mdp, pi)) < 4 * error
    assert (
        abs(returns.mean() - optimal_values(mdp)[0] @ mdp.start) > 4 * error
    )  # negative control: another policy's value differs


def test_state_distribution_by_hand() -> None:
    """Always action 1 in a chain: each state is visited once, discounted by its distance from the start."""
    np.testing.assert_allclose(state_distribution(chain(4, gamma=0.1), np.eye(2)[[1] * 4]), [1, 0.1, 0.01, 0.001])


def test_state_distribution_weighs_rewards_into_the_return() -> None:
    mdp, pi = random_mdp(3), random_policy(3)
    visits = state_distribution(mdp, pi)
    assert (visits[:, None] * pi * mdp.reward).sum() == pytest.approx(expected_return(mdp, pi))


def test_visits_sum_to_the_horizon_without_termination() -> None:
    assert state_distribution(aliased_pair(gamma=0.9)[0], np.full((2, 2), 0.5)).sum() == pytest.approx(10)


@pytest.mark.parametrize(("right", "value"), [(0.95, -2.1 / 0.0475), (0.05, -3.9 / 0.0475), (0.5, -12.0)])
def test_short_corridor_under_one_policy_for_all_states(right: float, value: float) -> None:
    """J(p) = (2p - 4) / (p (1 - p)): the book's figure shows about -44 and -82 for an epsilon of 0.1."""
    mdp, observation = short_corridor()
    assert expected_return(mdp, policy_over_states([[1 - right, right]], observation)) == pytest.approx(value)


def test_best_policy_of_the_short_corridor_is_stochastic() -> None:
    mdp, observation = short_corridor(gamma=0.999)
    policy, value = best_memoryless_stochastic(mdp, observation)

    def loss(right: float) -> float:
        return -expected_return(mdp, policy_over_states([[1 - right, right]], observation))

    oracle = scipy.optimize.minimize_scalar(loss, bounds=(0.01, 0.99), method="bounded", options={"xatol": 1e-10})
    assert policy[0, 1] == pytest.approx(oracle.x, abs=1e-5)
    assert value == pytest.approx(-oracle.fun)
    assert policy[0, 1] == pytest.approx(2 - np.sqrt(2), abs=0.01)  # gamma 1, by hand
    assert value == pytest.approx(-(6 + 4 * np.sqrt(2)), abs=0.2)
    assert best_memoryless_deterministic(mdp, observation)[1] == pytest.approx(
        -1000
    )  # never terminates: -1 / (1 - gamma)


def test_gradient_vanishes_at_the_best_policy_of_the_short_corridor() -> None:
    mdp, observation = short_corridor()
    right = 2 - np.sqrt(2)
    assert expected_return(mdp, policy_over_states([[1 - right, right]], observation)) == pytest.approx(-11.65685424949)
    gradient = softmax_gradient(mdp, np.log([[1 - right, right]]), observation)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
    assert np.abs(softmax_gradient(mdp, [[0.0, 0.0]], observation)).max() > 0.1


def test_best_policies_of_the_aliased_pair() -> None:
    mdp, observation = aliased_pair(gamma=0.9)
    policy, value = best_memoryless_stochastic(mdp, observation)
    np.testing.assert_allclose(policy, [[0.5, 0.5]], atol=1e-6)
    assert value == pytest.approx(0, abs=1e-9)
    assert best_memoryless_deterministic(mdp, observation)[1] == pytest.approx(-9)
    assert optimal_values(mdp)[0] @ mdp.start == pytest.approx(10)


def test_without_aliasing_the_best_memoryless_policies_are_optimal() -> None:
    for seed in range(3):
        mdp = random_mdp(seed)
        observation = np.arange(mdp.states)
        value = optimal_values(mdp)[0] @ mdp.start
        assert best_memoryless_deterministic(mdp, observation)[1] == pytest.approx(value)
        assert best_memoryless_stochastic(mdp, observation, restarts=2)[1] == pytest.approx(value)


@pytest.mark.parametrize("seed", range(4))
def test_best_stochastic_policy_against_a_grid(seed: int) -> None:
    """Two observations of two states each, two actions: every pair of probabilities in steps of 0.02 is worse."""
    mdp, observation = random_mdp(seed, actions=2, gamma=0.95), [0, 1, 1, 0]
    policy, value = best_memoryless_stochastic(mdp, observation)
    np.testing.assert_allclose(policy.sum(-1), 1)
    assert policy.min() >= 0
    grid = np.linspace(0, 1, 51)
    policies = (np.array([[1 - p, p], [1 - q, q]]) for p in grid for q in grid)
    values = [expected_return(mdp, policy_over_states(coins, observation)) for coins in policies]
    assert max(values) <= value + 1e-9
    assert value - max(values) < 0.01
    assert value >= best_memoryless_deterministic(mdp, observation)[1] - 1e-9


def test_policy_over_states_reads_the_row_of_the_observation() -> None:
    pi = policy_over_states([[0.25, 0.75], [1.0, 0.0]], [1, 0, 1])
    assert pi.tolist() == [[1, 0], [0.25, 0.75], [1, 0]]


def finite_differences(function: object, point: Array, width: float = 1e-5) -> Array:
    assert callable(function)
    gradient = np.zeros_like(point)
    for index in np.ndindex(*point.shape):
        step = np.zeros_like(point)
        step[index] = width
        gradient[index] = (function(point + step) - function(point - step)) / (2 * width)
    return gradient


@pytest.mark.parametrize("observation", [[0, 1, 2, 3], [0, 1, 1, 0], [0, 0, 0, 0], [2, 0, 1, 0]])
def test_softmax_gradient_against_finite_differences(observation: list[int]) -> None:
    mdp = random_mdp(5)
    theta = stream(5, "theta").normal(size=(max(observation) + 1, mdp.actions))
    expected = finite_differences(
        lambda t: expected_return(mdp, policy_over_states(softmax_policy(t), observation)), theta
    )
    np.testing.assert_allclose(softmax_gradient(mdp, theta, observation), expected, atol=1e-8)
    assert np.abs(expected).max() > 1e-2


def test_policy_gradient_against_finite_differences() -> None:
    mdp, observation, policy = random_mdp(6), [0, 1, 1, 0], random_policy(6, rows=2)
    expected = finite_differences(lambda p: expected_return(mdp, policy_over_states(p, observation)), policy)
    np.testing.assert_allclose(policy_gradient(mdp, policy, observation), expected, atol=1e-8)


def test_softmax_policy_survives_large_logits() -> None:
    np.testing.assert_allclose(softmax_policy([[1e4, 1e4, -1e4]]), [[0.5, 0.5, 0]])


def test_a_policy_that_never_terminates_has_no_undiscounted_value() -> None:
    mdp, observation = short_corridor()
    with pytest.raises(ValueError, match="may never terminate"):
        expected_return(mdp, policy_over_states([[0, 1]], observation))


def test_invalid_mdps_are_rejected() -> None:
    half = np.full((2, 1, 2), 0.5)
    reward, start = np.zeros((2, 1)), np.array([1.0, 0.0])
    with pytest.raises(ValueError, match="shapes do not agree"):
        MDP(half, np.zeros((3, 1)), 0.9, start)
    with pytest.raises(ValueError, match="at most 1"):
        MDP(1.2 * half, reward, 0.9, start)
    with pytest.raises(ValueError, match="at most 1"):
        MDP(-half, reward, 0.9, start)
    with pytest.raises(ValueError, match="sum to 1"):
        MDP(half, reward, 0.9, np.array([0.5, 0.4]))
    with pytest.raises(ValueError, match=r"got 1\.5"):
        MDP(half, reward, 1.5, start)


def test_too_many_deterministic_policies_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"2\^20 deterministic policies"):
        best_memoryless_deterministic(chain(20), np.arange(20))
