"""The runs below a folder, as the rows of a table: read quickly, and again only if their files change."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from q2pi.errors import UserError
from q2pi.reports.labels import differing, leaves, short
from q2pi.runs.find import find_runs, is_in_use, run_state
from q2pi.runs.folder import Row, RunFolder
from q2pi.runs.manifest import steps
from q2pi.runs.progress import RECENT_EPISODES

TAIL_BYTES = 64 << 10
"""Bytes at the end of metrics.jsonl that are read for the newest rows."""


@dataclass(frozen=True)
class Summary:
    """One run."""

    path: Path
    name: str
    """Path relative to the folder of the table."""
    problem: str = ""
    """Why the run cannot be read; "" if it can."""
    options: dict[str, Any] = field(default_factory=dict)
    """Dotted name -> value of config.toml."""
    step: int = 0
    """Agent steps of the newest row."""
    state: str = ""
    """As `find.run_state` names it."""
    mean_return: float | None = None
    """Mean raw return of the newest training episodes."""
    evaluation: tuple[float, float, float] | None = None
    """Mean raw score of the newest evaluation, and its 95 % interval over episodes."""
    minutes: float | None = None
    """Wall-clock minutes of training."""

    @property
    def algorithm(self) -> str:
        return str(self.options.get("algorithm", ""))

    @property
    def env_id(self) -> str:
        return str(self.options.get("env.env_id", ""))

    @property
    def total(self) -> int:
        """The budget in agent steps, 0 if unknown."""
        return int(self.options.get("total_timesteps", 0))


class RunTable:
    """Summaries of all runs below a folder.

    Args:
        root: the folder; it may be missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: list[Summary] = []
        """By path; replaced as a whole, so that other threads may read it."""
        self.is_complete = False
        """Whether every run was read once."""
        self._cache: dict[Path, tuple[Any, Summary]] = {}

    def refresh(self) -> bool:
        """Read the runs whose files changed; return whether any row changed."""
        before = self.rows
        found: list[Summary] = []
        for run in find_runs(self.root):
            found.append(self._summary(run))
            if not self.is_complete and len(found) % 50 == 0:
                self.rows = list(found)
        paths = {summary.path for summary in found}
        self._cache = {path: entry for path, entry in self._cache.items() if path in paths}
        self.rows, was_complete, self.is_complete = found, self.is_complete, True
        return found != before or not was_complete

    def _summary(self, run: RunFolder) -> Summary:
        fingerprint = _fingerprint(run)
        cached = self._cache.get(run.path)
        if cached is not None and cached[0] == fingerprint:
            return cached[1]
        summary = summarize(run, self.root)
        self._cache[run.path] = (fingerprint, summary)
        return summary


def _fingerprint(run: RunFolder) -> Any:
    """Return what changes if a run changes: times and sizes of its files, its checkpoints, and whether it trains."""
    files: list[tuple[int, int, int] | None] = []
    for path in (run.config_file, run.metrics_file, run.evaluation_file):
        try:
            stat = os.stat(path)
        except OSError:
            files.append(None)
        else:
            files.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
    try:
        return files, steps(run.checkpoints), is_in_use(run)
    except OSError:
        return files, None, None


def summarize(run: RunFolder, root: Path) -> Summary:
    """Return the summary of a run; a run that cannot be read has a `problem`."""
    name = os.path.relpath(run.path, root)
    try:
        options = dict(leaves(run.table()))
        rows = tail_rows(run.metrics_file)
        episodes = [row["return"] for row in rows if row["kind"] == "episode"][-RECENT_EPISODES:]
        train = [row for row in rows if row["kind"] == "train"]
        return Summary(
            run.path,
            name,
            options=options,
            step=int(rows[-1]["step"]) if rows else 0,
            state=run_state(run, int(options["total_timesteps"])),
            mean_return=float(np.mean(episodes)) if episodes else None,
            evaluation=_evaluation(run),
            minutes=float(train[-1]["wall_seconds"]) / 60 if train else None,
        )
    except UserError as problem:
        return Summary(run.path, name, problem=str(problem))
    except (OSError, ValueError, KeyError, TypeError) as problem:
        return Summary(run.path, name, problem=f"{run.path} is damaged or of another version: {problem!r}")


def tail_rows(path: Path, size: int = TAIL_BYTES) -> list[Row]:
    """Return the newest rows of a metrics.jsonl: the complete lines within its last `size` bytes; [] without a file.

    Raises:
        ValueError: a line is not a JSON object.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return []
    with file:
        start = max(0, file.seek(0, os.SEEK_END) - size)
        file.seek(start)
        lines = file.read().split(b"\n")
    # The last element is empty or an incomplete line; the first is a part of a line unless the file starts there.
    rows = [json.loads(line) for line in lines[1 if start else 0 : -1]]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is not an object")
    return rows


def _evaluation(run: RunFolder) -> tuple[float, float, float] | None:
    if not run.evaluation_file.is_file():
        return None
    statistics = json.loads(run.evaluation_file.read_text())["statistics"]
    low, high = statistics["mean_interval"]
    return float(statistics["mean"]), float(low), float(high)


def differences(summaries: Sequence[Summary]) -> list[tuple[str, list[str]]]:
    """Return (option, its value in each run) of the options in which runs differ, the seed last."""
    tables = [summary.options for summary in summaries]
    names = sorted(differing(tables), key=lambda name: (name == "seed", name)) if tables else []
    return [(name, [str(table.get(name, "default")) for table in tables]) for name in names]


def difference_of(summary: Summary, names: Sequence[str]) -> str:
    """Return the values of the named options of one run, in words."""
    shown = [f"{short(name)} {summary.options[name]}" for name in names if name in summary.options]
    return ", ".join(shown)


def varying(summaries: Sequence[Summary]) -> dict[tuple[str, str], list[str]]:
    """Return (algorithm, environment) -> names of the options in which its runs differ, the seed left out."""
    families: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for summary in summaries:
        families.setdefault((summary.algorithm, summary.env_id), []).append(summary.options)
    return {family: sorted(differing(tables) - {"seed"}) for family, tables in families.items()}
