"""The objective of a trial: one statistic over the evaluations of its seeds.

`mean`, `iqm` and `mean-std` pool the episodes of every seed's last evaluation: seeds have equal weights, and the
standard deviation in `mean-std` includes the spread between seeds and between episodes. `auc` is the mean over seeds of
the area under the curve of evaluation means, divided by its length in steps, so it is in units of the return.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from q2pi.runs.folder import RunFolder
from q2pi.statistics.scores import interquartile_mean, mean, std
from q2pi.tuning.plan import Objective


@dataclass(frozen=True)
class Point:
    """One evaluation."""

    step: int
    """Agent steps of training."""
    scores: tuple[float, ...]
    """Raw score of each episode."""

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))


Curve = list[Point]
"""The evaluations of one seed, oldest first."""


def read_curve(folder: Path) -> Curve:
    """Return the evaluations in a run folder."""
    return [Point(row["step"], tuple(row["scores"])) for row in RunFolder(folder).rows("evaluation")]


def read_seconds(folder: Path) -> float:
    """Return the wall-clock seconds of training, without evaluation, of a run folder."""
    return float(sum(row["train_seconds"] for row in RunFolder(folder).rows("train")))


def value(objective: Objective, curves: Sequence[Curve]) -> float:
    """Return the objective over the seeds' curves, each with at least one point."""
    if objective == "auc":
        return float(np.mean([area(curve) for curve in curves]))
    scores = np.concatenate([curve[-1].scores for curve in curves])
    match objective:
        case "mean":
            return mean(scores)
        case "iqm":
            return interquartile_mean(scores)
        case "mean-std":
            return mean(scores) - std(scores)


def area(curve: Curve) -> float:
    """Return the area under a curve of evaluation means (trapezoidal rule), divided by its length in agent steps."""
    if len(curve) == 1:
        return curve[0].mean
    steps, means = [point.step for point in curve], [point.mean for point in curve]
    return float(np.trapezoid(means, steps) / (steps[-1] - steps[0]))
