"""The simulation of actors and learner against rates worked out by hand."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
INFINITE = float("inf")


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch) -> Any:
    from importlib import import_module

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module("scale_simulation")


def costs(simulation: Any, **changes: float) -> Any:
    """Return costs of nothing but collecting: 10 rows in one second."""
    nothing = {"read": 0.0, "learn": 0.0, "publish": 0.0, "message_bytes": 0, "weight_bytes": 0}
    return simulation.Costs(**{"rows": 10, "collect": 1.0, **nothing, **changes})


@pytest.mark.parametrize("actors", [1, 3, 50])
def test_if_only_collecting_takes_time_rows_grow_with_the_actors(simulation: Any, actors: int) -> None:
    found = simulation.simulate(costs(simulation), actors, INFINITE)
    assert found.rows_per_second == pytest.approx(10 * actors, rel=0.05)
    assert found.actors_busy == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("actors", [4, 20])
def test_a_slow_learner_makes_actors_wait(simulation: Any, actors: int) -> None:
    """The learner takes half a second per message: 20 rows per second, however many actors there are."""
    found = simulation.simulate(costs(simulation, read=0.1, learn=0.4), actors, INFINITE)
    assert found.rows_per_second == pytest.approx(20, rel=0.05)
    assert found.learner_busy == pytest.approx(1.0, abs=0.01)
    assert found.actors_busy == pytest.approx(2 / actors, rel=0.05)
    assert found.store_bytes == 0


def test_cores_are_shared(simulation: Any) -> None:
    """Two actors and a learner need 2 x 1 + 2 x 0.5 core seconds for 2 messages; one core gives 20 rows in 3 s."""
    found = simulation.simulate(costs(simulation, learn=0.5), 2, 1.0)
    assert found.rows_per_second == pytest.approx(20 / 3, rel=0.05)


def test_publishing_is_paid_once_per_round(simulation: Any) -> None:
    made = costs(simulation, learn=0.5, publish=2.0)
    assert simulation.simulate(made, 4, INFINITE).rows_per_second == pytest.approx(40 / (4 * 0.5 + 2.0), rel=0.05)


def test_a_narrow_link_bounds_the_rows(simulation: Any) -> None:
    """Messages of 100 bytes through 200 bytes per second: 2 messages, 20 rows per second."""
    made = costs(simulation, message_bytes=100)
    found = simulation.simulate(made, 10, INFINITE, link=200.0)
    assert found.rows_per_second == pytest.approx(20, rel=0.1)
    assert found.link_busy == pytest.approx(1.0, abs=0.05)


def test_waiting_messages_are_bounded_by_the_open_requests(simulation: Any) -> None:
    made = costs(simulation, learn=10.0, message_bytes=1)
    found = simulation.simulate(made, 5, INFINITE)
    assert found.store_bytes <= simulation.REQUESTS * 5
    assert found.weights_age <= simulation.REQUESTS + 0.5


def test_costs_are_read_from_the_report(simulation: Any) -> None:
    made = costs(simulation, read=0.25)
    assert simulation.costs_of({"costs": dataclasses.asdict(made) | {"more": 1}}) == made


def test_the_check_removes_the_speed_that_other_programs_left(simulation: Any) -> None:
    """One actor at a quarter of the simulated rate: two actors are expected at a quarter of theirs, too."""
    made = costs(simulation)
    measured = {"cores": 8, "runs": {"1 actors": {"rows_per_second": 2.5}, "2 actors": {"rows_per_second": 5.0}}}
    found = simulation.check(made, measured)
    assert found["speed_in_the_run_of_one_actor"] == pytest.approx(0.25, rel=0.05)
    assert found["simulated_over_measured"] == pytest.approx(1.0, rel=0.1)
