"""What the held-out seeds show: the verdict on each candidate, and the winner's estimate without selection bias.

Verdict: the sign-flip test of the differences to the defaults seed by seed (`statistics.pairs`). Its level is 5 % over
the number of candidates (Bonferroni), so the probability of any wrong verdict, in either direction, is at most 5 %.

Winner: the candidate with the highest estimate over all held-out seeds. That estimate is the highest of several noisy
numbers, so it is biased upwards. Leave-one-out measures the bias: each seed is left out in turn, the winner of the
other seeds is found, and its score on the seed left out did not influence that choice. The mean of these scores is an
unbiased estimate of what such a choice reaches. Choice and estimate both use every seed; choosing on one half and
measuring on the other would leave five of ten seeds for each.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from q2pi.statistics.pairs import least_p_value
from q2pi.types import Array

FAMILY_WISE_LEVEL = 0.05
"""Probability of any wrong "better" or "worse" among all candidates, if none differs from the defaults."""
BETTER = "significantly better (family-wise 95 %)"
WORSE = "significantly worse (family-wise 95 %)"
TOO_FEW = "too few seeds"
DIVERGED = "a run diverged"
NO_DIFFERENCE = "no difference shown"


def level(comparisons: int) -> float:
    """Return the two-sided level of each of several comparisons with the defaults."""
    return FAMILY_WISE_LEVEL / max(1, comparisons)


def verdict(low: float, high: float, seeds: int, comparisons: int) -> str:
    """Return the verdict on the interval of a difference over this many seeds."""
    if np.isnan(low) or np.isnan(high):
        return DIVERGED
    if least_p_value(seeds) > level(comparisons):
        return TOO_FEW
    if low > 0:
        return BETTER
    return WORSE if high < 0 else NO_DIFFERENCE


def selection_bias(scores: Sequence[Array], measure: Callable[[Array], float]) -> float:
    """Return how much choosing the highest estimate on the same seeds raises the winner's estimate.

    It is the mean over seeds of the winner's score minus the score of the candidate that wins without that seed: at
    least 0 if `measure` is the mean. NaN with one seed, which cannot both choose and measure.

    Args:
        scores: [seeds, episodes] for each candidate, all finite.
        measure: scores of some seeds -> estimate.
    """
    seeds = len(scores[0])
    if len(scores) == 1:
        return 0.0
    if seeds == 1:
        return float("nan")
    by_seed = np.array([[measure(row[np.newaxis]) for row in ours] for ours in scores])
    winner = by_seed[_highest(scores, measure)]
    without = [
        by_seed[_highest([np.delete(ours, seed, axis=0) for ours in scores], measure), seed] for seed in range(seeds)
    ]
    return float(np.mean(winner - without))


def statement(winner: dict[str, Any], defaults: dict[str, Any], seeds: int, finite: int, corrected: float) -> str:
    """Return the result in one sentence.

    Args:
        winner: entry of the winner in the result.
        defaults: entry of the defaults.
        seeds: number of held-out seeds.
        finite: number of candidates among which the winner was chosen: the ones that never diverged.
        corrected: the winner's estimate without selection bias.
    """
    if finite == 0:
        return f"every candidate diverged on at least one of {seeds} held-out seeds"
    if np.isnan(corrected):
        reach = f"{winner['estimate']:.1f} (biased upwards: the one seed also made the choice)"
    else:
        reach = f"{corrected:.1f}" + (f" (corrected for the choice among {finite})" if finite > 1 else "")
    if winner is defaults:
        return f"no trial beats the defaults on {seeds} held-out seeds: the defaults reach {reach}"
    text = f"{winner['label']} reaches {reach} on {seeds} held-out seeds, the defaults {defaults['estimate']:.1f}"
    low, high = winner["difference_interval"]
    match winner["verdict"]:
        case "a run diverged":
            return f"{winner['label']} reaches {reach} on {seeds} held-out seeds, but the defaults diverge"
        case "too few seeds":
            return f"{text}, but no difference can be significant with so few seeds"
        case verdict:
            conclusion = "which may be chance" if verdict == NO_DIFFERENCE else verdict
            return f"{text}: the difference is in [{low:.1f}, {high:.1f}], {conclusion}"


def _highest(scores: Sequence[Array], measure: Callable[[Array], float]) -> int:
    """Return the index of the candidate with the highest estimate, the first if several are equal."""
    return int(np.argmax([measure(ours) for ours in scores]))
