"""Run folders sorted into cells: one environment and one method, its runs apart by their seeds alone.

A method is an algorithm with the options in which the given runs of this algorithm differ in some environment, seed
apart. Options that differ between environments only, as the environments' presets do, make no methods of their own.
What a score's meaning depends on (budget, stickiness, ...) tells methods apart wherever any two runs of one environment
differ in it, so no cell ever mixes two protocols.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q2pi.config import to_table
from q2pi.errors import UserError
from q2pi.reports.learning_curves import leaves
from q2pi.runs.folder import RunFolder
from q2pi.runs.history import History, read_history

PROTOCOL = (
    *("total_timesteps", "evaluation_episodes", "env.protocol", "env.repeat_action_probability", "env.noop_max"),
    *("env.fire_on_reset", "env.frame_skip", "env.max_frames_per_episode", "env.full_action_space"),
)
"""Options that the meaning of a score depends on, whatever the algorithm; how an agent is judged is an option of its
own algorithm, and told with every cell."""
Table = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """A finished run and its score."""

    history: History
    score: float
    """Mean raw score over the episodes of the evaluation at the end of its budget."""
    episodes: int
    policy: str
    """How the agent was judged, in words."""

    @property
    def env_id(self) -> str:
        return self.history.config.env.env_id

    @property
    def options(self) -> Table:
        """Dotted option -> value, without the seed, the algorithm and the environment's name."""
        table = dict(leaves(to_table(dataclasses.replace(self.history.config, seed=0))))
        return {name: value for name, value in table.items() if name not in ("seed", "algorithm", "env.env_id")}

    @property
    def seconds(self) -> NDArray[np.float64]:
        """[E] seconds of training, evaluations not counted, after which each training episode had ended."""
        steps = [0, *(row["step"] for row in self.history.train)]
        spent = np.cumsum([0.0, *(row.get("spent", np.nan) for row in self.history.train)])
        seconds: NDArray[np.float64] = np.interp(self.history.steps, steps, spent)
        return seconds

    @property
    def minutes(self) -> float:
        """Minutes of training, evaluations not counted; NaN where the run did not record them."""
        return float(sum(row.get("spent", np.nan) for row in self.history.train)) / 60


Cells = dict[str, dict[str, list[Sample]]]
"""Environment -> method -> runs by seed."""


def collect(runs: Iterable[RunFolder]) -> tuple[Cells, dict[str, str]]:
    """Return (cells, run -> why it is left out), environments and methods in the order in which they first occur.

    Raises:
        UserError: a damaged run, two runs of one configuration and one seed, or no run with a score.
    """
    samples, left_out = [], {}
    for run in runs:
        sample = _read(run)
        if isinstance(sample, str):
            left_out[str(run.path)] = sample
        else:
            samples.append(sample)
    if not samples:
        first = next(iter(left_out.items()), None)
        raise UserError(
            f"no run has a score to report: {': '.join(first)}" if first else "there is no run to report on"
        )
    cells: Cells = {env_id: {} for env_id in dict.fromkeys(sample.env_id for sample in samples)}
    for sample, method in zip(samples, method_names(samples), strict=True):
        cells[sample.env_id].setdefault(method, []).append(sample)
    for methods in cells.values():
        for cell in methods.values():
            cell.sort(key=lambda sample: sample.history.config.seed)
            _refuse_duplicates(cell)
    return cells, left_out


def method_names(samples: Sequence[Sample]) -> list[str]:
    """Return the name of each run's method: its algorithm and what tells it from the others, see the module."""
    options = [sample.options for sample in samples]
    places = [(sample.history.config.algorithm, sample.env_id) for sample in samples]
    in_protocol = set[str]()
    for env_id in {env_id for _, env_id in places}:
        tables = [table for table, (_, other) in zip(options, places, strict=True) if other == env_id]
        in_protocol |= differing(tables) & set(PROTOCOL)
    telling = {algorithm: set(in_protocol) for algorithm, _ in places}
    for place in set(places):
        telling[place[0]] |= differing([table for table, other in zip(options, places, strict=True) if other == place])
    return [
        ", ".join([algorithm, *(f"{name.rpartition('.')[2]} {_text(table.get(name))}" for name in sorted(names))])
        for table, (algorithm, _) in zip(options, places, strict=True)
        for names in [telling[algorithm]]
    ]


def differing(tables: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the names whose values are not the same in all tables."""
    names = {name for table in tables for name in table}
    return {name for name in names if any(table.get(name) != tables[0].get(name) for table in tables)}


def _read(run: RunFolder) -> Sample | str:
    """Return a finished run with its score, or why it has none."""
    history = read_history(run)
    budget = history.config.total_timesteps
    if history.newest_step < budget:
        return f"not finished: at step {history.newest_step:,} of {budget:,}"
    last = max(history.evaluations, default=0)
    if last < budget:
        return "it was not evaluated at its end (evaluation_episodes is 0)"
    statistics = history.evaluations[last]
    try:
        policy = str(json.loads(run.evaluation_file.read_text())["protocol"]["policy"])
        return Sample(history, float(statistics["mean"]), int(statistics["n"]), policy)
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise UserError(f"{run.evaluation_file} is damaged: {problem!r}") from problem


def _refuse_duplicates(cell: Sequence[Sample]) -> None:
    for one, other in pairwise(cell):
        seed = one.history.config.seed
        if seed == other.history.config.seed:
            paths = f"{one.history.run.path} and {other.history.run.path}"
            raise UserError(f"{paths} are one run: same configuration, same seed {seed}")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(_text, value))
    return "default" if value is None else f"{value:,}" if type(value) is int else str(value)
