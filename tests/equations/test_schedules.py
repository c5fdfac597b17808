import math

import pytest

from q2pi.equations.schedules import linear, rectification


@pytest.mark.parametrize(
    ("step", "value"),
    [(0, 1.0), (25, 0.8), (50, 0.6), (75, 0.4), (100, 0.2), (101, 0.2), (1000, 0.2)],
)
def test_value_decreases_linearly_then_is_constant(step: int, value: float) -> None:
    assert linear(1.0, 0.2, fraction=0.1, total=1000, step=step) == pytest.approx(value, abs=1e-15)


def test_end_value_is_exact() -> None:
    assert linear(1.0, 0.01, fraction=0.1, total=10_000_000, step=1_000_000) == 0.01


def test_rising_schedule() -> None:
    assert linear(0.25, 1.0, fraction=1.0, total=3, step=1) == 0.5


def test_fraction_zero_is_always_the_end_value() -> None:
    assert linear(1.0, 0.1, fraction=0.0, total=1000, step=0) == 0.1


def test_schedule_is_a_function_of_the_step_alone() -> None:
    late_first = [linear(1.0, 0.0, 0.5, 8, step) for step in (3, 0, 2, 1)]
    assert late_first == [0.25, 1.0, 0.5, 0.75]


def test_rectification_by_hand() -> None:
    """beta2 = 0.9: rho_inf = 19; at t = 10, rho = 19 - 20 * 0.9^10 / (1 - 0.9^10)."""
    rho = 19 - 20 * 0.3486784401 / 0.6513215599
    expected = math.sqrt((rho - 4) * (rho - 2) * 19 / (15 * 17 * rho))
    assert rectification(0.9, 10) == pytest.approx(expected)
    assert rectification(0.9, 500) == pytest.approx(1)


def test_rectification_is_zero_while_the_variance_is_intractable() -> None:
    """With beta2 = 0.999, rho increases by about 1 per update: above 5 from the sixth update."""
    factors = [rectification(0.999, update) for update in range(1, 50)]
    assert factors[:5] == [0] * 5
    assert factors[5] > 0
    assert factors[5:] == sorted(factors[5:])
