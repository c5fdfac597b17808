"""The history of a run: configuration, episodes, metrics and evaluations, read without importing torch or numpy."""

import json
from dataclasses import dataclass
from typing import Any

from q2pi.errors import UserError
from q2pi.runs.folder import Row, RunFolder


@dataclass(frozen=True)
class History:
    """The configuration and the rows of a run, oldest first."""

    run: RunFolder
    config: dict[str, Any]
    """config.toml as a table."""
    steps: list[int]
    """[E]: agent steps at which training episodes ended."""
    returns: list[float]
    """[E]: raw returns of the training episodes."""
    train: list[Row]
    """Rows of training metrics."""
    evaluations: dict[int, dict[str, Any]]
    """Agent steps of training -> statistics of the raw scores."""

    @property
    def algorithm(self) -> str:
        return str(self.config["algorithm"])

    @property
    def preset(self) -> str | None:
        """Name of the preset that the options came from; None without one."""
        name = self.config.get("preset")
        return None if name is None else str(name)

    @property
    def env_id(self) -> str:
        return str(self.config["env"]["env_id"])

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def total_timesteps(self) -> int:
        """The run's budget in agent steps."""
        return int(self.config["total_timesteps"])

    @property
    def newest_step(self) -> int:
        """Agent steps of the newest row of any kind, 0 if there is none."""
        return int(max([*self.steps[-1:], *(row["step"] for row in self.train[-1:]), *self.evaluations], default=0))


def read_history(run: RunFolder) -> History:
    """Read a run's configuration and rows.

    Raises:
        UserError: config.toml or metrics.jsonl is damaged.
    """
    config = run.table()
    try:
        rows: dict[str, list[Row]] = {"episode": [], "train": [], "evaluation": []}
        for row in run.tail()[0]:
            rows.setdefault(row["kind"], []).append(row)
        steps = [int(row["step"]) for row in rows["episode"]]
        returns = [float(row["return"]) for row in rows["episode"]]
        evaluations = {row["step"]: row["statistics"] for row in rows["evaluation"]}
    except (ValueError, KeyError, TypeError) as problem:
        raise UserError(f"{run.metrics_file} is damaged: {problem!r}") from problem
    return History(run, config, steps=steps, returns=returns, train=rows["train"], evaluations=evaluations)


def evaluation_policy(run: RunFolder) -> str | None:
    """Return the policy of the newest evaluation, such as "epsilon-greedy, epsilon 0.001"; None without evaluation.

    Raises:
        UserError: evaluation.json is damaged.
    """
    if not run.evaluation_file.is_file():
        return None
    try:
        return str(json.loads(run.evaluation_file.read_text(encoding="utf-8"))["protocol"]["policy"])
    except (ValueError, KeyError, TypeError) as problem:
        raise UserError(f"{run.evaluation_file} is damaged: {problem!r}") from problem
