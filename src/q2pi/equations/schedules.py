"""Schedules: pure, stateless functions of the step counter."""

import math


def linear(start: float, end: float, fraction: float, total: int, step: int) -> float:
    """Return the value at `step` of a linear schedule from `start` to `end`, constant afterwards.

    Equation: start + (end - start) * min(1, step / (fraction * total)).

    Args:
        start: value at step 0.
        end: value from step fraction * total on.
        fraction: share of `total` over which the value changes, in [0, 1]; with 0 the value is always `end`.
        total: length of the whole run, in the unit of `step`.
        step: the counter, at least 0.
    """
    duration = fraction * total
    if step >= duration:
        return end
    return start + (end - start) * (step / duration)


def rectification(beta2: float, update: int) -> float:
    """Return RAdam's factor of Adam's learning rate; 0 while the variance is intractable.

    Equation: sqrt((rho - 4)(rho - 2) rho_inf / ((rho_inf - 4)(rho_inf - 2) rho)) if rho > 5, with
    rho_inf = 2 / (1 - beta2) - 1 and rho = rho_inf - 2 t beta2^t / (1 - beta2^t).
    Source: Liu et al. 2020, "On the Variance of the Adaptive Learning Rate and Beyond", algorithm 2, with the
    bound 5 of its authors' code instead of 4. In that code, earlier updates are steps along the mean gradient.

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
