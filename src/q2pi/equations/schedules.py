"""Schedules: pure functions of the step counter, with no state of their own."""

import math


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


def rectification(beta2: float, update: int) -> float:
    """Return the factor on Adam's step size that makes it RAdam's, 0 for as long as the variance is intractable.

    Equation: sqrt((rho - 4)(rho - 2) rho_inf / ((rho_inf - 4)(rho_inf - 2) rho)) where rho > 5, with
    rho_inf = 2 / (1 - beta2) - 1 and rho = rho_inf - 2 t beta2^t / (1 - beta2^t).
    Source: Liu et al. 2020, "On the Variance of the Adaptive Learning Rate and Beyond", algorithm 2, with the bound of
    its authors' code, 5 in place of 4. There, the updates that come before take plain steps of the mean gradient.

    Args:
        beta2: Adam's decay of the second moment, in (0, 1).
        update: t, counted from 1.
    """
    longest = 2 / (1 - beta2) - 1
    decay = beta2**update
    length = longest - 2 * update * decay / (1 - decay)
    if length <= 5:
        return 0.0
    return math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
