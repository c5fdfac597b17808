"""Figures from run folders."""

from collections.abc import Sequence
from pathlib import Path

from q2pi.rundir import RunDir


def learning_curves(runs: Sequence[RunDir], path: Path) -> Path | None:
    return None
