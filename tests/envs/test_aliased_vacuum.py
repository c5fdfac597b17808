"""The aliased vacuum against its drawing, its matrix, closed forms, brute force and sampling."""

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

# The five cells by hand: where north, east, south and west lead; ( ) is into the dust, [ ] to a hamster.
BY_HAND = {
    0: [(0, -0.005), (1, -0.005), ("hamster", -1.0), (0, -0.005)],
    1: [(1, -0.005), (2, -0.005), (1, -0.005), (0, -0.005)],
    2: [(2, -0.005), (3, -0.005), ("dust", 1.0), (1, -0.005)],
    3: [(3, -0.005), (4, -0.005), (3, -0.005), (2, -0.005)],
    4: [(4, -0.005), (4, -0.005), ("hamster", -1.0), (3, -0.005)],
}
WORLDS = [(5, None), (4, 1), (7, 2), (8, 6)]


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
    """Return J of `mixed` in the world of five cells, from its Bellman equations solved on paper.

    V2 = 1, V0 = c + g V1, V1 = c + g (p V2 + (1 - p) V0), and cells 3 and 4 mirror 1 and 0 with 1 - p for p.
    """
    total = 0.0
    for p in (east, 1 - east):
        near = (cost + gamma * p + gamma * (1 - p) * cost) / (1 - gamma**2 * (1 - p))
        total += near + cost + gamma * near
    return total / 4


@pytest.mark.parametrize(("cell", "action"), list(itertools.product(range(5), range(4))))
def test_every_step_of_the_five_cells_is_as_drawn(cell: int, action: int) -> None:
    world = AliasedVacuum()
    world.reset(options={"cell": cell})
    _, reward, terminated, truncated, info = world.step(action)
    where, expected_reward = BY_HAND[cell][action]
    assert (reward, terminated, truncated) == (expected_reward, isinstance(where, str), False)
    assert info["cell"] == (cell if terminated else where)


@pytest.mark.parametrize(("length", "dust"), WORLDS)
def test_steps_equal_the_rows_of_the_mdp(length: int, dust: int | None) -> None:
    world = AliasedVacuum(length, dust)
    mdp, observation = world.mdp()
    seen = {}
    for cell, action in itertools.product(range(length), range(4)):
        first, _ = world.reset(options={"cell": cell})
        seen[cell] = tuple(first)
        _, reward, terminated, _, info = world.step(action)
        row = np.zeros(length) if terminated else np.eye(length)[info["cell"]]
        np.testing.assert_array_equal(mdp.transition[cell, action], row)
        assert mdp.reward[cell, action] == reward
    for one, other in itertools.product(range(length), repeat=2):
        assert (observation[one] == observation[other]) == (seen[one] == seen[other])
    assert sorted(set(observation)) == list(range(4))
    assert len(world.aliased) == length - 3


def test_walls_are_perceived_in_the_order_of_the_actions() -> None:
    world = AliasedVacuum()
    perceived = [world.reset(options={"cell": cell})[0].tolist() for cell in range(5)]
    assert perceived == [[1, 0, 0, 1], [1, 0, 1, 0], [1, 0, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0]]
    world.reset(options={"cell": 2})
    assert world.step(SOUTH)[0].tolist() == [0, 1, 1, 1]


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


def test_frozen_lake_does_not_slip_and_taxi_is_there() -> None:
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


def test_episodes_depend_on_seed_and_actions_alone() -> None:
    world = gymnasium.make("q2pi/AliasedVacuum-v0")

    def first_cells(seed: int) -> list[int]:
        return [world.reset(seed=seed)[1]["cell"], *(world.reset()[1]["cell"] for _ in range(20))]

    assert first_cells(3) == first_cells(3)
    assert first_cells(3) != first_cells(4)
    starts = [world.reset(seed=seed)[1]["cell"] for seed in range(400)]
    counts = np.bincount(starts, minlength=5)
    assert counts[2] == 0
    assert (np.abs(counts[[0, 1, 3, 4]] - 100) < 4 * np.sqrt(400 * 0.25 * 0.75)).all()


def test_time_runs_out_without_ending_the_world() -> None:
    world = gymnasium.make("q2pi/AliasedVacuum-v0")
    world.reset(seed=0)
    steps = [world.step(NORTH) for _ in range(100)]
    assert [step[3] for step in steps] == [False] * 99 + [True]
    assert not any(step[2] for step in steps)


def test_the_best_coin_is_fair_and_its_value_is_the_one_on_paper(five: tuple[MDP, Any]) -> None:
    policy, value = best_memoryless_stochastic(*five)
    aliased = five[1][1]
    np.testing.assert_allclose(policy[aliased], [0, 0.5, 0, 0.5], atol=1e-3)
    by_hand = {p: return_by_hand(p, 0.99) for p in np.linspace(0, 1, 201)}
    assert max(by_hand, key=lambda p: by_hand[p]) == 0.5
    assert value == pytest.approx(return_by_hand(0.5, 0.99), abs=1e-9)
    for p in (0.0, 0.3, 1.0):
        assert expected_return(five[0], mixed(p)) == pytest.approx(return_by_hand(p, 0.99), abs=1e-12)


def test_expected_steps_by_hand(five: tuple[MDP, Any]) -> None:
    """From cell 1: E1 = 1 + (1 + E0) / 2 with E0 = 1 + E1, so 4, and 5 from cell 0; halves of each."""
    assert expected_steps(five[0], mixed(0.5)) == pytest.approx(4.5)


def test_expected_steps_by_playing(five: tuple[MDP, Any]) -> None:
    world, generator = AliasedVacuum(), np.random.default_rng(0)
    lengths = []
    for seed in range(800):
        world.reset(seed=seed)
        lengths.append(1)
        while not world.step(int(generator.choice(4, p=mixed(0.5)[world.cell])))[2]:
            lengths[-1] += 1
    error = np.std(lengths) / np.sqrt(len(lengths))
    assert np.mean(lengths) == pytest.approx(expected_steps(five[0], mixed(0.5)), abs=4 * error)


def returns_of_deterministic_policies(gamma: float, observation: Any) -> Iterator[float]:
    """Yield J of all 256 of the five cells, each played out for 3000 steps from each start."""
    world = AliasedVacuum()
    for choice in itertools.product(range(4), repeat=4):
        total = 0.0
        for start in (0, 1, 3, 4):
            cell, below, discount = start, False, 1.0
            while not below and discount > 1e-13:
                cell, below, reward = world.move(cell, choice[observation[cell]])
                total += discount * reward
                discount *= gamma
        yield total / 4


def test_the_best_deterministic_policy_by_brute_force() -> None:
    mdp, observation = AliasedVacuum().mdp(0.9)
    best = max(returns_of_deterministic_policies(0.9, observation))
    assert best_memoryless_deterministic(mdp, observation)[1] == pytest.approx(best, abs=1e-9)
    # One side arrives, in 3 or 2 steps; the other goes to and fro for ever.
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


def test_no_exploration_rate_beats_the_best_one(five: tuple[MDP, Any]) -> None:
    epsilon, policy, value = best_epsilon_greedy(*five)
    assert 0 < epsilon < 1
    pi = policy_over_states((1 - epsilon) * policy + epsilon / 4, five[1])
    assert expected_return(five[0], pi) == pytest.approx(value, abs=1e-12)
    others = [epsilon_greedy_at(*five, rate)[1] for rate in np.linspace(0, 1, 50)]
    assert max(others) <= value
    assert max(others) == pytest.approx(value, abs=1e-2)


def test_what_aliasing_costs_and_a_coin_gives_back() -> None:
    found = solutions(AliasedVacuum())
    assert found.deterministic < found.epsilon_greedy < found.stochastic < found.fully_observed
    # Told apart: 3 steps from the ends, 2 from beside the dust.
    assert found.fully_observed == pytest.approx(((-0.005 - 0.99 * 0.005 + 0.99**2) + (-0.005 + 0.99)) / 2)
    assert found.deterministic == pytest.approx((2 * found.fully_observed - 2 * 0.005 / 0.01) / 4)
    assert found.stochastic == pytest.approx(return_by_hand(0.5, 0.99))
    assert (found.east, found.west) == (pytest.approx(0.5, abs=1e-3), pytest.approx(0.5, abs=1e-3))


def test_nothing_is_lost_where_all_aliased_cells_want_the_same() -> None:
    found = solutions(AliasedVacuum(5, dust=1))
    assert found.deterministic == pytest.approx(found.fully_observed)
    assert found.stochastic == pytest.approx(found.fully_observed)
    assert (found.east, found.west) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))


def test_expected_score_counts_no_discount_and_stops_at_the_limit(five: tuple[MDP, Any]) -> None:
    """Going east when aliased: 1 less one or two steps from the west, a hundred steps' cost from the east."""
    by_hand = (1 - 0.01 + 1 - 0.005 - 2 * 100 * 0.005) / 4
    assert expected_score(five[0], mixed(1.0), 100) == pytest.approx(by_hand)
    assert expected_score(five[0], mixed(1.0), 10) == pytest.approx(by_hand + 2 * 90 * 0.005 / 4)


def test_the_picture_shows_where_the_vacuum_is() -> None:
    world = AliasedVacuum(render_mode="rgb_array")
    world.reset(options={"cell": 0})
    first = world.render()
    assert (first.shape, first.dtype) == ((148, 340, 3), np.uint8)
    world.step(EAST)
    changed = np.argwhere((world.render() != first).any(-1))
    assert changed[:, 0].max() < 10 + 64
    assert changed[:, 1].max() < 10 + 2 * 64
    world.reset(options={"cell": 2})
    above = world.render()
    world.step(SOUTH)
    assert (world.render()[10 + 64 + 20 : 10 + 64 + 44, 10 + 2 * 64 : 10 + 3 * 64] != above[94:118, 138:202]).any()
    assert AliasedVacuum().render() is None
