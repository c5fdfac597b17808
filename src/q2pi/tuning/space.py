"""Search spaces: conversion between options and Optuna's parameters, and a user's narrower ranges and fixed values."""

import dataclasses
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from q2pi.algorithms.common.search_space import Choice, Float, Int, OneMinus, PowerOfTwo, Range, Space, ends
from q2pi.config import RunConfig, check_run, from_table, read_toml
from q2pi.errors import UserError, suggest

Options = dict[str, Any]
DIGITS = 4
"""Significant digits of a sampled real number, so that the exported value is exactly the value that was tried."""


def with_options(config: RunConfig[Any], options: Mapping[str, Any], where: str) -> RunConfig[Any]:
    """Return `config` with options of the algorithm, or `num_envs`, replaced by name."""
    own = {name: value for name, value in options.items() if name == "num_envs"}
    return from_table(config, own | {"hyper": {name: options[name] for name in options if name not in own}}, where)


def value_of(config: RunConfig[Any], name: str) -> Any:
    """Return the value of an option of the algorithm, or of `num_envs`."""
    return config.num_envs if name == "num_envs" else getattr(config.hyper, name)


def label(name: str, values: Range) -> str:
    """Return the name of Optuna's parameter for an option; it shows the scale, such as "log2 batch_size"."""
    match values:
        case PowerOfTwo():
            return f"log2 {name}"
        case OneMinus():
            return f"1 - {name}"
    return name


def distribution(values: Range) -> BaseDistribution:
    """Return Optuna's distribution of a parameter."""
    match values:
        case Float(low, high, log):
            return FloatDistribution(low, high, log=log)
        case Int(low, high, log):
            return IntDistribution(low, high, log=log)
        case PowerOfTwo(low, high):
            return IntDistribution(_exponent(low), _exponent(high))
        case OneMinus(low, high):
            return FloatDistribution(1 - high, 1 - low, log=True)
        case Choice(options):
            return CategoricalDistribution([_word(option) for option in options])


def decode(values: Range, parameter: Any) -> Any:
    """Return the option's value for a value of Optuna's parameter."""
    match values:
        case Float(low, high):
            return min(max(_rounded(parameter), low), high)
        case Int():
            return int(parameter)
        case PowerOfTwo():
            return 2 ** int(parameter)
        case OneMinus(low, high):
            return min(max(round(1 - _rounded(parameter), 12), low), high)
        case Choice(options):
            return next(option for option in options if _word(option) == parameter)


def encode(values: Range, value: Any) -> Any:
    """Return the value of Optuna's parameter for an option's value, or for the nearest value in the range.

    None maps to the lower end of a range; a value that is not among the choices maps to the first choice.
    """
    if isinstance(values, Choice):
        return _word(value if value in values.options else values.options[0])
    number = values.low if value is None else min(max(value, values.low), values.high)
    match values:
        case PowerOfTwo():
            return _exponent(number)
        case OneMinus():
            return min(max(1 - number, 1 - values.high), 1 - values.low)
    return number


def sample_options(trial: Trial, space: Space) -> Options:
    """Sample every option of a space; options that were sampled before for this trial keep their values."""
    return {name: decode(values, _sample(trial, label(name, values), values)) for name, values in space.items()}


def _sample(trial: Trial, name: str, values: Range) -> Any:
    match distribution(values):
        case FloatDistribution(low=low, high=high, log=log):
            return trial.suggest_float(name, low, high, log=log)
        case IntDistribution(low=low, high=high, log=log):
            return trial.suggest_int(name, low, high, log=log)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)


def _exponent(number: float) -> int:
    return round(math.log2(number))


def _rounded(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")


def _word(option: Any) -> Any:
    """Return a choice as Optuna stores it: a tuple as text."""
    return " ".join(map(str, option)) if isinstance(option, tuple) else option


# ---- narrower ranges and fixed values --------------------------------------------------------------------------------


def narrow(base: RunConfig[Any], file: str | None, fixes: Sequence[str]) -> tuple[Space, Options]:
    """Return (space, fixed options): an algorithm's `SPACE` after the changes of a TOML file and of `name=value` words.

    In the file a list of two numbers is a range, a list for a categorical option gives its choices, and one value fixes
    the option.

    Raises:
        UserError: an unknown option, or a value of the wrong type or out of the algorithm's bounds.
    """
    space, fixed = dict(type(base.hyper).SPACE), Options()
    for name, value, where in _entries(file, fixes):
        known = {field.name for field in dataclasses.fields(base.hyper)} | {"num_envs"}
        if name not in known:
            raise UserError(f"{where}: {base.algorithm} has no option {name!r} to search{suggest(name, known)}")
        if isinstance(value, list) and name in space and not _is_one_tuple(space[name], value):
            space[name] = _narrowed(space[name], name, value, where)
        elif isinstance(value, list) and not isinstance(value_of(base, name), tuple):
            raise UserError(f"{where}: {name} has no range in the space of {base.algorithm}: give it one value")
        else:
            space.pop(name, None)
            fixed[name] = value
        _check(base, fixed, {name: space[name]} if name in space else {}, where)
    return space, fixed


def _entries(file: str | None, fixes: Sequence[str]) -> list[tuple[str, Any, str]]:
    entries: list[tuple[str, Any, str]] = []
    if file is not None:
        table = read_toml(Path(file), f"--space {file}")
        entries += [(name, value, f"--space {file}") for name, value in table.items()]
    for word in fixes:
        name, equals, text = word.partition("=")
        if not equals or not text:
            raise UserError(f"--fix {word}: it must be name=value")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        entries.append((name.strip().replace("-", "_"), value, f"--fix {word}"))
    return entries


def _is_one_tuple(values: Range, value: list[Any]) -> bool:
    """Return whether a list is one value of an option whose choices are tuples, and not a list of choices."""
    tuples = isinstance(values, Choice) and isinstance(values.options[0], tuple)
    return tuples and not any(isinstance(item, list) for item in value)


def _narrowed(values: Range, name: str, value: list[Any], where: str) -> Range:
    if isinstance(values, Choice):
        if not value:
            raise UserError(f"{where}: {name} = []: there is nothing to choose from")
        return Choice(*(tuple(item) if isinstance(item, list) else item for item in value))
    numbers = all(isinstance(item, int | float) and not isinstance(item, bool) for item in value)
    if len(value) != 2 or not numbers or not value[0] < value[1]:
        raise UserError(f"{where}: {name} = {value}: a range is [low, high], low below high")
    if isinstance(values, Int | PowerOfTwo) and not all(isinstance(item, int) for item in value):
        raise UserError(f"{where}: {name} = {value}: it must be two whole numbers")
    if (isinstance(values, Float | Int) and values.log and not value[0] > 0) or (
        isinstance(values, OneMinus) and not value[1] < 1
    ):
        raise UserError(f"{where}: {name} = {value}: it is searched on a logarithmic scale, which has no zero")
    try:
        return dataclasses.replace(values, low=value[0], high=value[1])
    except ValueError as problem:
        raise UserError(f"{where}: {name} = {value}: {problem}") from problem


def _check(base: RunConfig[Any], fixed: Options, space: Space, where: str) -> None:
    """Check fixed values and the ends of ranges against the algorithm's bounds."""
    base = with_options(base, fixed, where)
    configs = [base] if fixed else []
    at_ends = [with_options(base, {name: end}, where) for name, values in space.items() for end in ends(values)]
    configs += [run.hyper.repaired(run) for run in at_ends]
    for config in configs:
        try:
            check_run(config)
            config.hyper.check(config)
        except UserError as problem:
            raise UserError(f"{where}: {problem}") from problem
