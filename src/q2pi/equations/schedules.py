"""Schedules: pure functions of the step counter, with no state of their own."""


def linear(start: float, end: float, fraction: float, total: int, step: int) -> float:
    """Return the value at `step` of a straight line from `start` to `end`, constant at `end` afterwards.

    Equation: start + (end - start) * min(1, step / (fraction * total)).

    Args:
        start: value at step 0.
        end: value from step fraction * total on.
        fraction: share of `total` over which the value moves, in [0, 1]; at 0 it is `end` from the start.
        total: length of the whole run, in the unit of `step`.
        step: the counter, at least 0.
    """
    duration = fraction * total
    if step >= duration:
        return end
    return start + (end - start) * (step / duration)
