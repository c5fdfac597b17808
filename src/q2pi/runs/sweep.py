"""Sweeps: environments x algorithms x options x seeds, from a TOML file to run folders.

    algorithms = ["dqn", "ppo"]
    env_ids = ["CartPole-v1"]
    seeds = 5                    # 1 to 5, or a list of seeds
    workers = 2                  # processes
    [options]                    # of every run
    total_timesteps = 50_000
    [grid]                       # every combination of these values
    gamma = [0.9, 0.99]
    [algorithm.dqn]              # options of one algorithm: a value, or a list of values for its grid
    preset = "classic"
    batch_size = [32, 64]

If not every algorithm runs on every environment, the file lists parts, each with its own `env_ids`, `grid` and so on:

    seeds = 5
    [[runs]]
    algorithms = ["dqn"]
    env_ids = ["CartPole-v1"]
    [[runs]]
    algorithms = ["ppo"]
    env_ids = ["Pendulum-v1", "Acrobot-v1"]

The folder of a run is ENVIRONMENT/ALGORITHM[-OPTION=VALUE...]/seed-N, with the options of its grid in alphabetical
order, so it stays the same when the file grows.
"""

import dataclasses
import itertools
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from q2pi.algorithms import registry
from q2pi.algorithms.registry import default_config
from q2pi.config import ResolvedConfig, RunConfig, override, read_toml, resolve, to_table
from q2pi.errors import UserError, suggest
from q2pi.parallel.executor import Job
from q2pi.runs.folder import RunFolder
from q2pi.runs.stored_config import is_finished, read_config, trains_the_same
from q2pi.training.presets import configure

PART_KEYS = ("algorithms", "env_ids", "options", "grid", "algorithm")
KEYS = (*PART_KEYS, "seeds", "workers", "runs")
FROM_LISTS = {"seed": "seeds", "env_id": "env_ids", "algorithm": "algorithms"}
"""Option of a run -> key of the list in the file from which a sweep sets it."""
Grid = dict[str, list[Any]]
"""Option -> its values; a fixed option has one."""


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep."""

    name: str
    """Path of the run folder relative to the sweep's folder; also the name in messages."""
    path: Path
    config: ResolvedConfig[Any]

    @property
    def job(self) -> Job:
        """The job that trains the rest of the run."""
        from q2pi.runs.execute import run_job  # loads torch

        return run_job(self.name, self.path, self.config)


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep in the order in which they start: seed by seed, so that early results are comparable."""

    runs: tuple[SweepRun, ...]
    workers: int

    def unfinished(self) -> list[SweepRun]:
        """Return the runs that have not reached their budget."""
        return [run for run in self.runs if not is_finished(run.path)]


def read_sweep(file: Path, root: Path) -> Sweep:
    """Return the sweep that a TOML file describes, with run folders below `root`; nothing is written.

    Every configuration is resolved and its bounds are checked; `check` also checks memory and existing folders.

    Raises:
        UserError: the file cannot be read, or an entry is unknown, empty, of the wrong type, out of its bounds or
            listed twice.
    """
    table = _read_table(file)
    parts = [_Part.of(where, part) for where, part in _parts(file, table)]
    seeds = _seeds(file, table)
    workers = table.get("workers", 1)
    if not _is_int(workers) or workers < 1:
        raise UserError(f"{file}: workers = {workers!r}: it must be a whole number of at least 1")
    runs = [run for seed in seeds for part in parts for run in part.runs(seed, root)]
    _refuse_duplicates(file, runs)
    return Sweep(tuple(runs), workers)


@dataclass(frozen=True)
class _Part:
    """Environments x algorithms x options, of every seed of the sweep."""

    where: str
    """The file and the part's place in it, for messages."""
    env_ids: list[str]
    grids: Mapping[str, Grid]
    """Algorithm -> the values of its options."""
    varied: Mapping[str, set[str]]
    """Algorithm -> options in the names of its folders."""

    @classmethod
    def of(cls, where: str, table: Mapping[str, Any]) -> "_Part":
        names, env_ids = _list_of(where, table, "algorithms", str), _list_of(where, table, "env_ids", str)
        for name in names:
            if name not in registry.names():
                known = f"one of {', '.join(registry.names())}"
                raise UserError(
                    f"{where}: unknown algorithm {name!r}: it must be {known}{suggest(name, registry.names())}"
                )
        grids = {name: _grid(where, table, name) for name in names}
        return cls(where, env_ids, grids, _varied(table, grids))

    def runs(self, seed: int, root: Path) -> Iterator[SweepRun]:
        for env_id, name in itertools.product(self.env_ids, self.grids):
            grid = self.grids[name]
            for values in itertools.product(*grid.values()):
                choice = dict(zip(grid, values, strict=True))
                try:
                    config = _configure(name, env_id, seed, choice)
                except UserError as problem:
                    raise UserError(f"{self.where}: {name} on {env_id}: {problem}") from problem
                label = _label(config, {key: choice[key] for key in choice if key in self.varied[name]})
                yield SweepRun(label, root / label, config)


def check(sweep: Sweep, is_elsewhere: bool = False) -> dict[str, int]:
    """Check each run against its environment, this machine's memory and existing folders.

    Args:
        sweep: the runs.
        is_elsewhere: whether other machines train the runs, so that this machine's memory is not checked.

    Returns:
        The bytes of memory that each run needs, by name.

    Raises:
        UserError: the first problem.
    """
    # Imported here because it loads torch, which takes seconds: a mistake in the file is reported before.
    from q2pi.runs.estimate import Estimate, check_side_by_side, estimate, process_memory

    needs: dict[str, Estimate] = {}
    memory = {}
    for run in sweep.runs:
        _check_folder(run)
        if run.config.actors:
            raise UserError(f"{run.name}: actors = {run.config.actors}: a run of a sweep has no actors; it must be 0")
        key = json.dumps(to_table(dataclasses.replace(run.config, seed=0)), sort_keys=True)
        if key not in needs:
            try:
                needs[key] = estimate(run.config, is_elsewhere)
            except UserError as problem:
                raise UserError(f"{run.name}: {problem}") from problem
        memory[run.name] = process_memory(needs[key])
    if not is_elsewhere:
        check_side_by_side(needs.values(), sweep.workers, len(sweep.runs))
    return memory


def _read_table(file: Path) -> dict[str, Any]:
    table = read_toml(file)
    _check_keys(str(file), table, KEYS)
    return table


def _check_keys(where: str, table: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    for key in table:
        if key not in keys:
            raise UserError(
                f"{where}: unknown key {key!r}{suggest(key, keys)}; options of the runs belong in [options]"
            )
    for key in ("options", "grid", "algorithm"):
        if not isinstance(table.get(key, {}), dict):
            raise UserError(f"{where}: {key} = {table[key]!r}: it must be a table, [{key}]")


def _parts(file: Path, table: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return (its place in the file, its table) of each part; a file without [[runs]] is a single part.

    A part takes `algorithms` and `env_ids` from the file if it has none; its [options] override the file's.
    """
    if "runs" not in table:
        return [(str(file), table)]
    parts = table["runs"]
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{file}: runs = {parts!r}: it must be a list of tables, [[runs]]")
    for key in ("grid", "algorithm"):
        if key in table:
            raise UserError(f"{file}: {key} belongs in each [[runs]] that it is for: [runs.{key}]")
    shared = {key: table[key] for key in ("algorithms", "env_ids") if key in table}
    result = []
    for number, part in enumerate(parts, start=1):
        where = f"{file}: [[runs]] {number}"
        _check_keys(where, part, PART_KEYS)
        options = {**table.get("options", {}), **part.get("options", {})}
        result.append((where, {**shared, **part, "options": options}))
    return result


def _list_of(where: str, table: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    values = table.get(key)
    if not isinstance(values, list) or not values or not all(type(value) is kind for value in values):
        found = f"{key} = {values!r}" if key in table else f"{key} is missing"
        items = "names" if kind is str else "whole numbers"
        raise UserError(f"{where}: {found}: it must be a list of one or more {items}")
    return values


def _seeds(file: Path, table: Mapping[str, Any]) -> list[int]:
    seeds = table.get("seeds")
    if not _is_int(seeds):
        return _list_of(str(file), table, "seeds", int)
    if seeds < 1:
        raise UserError(f"{file}: seeds = {seeds}: it must be at least 1, or a list of seeds")
    return list(range(1, seeds + 1))


def _is_int(value: Any) -> typing.TypeGuard[int]:
    return type(value) is int


def _grid(where: str, table: Mapping[str, Any], algorithm: str) -> Grid:
    """Return the values of every option of one algorithm's runs; its own table overrides [options] and [grid]."""
    config = default_config(algorithm)
    options, grid, own = table.get("options", {}), table.get("grid", {}), _own_options(where, table, algorithm)
    twice = sorted(options.keys() & grid.keys())
    if twice:
        raise UserError(f"{where}: {twice[0]} is in both [options] and [grid]")
    result: Grid = {}
    for section, part in (("[options]", options), ("[grid]", grid), (f"[algorithm.{algorithm}]", own)):
        for key, value in part.items():
            if key in FROM_LISTS:
                raise UserError(f"{where}: {section} {key}: a sweep sets it from {FROM_LISTS[key]}")
            result[key] = _values(value, f"{where}: {section} {key} = {value!r}", section, _takes_a_list(config, key))
    return dict(sorted(result.items()))


def _own_options(where: str, table: Mapping[str, Any], algorithm: str) -> dict[str, Any]:
    tables = table.get("algorithm", {})
    for name, own in tables.items():
        if name not in table["algorithms"]:
            raise UserError(f"{where}: [algorithm.{name}]: {name} is not among algorithms{suggest(name, [algorithm])}")
        if not isinstance(own, dict):
            raise UserError(f"{where}: algorithm.{name} = {own!r}: it must be a table, [algorithm.{name}]")
    found: dict[str, Any] = tables.get(algorithm, {})
    return found


def _values(value: Any, what: str, section: str, takes_a_list: bool) -> list[Any]:
    """Return the values of an entry of the file; for an option such as `hidden` a list is one value."""
    single = not isinstance(value, list) or (takes_a_list and not any(isinstance(item, list) for item in value))
    if single and section == "[grid]":
        raise UserError(f"{what}: it must be a list of values")
    if single:
        return [value]
    if section == "[options]":
        raise UserError(f"{what}: a list of values belongs in [grid]")
    if not value:
        raise UserError(f"{what}: the list is empty")
    return list(value)


def _takes_a_list(config: RunConfig[Any], option: str) -> bool:
    """Return whether one value of an option is a list, such as the layer sizes `hidden`."""
    for owner in (config, config.env, config.hyper):
        kind = typing.get_type_hints(type(owner)).get(option)
        if kind is not None:
            kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
            return any(typing.get_origin(option) is tuple for option in kinds)
    return False


def _varied(table: Mapping[str, Any], grids: Mapping[str, Grid]) -> dict[str, set[str]]:
    """Return, for each algorithm, the options in the names of its folders: options with a list of values."""
    return {
        name: {
            key for key in grid if key in table.get("grid", {}) and key not in table.get("algorithm", {}).get(name, {})
        }
        | {key for key, values in grid.items() if len(values) > 1}
        for name, grid in grids.items()
    }


def _configure(algorithm: str, env_id: str, seed: int, choice: Mapping[str, Any]) -> ResolvedConfig[Any]:
    options = {"threads": 1, **choice, "seed": seed}
    preset = options.pop("preset", None)
    if preset is not None and not isinstance(preset, str):
        raise UserError(f"preset = {preset!r}: it must be a name or a path")
    config, _ = configure(algorithm, env_id, preset)
    known = {name for owner in (config, config.env, config.hyper) for name in _option_names(owner)}
    for option in options:
        if option not in known - {"env", "hyper"}:
            owners = [name for name in registry.names() if option in _option_names(default_config(name).hyper)]
            hint = f"; options of one algorithm belong in [algorithm.{owners[0]}]" if owners else suggest(option, known)
            raise UserError(f"unknown option {option!r} of {algorithm}{hint}")
    return resolve(override(config, options))


def _option_names(owner: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(owner)}


def _label(config: RunConfig[Any], choice: Mapping[str, Any]) -> str:
    words = [config.algorithm, *(f"{key}={_text(value)}" for key, value in sorted(choice.items()))]
    return "/".join(_plain(part) for part in (config.env.env_id, "-".join(words), f"seed-{config.seed}"))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(text: str) -> str:
    """Return text as the name of a folder, without characters that are special in a shell."""
    return re.sub(r"[^\w.=+-]+", "-", text)


def _refuse_duplicates(file: Path, runs: list[SweepRun]) -> None:
    paths: set[str] = set()
    configs: dict[str, str] = {}
    for run in runs:
        duplicate = configs.setdefault(
            json.dumps(to_table(dataclasses.replace(run.config, preset=None)), sort_keys=True), run.name
        )
        if run.name in paths:
            raise UserError(f"{file}: {run.name} is listed twice")
        if duplicate != run.name:
            raise UserError(f"{file}: {duplicate} and {run.name} have the same configuration")
        paths.add(run.name)


def _check_folder(run: SweepRun) -> None:
    folder = RunFolder(run.path)
    if not folder.config_file.is_file():
        folder.check_new()
    elif not trains_the_same(read_config(folder), run.config):
        raise UserError(
            f"{run.path} holds a run of another configuration: name another folder with --runs, or remove it"
        )
