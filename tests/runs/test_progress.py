"""Seconds as hours, minutes and seconds."""

import pytest

from q2pi.runs.progress import clock


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "00:00"), (59.9, "00:59"), (61, "01:01"), (3_600, "1:00:00"), (36_061, "10:01:01")]
)
def test_a_clock_shows_hours_only_if_there_are_any(seconds: float, text: str) -> None:
    assert clock(seconds) == text
