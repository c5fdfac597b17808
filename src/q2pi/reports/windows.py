"""Training returns averaged over windows of agent steps:

    agent steps    0 |<--- width --->| width |<--- width --->| 2 width
    episodes             x   x     x             x        x
    drawn                    o (mean of 3)         o (mean of 2)

An episode belongs to the window in which it ended; the last step of a window belongs to the window.
"""

import math
from collections.abc import Sequence

import numpy as np

from q2pi.runs.history import History
from q2pi.types import Array

Numbers = Array | Sequence[int] | Sequence[float]
"""An array or a list of numbers."""
WINDOWS = 50
"""Number of windows over the longest run, if episodes are frequent."""
EPISODES_PER_WINDOW = 10
DIGITS = (1, 2, 3, 4, 5, 6, 8, 10)
"""Round widths are these numbers times a power of ten."""


def window_means(steps: Numbers, values: Numbers, width: int, count: int) -> Array:
    """Return the mean of the values in each window, NaN for an empty window.

    Args:
        steps: [E] agent steps, each at least 1; window k holds k * width < step <= (k + 1) * width.
        values: [E]
        width: agent steps of a window.
        count: number of windows; later values are ignored.

    Returns:
        [count] float64.
    """
    window = (np.asarray(steps, np.int64) - 1) // width
    totals = np.bincount(window, weights=values, minlength=count)[:count]
    sizes = np.bincount(window, minlength=count)[:count]
    means: Array = np.divide(totals, sizes, out=np.full(count, np.nan), where=sizes > 0)
    return means


def window_means_of_all(curves: Sequence[tuple[Numbers, Numbers]], width: int) -> tuple[Array, Array]:
    """Return the window means of several runs, in the windows in which every run has a value.

    Args:
        curves: (steps [E], values [E]) of each run, E at least 1.
        width: agent steps of a window.

    Returns:
        Centres [W] of the windows in agent steps, and means [runs, W].
    """
    count = -(-int(max(steps[-1] for steps, _ in curves)) // width)
    means = np.stack([window_means(steps, values, width, count) for steps, values in curves])
    full = np.flatnonzero(~np.isnan(means).any(axis=0))
    return (full + 0.5) * width, means[:, full]


def default_width(histories: Sequence[History]) -> int:
    """Return one window width for all runs, in agent steps; see `window_width`."""
    longest = max(history.newest_step for history in histories)
    sparse = max(history.newest_step / max(1, len(history.steps)) for history in histories)
    return window_width(longest, sparse)


def window_width(longest: float, sparse: float) -> int:
    """Return a round width: about 50 windows in `longest`, or wider so that 10 episodes fit in a window.

    Args:
        longest: length of the longest run.
        sparse: mean length between two episodes, in the run with the fewest episodes.
    """
    wanted = min(max(longest / WINDOWS, EPISODES_PER_WINDOW * sparse), longest / 4)
    power = 10 ** max(0, math.floor(math.log10(max(1, wanted))))
    return int(next(digit * power for digit in DIGITS if digit * power >= wanted or digit == DIGITS[-1]))
