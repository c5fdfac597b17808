"""Sweeps and studies below a folder, and their states.

sweep    ENVIRONMENT/ALGORITHM[-OPTION=VALUE...]/seed-N below its folder
study    a folder with study.toml; runs in trials/NNNN/seed-N and in final/
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from q2pi.config import read_toml
from q2pi.errors import UserError
from q2pi.viewer.table import Summary


@dataclass(frozen=True)
class Group:
    """A sweep or a study."""

    kind: Literal["sweep", "study"]
    name: str
    """Path relative to the folder of the table."""
    about: str
    """What it varies, or the winner of a study."""
    states: dict[str, int]
    """State -> number of runs: finished, training, stopped, damaged."""

    @property
    def state(self) -> str:
        """The state of the whole."""
        if self.states.get("training"):
            return "training"
        unfinished = sum(count for name, count in self.states.items() if name != "finished")
        return "finished" if not unfinished else "incomplete"


def groups(summaries: Sequence[Summary], root: Path) -> list[Group]:
    """Return the sweeps and studies to which runs belong, by name."""
    members: dict[tuple[Literal["sweep", "study"], Path], list[Summary]] = {}
    for summary in summaries:
        owner = _owner(summary.path, root)
        if owner is not None:
            members.setdefault(owner, []).append(summary)
    found = [_group(kind, folder, runs, root) for (kind, folder), runs in members.items()]
    return sorted(found, key=lambda group: group.name)


def _owner(path: Path, root: Path) -> tuple[Literal["sweep", "study"], Path] | None:
    for parent in path.parents:
        if (parent / "study.toml").is_file():
            return "study", parent
        if parent == root:
            break
    is_sweep = path.name.startswith("seed-") and len(path.relative_to(root).parts) >= 3
    return ("sweep", _sweep_folder(path)) if is_sweep else None


def _sweep_folder(path: Path) -> Path:
    """Return the folder of a sweep from the path of a run; an environment's id may hold a slash."""
    folder = path.parents[2]
    return folder.parent if folder.name == "q2pi" else folder


def state_of(summary: Summary) -> str:
    """Return finished, training, stopped, "no checkpoint" or damaged."""
    return "damaged" if summary.problem else "stopped" if summary.state.startswith("stopped") else summary.state


def _group(kind: Literal["sweep", "study"], folder: Path, runs: list[Summary], root: Path) -> Group:
    states = dict(Counter(state_of(run) for run in runs))
    name = str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)
    about = _study(folder) if kind == "study" else _sweep(runs)
    return Group(kind, name if name != "." else folder.name, about, states)


def _sweep(runs: list[Summary]) -> str:
    readable = [run for run in runs if not run.problem]
    algorithms, env_ids = ({run.algorithm for run in readable}, {run.env_id for run in readable})
    seeds = {run.options.get("seed") for run in readable}
    return f"{', '.join(sorted(algorithms))} on {', '.join(sorted(env_ids))}, {len(seeds)} seeds"


def _study(folder: Path) -> str:
    """Return the search of a study, and the statement of its result if there is one."""
    try:
        plan = read_toml(folder / "study.toml")
        trials = len([path for path in (folder / "trials").glob("[0-9]*") if path.is_dir()])
        words = f"{plan['base']['algorithm']} on {plan['base']['env']['env_id']}, {trials} trials, {plan['sampler']}"
        results = sorted([*folder.glob("report/result.json"), *folder.glob("result.json")])
        return f"{words}; {json.loads(results[0].read_text())['statement']}" if results else words
    except (UserError, OSError, ValueError, KeyError, TypeError) as problem:
        return f"study.toml cannot be read: {problem}"
