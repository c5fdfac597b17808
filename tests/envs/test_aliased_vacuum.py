"""The aliased vacuum against its drawing, its MDP, closed forms, brute force and sampling."""

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from q2pi.envs.aliased_vacuum import (
    EAST,
    NORTH,
    SOUTH,
    WEST,
    AliasedVacuum,
    solutions,
)
from q2pi.equations.exact import (
    MDP,
    best_epsilon_greedy,
    best_memoryless_deterministic,
    best_memoryless_stochastic,
    epsilon_greedy_at,
    expected_return,
    expected_score,
    expected_steps,
    policy_over_states,
    policy_value,
)

# The five cells by hand: (next cell or what is touched, reward) of north, east, south and west.
BY_HAND = {
    0: [(0, -0.005), (1, -0.005), ("hamster", -1.0), (0, -0.005)],
    1: [(1, -0.005), (2, -0.005), (1, -0.005), (0, -0.005)],
    2: [(2, -0.005), (3, -0.005), ("dust", 1.0), (1, -0.005)],
    3: [(3, -0.005), (4, -0.005), (3, -0.005), (2, -0.005)],
    4: [(4, -0.005), (4, -0.005), ("hamster", -1.0), (3, -0.005)],
}
SIZES = [(5, None), (4, 1), (7, 2), (8, 6)]


@pytest.fixture(scope="module")
def five() -> tuple[MDP, Any]:
    return AliasedVacuum().mdp(0.99)


def mixed(east: float) -> np.ndarray:
    """Return the policy [5, 4] that goes east with probability `east` in the aliased cells, else west."""
    pi = np.eye(4)[[EAST, NORTH, SOUTH, NORTH, WEST]]
    pi[[1, 3]] = 0
    pi[[1, 3], EAST], pi[[1, 3], WEST] = east, 1 - east
    return pi


def return_by_hand(east: float, gamma: float, cost: float = -0.005) -> float:
    """Return J of `mixed` with five cells, from its Bellman equations solved by hand.

    V2 = 1, V0 = c + g V1, V1 = c + g (p V2 + (1 - p) V0), and cells 3 and 4 mirror 1 and 0 with 1 - p for p.
    """
    total = 0.0
    for p in (east, 1 - east):
        near = (cost + gamma * p + gamma * (1 - p) * cost) / (1 - gamma**2 * (1 - p))
        total += near + cost + gamma * near
    return total / 4


@pytest.mark.parametrize(("cell", "action"), list(itertools.product(range(5), range(4))))
def test_every_step_of_the_five_cells_by_hand(cell: int, action: int) -> None:
    env = AliasedVacuum()
    env.reset(options={"cell": cell})
    _, reward, terminated, truncated, info = env.step(action)
    destination, expected_reward = BY_HAND[cell][action]
    assert (reward, terminated, truncated) == (expected_reward, isinstance(destination, str), False)
    assert info["cell"] == (cell if terminated else destination)


@pytest.mark.parametrize(("length", "dust"), SIZES)
def test_steps_equal_the_rows_of_the_mdp(length: int, dust: int | None) -> None:
    env = AliasedVacuum(length, dust)
    mdp, observation = env.mdp()
    observed = {}
    for cell, action in itertools.product(range(length), range(4)):
        first, _ = env.reset(options={"cell": cell})
        observed[cell] = tuple(first)
        _, reward, terminated, _, info = env.step(action)
        row = np.zeros(length) if terminated else np.eye(length)[info["cell"]]
        np.testing.assert_array_equal(mdp.transition[cell, action], row)
        assert mdp.reward[cell, action] == reward
    for one, other in itertools.product(range(length), repeat=2):
        assert (observation[one] == observation[other]) == (observed[one] == observed[other])
    assert sorted(set(observation)) == list(range(4))
    assert len(env.aliased) == length - 3


def test_walls_are_observed_in_the_order_of_the_actions() -> None:
    env = AliasedVacuum()
    observations = [env.reset(options={"cell": cell})[0].tolist() for cell in range(5)]
    assert observations == [[1, 0, 0, 1], [1, 0, 1, 0], [1, 0, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0]]
    env.reset(options={"cell": 2})
    assert env.step(SOUTH)[0].tolist() == [0, 1, 1, 1]


def test_the_three_observations() -> None:
    by_code = AliasedVacuum(observation="discrete")
    assert [int(by_code.reset(options={"cell": cell})[0]) for cell in range(5)] == [1 + 8, 1 + 4, 1, 1 + 4, 1 + 2]
    by_cell = AliasedVacuum(observation="cell")
    assert [int(by_cell.reset(options={"cell": cell})[0]) for cell in range(5)] == [0, 1, 2, 3, 4]
    by_cell.reset(options={"cell": 4})
    assert int(by_cell.step(SOUTH)[0]) == 5


@pytest.mark.parametrize(
    "env_id", ["q2pi/AliasedVacuum-v0", "q2pi/AliasedVacuumDiscrete-v0", "q2pi/AliasedVacuumCells-v0"]
)
def test_gymnasium_accepts_it(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env_id, render_mode="rgb_array").unwrapped)


def test_toy_environments_are_registered() -> None:
    lake = gymnasium.make("q2pi/FrozenLakeNoSlip-v1").unwrapped
    assert all(len(outcomes) == 1 for row in lake.P.values() for outcomes in row.values())
    slippery = gymnasium.make("FrozenLake-v1").unwrapped
    assert any(len(outcomes) > 1 for row in slippery.P.values() for outcomes in row.values())
    assert gymnasium.spec("Taxi-v3").max_episode_steps == 200
    assert gymnasium.spec("q2pi/CliffWalking-v1").max_episode_steps == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 3}, "length 3 is less than 4"),
        ({"dust": 0}, r"dust 0 is outside \[1, 3\]"),
        ({"dust": 4}, r"dust 4 is outside \[1, 3\]"),
        ({"observation": "smell"}, "observation 'smell' is not one of"),
    ],
)
def test_bounds(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AliasedVacuum(**options)


def test_episodes_depend_only_on_seed_and_actions() -> None:
    env = gymnasium.make("q2pi/AliasedVacuum-v0")

    def first_cells(seed: int) -> list[int]:
        return [env.reset(seed=seed)[1]["cell"], *(env.reset()[1]["cell"] for _ in range(20))]

    assert first_cells(3) == first_cells(3)
    assert first_cells(3) != first_cells(4)
    starts = [env.reset(seed=seed)[1]["cell"] for seed in range(400)]
    counts = np.bincount(starts, minlength=5)
    assert counts[2] == 0
    assert (np.abs(counts[[0, 1, 3, 4]] - 100) < 4 * np.sqrt(400 * 0.25 * 0.75)).all()


def test_the_time_limit_truncates_and_does_not_terminate() -> None:
    env = gymnasium.make("q2pi/AliasedVacuum-v0")
    env.reset(seed=0)
    steps = [env.step(NORTH) for _ in range(100)]
    assert [step[3] for step in steps] == [False] * 99 + [True]
    assert not any(step[2] for step in steps)


def test_the_best_stochastic_policy_and_its_value_by_hand(five: tuple[MDP, Any]) -> None:
    policy, value = best_memoryless_stochastic(*five)
    aliased = five[1][1]
    np.testing.assert_allclose(policy[aliased], [0, 0.5, 0, 0.5], atol=1e-3)
    by_hand = {p: return_by_hand(p, 0.99) for p in np.linspace(0, 1, 201)}
    assert max(by_hand, key=lambda p: by_hand[p]) == 0.5
    assert value == pytest.approx(return_by_hand(0.5, 0.99), abs=1e-9)
    for p in (0.0, 0.3, 1.0):
        assert expected_return(five[0], mixed(p)) == pytest.approx(return_by_hand(p, 0.99), abs=1e-12)


def test_expected_steps_by_hand(five: tuple[MDP, Any]) -> None:
    """From cell 1: E1 = 1 + (1 + E0) / 2 with E0 = 1 + E1, so 4, and 5 from cell 0; each with probability 1/2."""
    assert expected_steps(five[0], mixed(0.5)) == pytest.approx(4.5)


def test_expected_steps_by_sampling(five: tuple[MDP, Any]) -> None:
    env, generator = AliasedVacuum(), np.random.default_rng(0)
    lengths = []
    for seed in range(800):
        env.reset(seed=seed)
        lengths.append(1)
        while not env.step(int(generator.choice(4, p=mixed(0.5)[env.cell])))[2]:
            lengths[-1] += 1
    error = np.std(lengths) / np.sqrt(len(lengths))
    assert np.mean(lengths) == pytest.approx(expected_steps(five[0], mixed(0.5)), abs=4 * error)


def returns_of_deterministic_policies(gamma: float, observation: Any) -> Iterator[float]:
    """Yield J of all 256 deterministic policies of the five cells, each simulated from each start cell."""
    env = AliasedVacuum()
    for choice in itertools.product(range(4), repeat=4):
        total = 0.0
        for start in (0, 1, 3, 4):
            cell, below, discount = start, False, 1.0
            while not below and discount > 1e-13:
                cell, below, reward = env.move(cell, choice[observation[cell]])
                total += discount * reward
                discount *= gamma
        yield total / 4


def test_the_best_deterministic_policy_by_brute_force() -> None:
    mdp, observation = AliasedVacuum().mdp(0.9)
    best = max(returns_of_deterministic_policies(0.9, observation))
    assert best_memoryless_deterministic(mdp, observation)[1] == pytest.approx(best, abs=1e-9)
    # From one side it reaches the dust in 3 or 2 steps; from the other it oscillates forever.
    by_hand = (-0.005 * 1.9 + 0.81 - 0.005 + 0.9 - 2 * 0.005 / 0.1) / 4
    assert best == pytest.approx(by_hand, abs=1e-9)


def test_the_best_epsilon_greedy_policy_by_brute_force() -> None:
    mdp, observation = AliasedVacuum().mdp(0.9)
    for epsilon in (0.0, 0.1, 1.0):
        policies = (
            (1 - epsilon) * np.eye(4)[list(choice)] + epsilon / 4 for choice in itertools.product(range(4), repeat=4)
        )
        best = max(mdp.start @ policy_value(mdp, policy_over_states(policy, observation))[0] for policy in policies)
        assert epsilon_greedy_at(mdp, observation, epsilon)[1] == pytest.approx(best, abs=1e-12)


def test_no_exploration_rate_is_better_than_the_best_one(five: tuple[MDP, Any]) -> None:
    epsilon, policy, value = best_epsilon_greedy(*five)
    assert 0 < epsilon < 1
    pi = policy_over_states((1 - epsilon) * policy + epsilon / 4, five[1])
    assert expected_return(five[0], pi) == pytest.approx(value, abs=1e-12)
    others = [epsilon_greedy_at(*five, rate)[1] for rate in np.linspace(0, 1, 50)]
    assert max(others) <= value
    assert max(others) == pytest.approx(value, abs=1e-2)


def test_solutions_by_hand() -> None:
    found = solutions(AliasedVacuum())
    assert found.deterministic < found.epsilon_greedy < found.stochastic < found.fully_observed
    # Without aliasing: 3 steps from the end cells, 2 from the cells beside the dust.
    assert found.fully_observed == pytest.approx(((-0.005 - 0.99 * 0.005 + 0.99**2) + (-0.005 + 0.99)) / 2)
    assert found.deterministic == pytest.approx((2 * found.fully_observed - 2 * 0.005 / 0.01) / 4)
    assert found.stochastic == pytest.approx(return_by_hand(0.5, 0.99))
    assert (found.east, found.west) == (pytest.approx(0.5, abs=1e-3), pytest.approx(0.5, abs=1e-3))


def test_aliasing_costs_nothing_if_the_optimal_actions_agree() -> None:
    found = solutions(AliasedVacuum(5, dust=1))
    assert found.deterministic == pytest.approx(found.fully_observed)
    assert found.stochastic == pytest.approx(found.fully_observed)
    assert (found.east, found.west) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))


def test_expected_score_is_undiscounted_and_stops_at_the_limit(five: tuple[MDP, Any]) -> None:
    """East in aliased cells: return 1 minus one or two step costs from the west, 100 step costs from the east."""
    by_hand = (1 - 0.01 + 1 - 0.005 - 2 * 100 * 0.005) / 4
    assert expected_score(five[0], mixed(1.0), 100) == pytest.approx(by_hand)
    assert expected_score(five[0], mixed(1.0), 10) == pytest.approx(by_hand + 2 * 90 * 0.005 / 4)


def test_the_image_shows_the_position_of_the_vacuum() -> None:
    env = AliasedVacuum(render_mode="rgb_array")
    env.reset(options={"cell": 0})
    first = env.render()
    assert (first.shape, first.dtype) == ((148, 340, 3), np.uint8)
    env.step(EAST)
    changed = np.argwhere((env.render() != first).any(-1))
    assert changed[:, 0].max() < 10 + 64
    assert changed[:, 1].max() < 10 + 2 * 64
    env.reset(options={"cell": 2})
    above = env.render()
    env.step(SOUTH)
    assert (env.render()[10 + 64 + 20 : 10 + 64 + 44, 10 + 2 * 64 : 10 + 3 * 64] != above[94:118, 138:202]).any()
    assert AliasedVacuum().render() is None
