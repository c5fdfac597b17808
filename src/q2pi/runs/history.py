"""What a run folder says of its training: episodes, metrics and evaluations."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from q2pi.config import RunConfig
from q2pi.errors import UserError
from q2pi.runs.folder import RunFolder
from q2pi.types import Array


@dataclass(frozen=True)
class History:
    """What a run's folder says of its training, oldest first."""

    run: RunFolder
    config: RunConfig[Any]
    steps: Array
    """[E] int64: agent steps at which training episodes ended."""
    returns: Array
    """[E] float64: their raw returns."""
    train: list[dict[str, Any]]
    """Rows of the learner's scalars."""
    evaluations: dict[int, dict[str, Any]]
    """Agent steps of training -> statistics of the raw scores."""

    @property
    def newest_step(self) -> int:
        """Agent steps of the newest row of any kind, 0 where there is none."""
        return int(max([*self.steps[-1:], *(row["step"] for row in self.train[-1:]), *self.evaluations], default=0))


def read_history(run: RunFolder) -> History:
    """Read a run's configuration and rows.

    Raises:
        UserError: either is damaged.
    """
    config = run.config()
    try:
        episodes = run.rows("episode")
        steps = np.array([row["step"] for row in episodes], np.int64)
        returns = np.array([row["return"] for row in episodes], np.float64)
        evaluations = {row["step"]: row["statistics"] for row in run.rows("evaluation")}
        return History(run, config, steps, returns, run.rows("train"), evaluations)
    except (ValueError, KeyError, TypeError) as problem:
        raise UserError(f"{run.metrics_file} is damaged: {problem!r}") from problem
