"""The plan of a study: written once to study.toml and compared with the options of every later call."""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tomli_w

from q2pi.algorithms.common import search_space as search
from q2pi.algorithms.common.search_space import Choice, Range, Space
from q2pi.algorithms.registry import default_config
from q2pi.config import ResolvedConfig, from_table, read_toml, resolve, to_table
from q2pi.errors import UserError
from q2pi.runs.files import write_atomically
from q2pi.tuning.space import Options

Sampler = Literal["tpe", "cmaes", "random", "gp", "nsga2"]
Pruner = Literal["median", "hyperband", "halving", "none"]
Objective = Literal["mean", "iqm", "mean-std", "auc"]
HELD_OUT = 1_000
"""Offset of the seeds of the final runs; also the largest number of seeds of a trial, so that the two never overlap."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that all trials of a study share."""

    name: str
    """Name of the study in its storage."""
    base: ResolvedConfig[Any]
    """The defaults: the run of trial 0. Other trials replace the options in `space` and `fixed`."""
    space: Space
    fixed: Options
    """Option -> value in every trial except the defaults."""
    objective: Objective = "mean"
    sampler: Sampler = "tpe"
    pruner: Pruner = "median"
    seeds: int = 3
    """Number of training seeds of a trial: `base.seed`, `base.seed + 1`, ..."""
    storage: str = "journal"
    """`journal`, or an SQL URL without its password."""

    @property
    def trial_seeds(self) -> list[int]:
        return [self.base.seed + index for index in range(self.seeds)]

    def held_out_seeds(self, count: int) -> list[int]:
        """Return training seeds that no trial uses."""
        return [self.base.seed + HELD_OUT + index for index in range(count)]

    @property
    def evaluations(self) -> int:
        """Number of evaluations of a run, including the one at its end."""
        return -(-self.base.total_timesteps // self.base.evaluation_frequency)

    @property
    def minimizes_seconds(self) -> bool:
        """Whether seconds are a second objective."""
        return self.sampler == "nsga2"

    def table(self) -> dict[str, Any]:
        """Return the plan as a TOML table."""
        plain = {name: getattr(self, name) for name in ("name", "objective", "sampler", "pruner", "seeds", "storage")}
        space = {name: _range_table(values) for name, values in self.space.items()}
        table: dict[str, Any] = json.loads(
            json.dumps(plain | {"fixed": self.fixed, "base": to_table(self.base), "space": space})
        )
        return table


def _range_table(values: Range) -> dict[str, Any]:
    if isinstance(values, Choice):
        return {"kind": "Choice", "options": list(values.options)}
    return {"kind": type(values).__name__} | dataclasses.asdict(values)


def _range(table: dict[str, Any]) -> Range:
    values: dict[str, Any] = dict(table)
    kind = values.pop("kind")
    if kind == "Choice":
        return Choice(*(tuple(item) if isinstance(item, list) else item for item in values["options"]))
    made: Range = {
        "Float": search.Float,
        "Int": search.Int,
        "PowerOfTwo": search.PowerOfTwo,
        "OneMinus": search.OneMinus,
    }[kind](**values)
    return made


class StudyFolder:
    """The paths of a study's folder."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.plan_file = self.path / "study.toml"
        self.journal = self.path / "journal.log"
        self.lock = self.path / ".lock"
        self.claims = self.path / ".claims"
        self.report = self.path / "report"
        self.final = self.path / "final"

    def trial(self, number: int) -> Path:
        return self.path / "trials" / f"{number:04d}"

    def owner(self, number: int) -> Path:
        """Return the lock file of the process that owns a trial."""
        return self.trial(number) / ".owner"

    def check(self) -> None:
        """Raise a UserError if the folder holds something else, or cannot be created."""
        if (
            self.path.exists()
            and not self.plan_file.is_file()
            and (not self.path.is_dir() or any(self.path.glob("[!.]*")))
        ):
            raise UserError(f"--study {self.path} exists and is not a study: name another folder")
        nearest = next(parent for parent in [self.path, *self.path.absolute().parents] if parent.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise UserError(f"--study {self.path} cannot be created: {nearest} is not a writable folder")

    def read(self) -> Plan:
        """Read the plan.

        Raises:
            UserError: study.toml is missing or damaged.
        """
        if not self.plan_file.is_file():
            raise UserError(f"{self.path} is not a study: it has no study.toml")
        table = read_toml(self.plan_file)
        try:
            base = resolve(from_table(default_config(table["base"]["algorithm"]), table["base"], str(self.plan_file)))
            space = {name: _range(values) for name, values in table["space"].items()}
            return Plan(**{**table, "base": base, "space": space})
        except (KeyError, TypeError) as problem:
            raise UserError(f"{self.plan_file} is damaged: {problem}") from problem

    def write(self, plan: Plan) -> None:
        """Write the plan of a new study atomically."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.plan_file, tomli_w.dumps(plan.table()))


def check_same(folder: StudyFolder, old: Plan, new: Plan) -> None:
    """Raise a UserError that names the first option in which the plan of a call differs from the plan of the study."""
    before, after = (_flat(plan.table()) for plan in (old, new))
    for key in sorted(before.keys() | after.keys(), key=lambda key: (not key.startswith("base.algorithm"), key)):
        if key != "name" and before.get(key) != after.get(key):
            raise UserError(
                f"{folder.path} is a study with {key} = {before.get(key, 'unset')}, not {after.get(key, 'unset')}: "
                "repeat its options or name another --study folder"
            )


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
