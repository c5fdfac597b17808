import pytest

from q2pi.equations.schedules import linear


@pytest.mark.parametrize(
    ("step", "value"),
    [(0, 1.0), (25, 0.8), (50, 0.6), (75, 0.4), (100, 0.2), (101, 0.2), (1000, 0.2)],
)
def test_value_falls_on_a_line_then_stays(step: int, value: float) -> None:
    assert linear(1.0, 0.2, fraction=0.1, total=1000, step=step) == pytest.approx(value, abs=1e-15)


def test_end_value_is_exact() -> None:
    assert linear(1.0, 0.01, fraction=0.1, total=10_000_000, step=1_000_000) == 0.01


def test_rising_schedule() -> None:
    assert linear(0.25, 1.0, fraction=1.0, total=3, step=1) == 0.5


def test_fraction_zero_is_the_end_value_from_the_start() -> None:
    assert linear(1.0, 0.1, fraction=0.0, total=1000, step=0) == 0.1


def test_schedule_is_a_function_of_the_step_alone() -> None:
    late_first = [linear(1.0, 0.0, 0.5, 8, step) for step in (3, 0, 2, 1)]
    assert late_first == [0.25, 1.0, 0.5, 0.75]
