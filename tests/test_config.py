"""Configurations: bounds, TOML in and out, and mistakes in one line."""

import tomllib
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest
import tomli_w
from small_runs import cartpole, invaders

from q2pi.algorithms.registry import default_config
from q2pi.config import RunConfig, at_least, check_run, flag, from_table, to_table, within
from q2pi.errors import UserError


@dataclass(frozen=True)
class Inner:
    size: int = 3


@dataclass(frozen=True)
class Sample:
    rate: float = 0.5
    count: int = 1
    on: bool = False
    name: str = "a"
    kind: Literal["x", "y"] = "x"
    crop: tuple[int, int] | None = None
    hidden: tuple[int, ...] = (8,)
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)


def test_a_table_replaces_what_it_names_and_nothing_else() -> None:
    changed = from_table(Sample(), {"rate": 2, "hidden": [4, 4], "inner": {"size": 5}, "crop": [1, 2]}, "f")
    assert changed == Sample(rate=2.0, hidden=(4, 4), inner=Inner(5), crop=(1, 2))
    assert isinstance(changed.rate, float)


def test_fields_that_are_none_are_left_out_of_the_table() -> None:
    assert to_table(Sample()) == {
        "rate": 0.5,
        "count": 1,
        "on": False,
        "name": "a",
        "kind": "x",
        "hidden": [8],
        "inner": {"size": 3},
    }


@pytest.mark.parametrize("config", [cartpole(), invaders(crop=(1, 2, 0, 0), learning_rate=6.25e-5)])
def test_a_run_config_survives_toml(config: RunConfig[Any]) -> None:
    table = tomllib.loads(tomli_w.dumps(to_table(config)))
    assert from_table(default_config(config.algorithm), table, "config.toml") == config


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ({"rat": 1.0}, "f: unknown option 'rat' (did you mean 'rate'?)"),
        ({"inner": {"sizes": 1}}, "f: unknown option 'sizes' (did you mean 'size'?)"),
        ({"zzz": 1}, "f: unknown option 'zzz'"),
        ({"count": 1.5}, "f: count = 1.5: it must be of type int"),
        ({"count": True}, "f: count = True: it must be of type int"),
        ({"count": "1"}, "f: count = '1': it must be of type int"),
        ({"rate": True}, "f: rate = True: it must be of type float"),
        ({"rate": "fast"}, "f: rate = 'fast': it must be of type float"),
        ({"on": 1}, "f: on = 1: it must be of type bool"),
        ({"limit": "3"}, "f: limit = '3': it must be of type int"),
        ({"kind": "z"}, "f: kind = 'z': it must be one of x, y"),
        ({"kind": ["x"]}, "f: kind = ['x']: it must be one of x, y"),
        ({"crop": [1, 2, 3]}, "f: crop = [1, 2, 3]: it must be a list of 2"),
        ({"hidden": 5}, "f: hidden = 5: it must be a list of numbers"),
        ({"hidden": ["a"]}, "f: hidden = ['a']: it must be of type int"),
        ({"inner": 5}, "f: inner = 5: it must be a table, [inner]"),
    ],
)
def test_mistakes_in_a_table(table: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        from_table(Sample(), table, "f")
    assert str(caught.value) == line


def test_hyperparameters_that_are_no_table() -> None:
    with pytest.raises(UserError, match=r"hyper = 5: it must be a table"):
        from_table(cartpole(), {"hyper": 5}, "config.toml")


def test_flags_are_fields_with_dashes() -> None:
    assert flag("total_timesteps") == "--total-timesteps"


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_at_least(value: float) -> None:
    at_least(Sample(rate=1), 1, "rate")
    with pytest.raises(UserError, match=rf"^--rate {value} is out of range: it must be at least 1$"):
        at_least(Sample(rate=value), 1, "rate")


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_within(value: float) -> None:
    within(Sample(rate=0), 0, 1, "rate")
    within(Sample(rate=1), 0, 1, "rate")
    with pytest.raises(UserError, match=rf"^--rate {value} is out of range: it must be in \[0, 1\]$"):
        within(Sample(rate=value), 0, 1, "rate")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"total_timesteps": 0}, "--total-timesteps 0 is out of range: it must be at least 1"),
        ({"num_envs": 0}, "--num-envs 0 is out of range: it must be at least 1"),
        ({"log_frequency": 0}, "--log-frequency 0 is out of range: it must be at least 1"),
        ({"seed": -1}, "--seed -1 is out of range: it must be at least 0"),
        ({"threads": -1}, "--threads -1 is out of range: it must be at least 0"),
        ({"checkpoint_frequency": -1}, "--checkpoint-frequency -1 is out of range: it must be at least 0"),
        ({"evaluation_episodes": -1}, "--evaluation-episodes -1 is out of range: it must be at least 0"),
        ({"num_envs": 401}, "--num-envs 401 is larger than --total-timesteps 400"),
    ],
)
def test_bounds_of_a_run(change: dict[str, Any], line: str) -> None:
    check_run(cartpole())
    with pytest.raises(UserError) as caught:
        check_run(replace(cartpole(), **change))
    assert str(caught.value) == line
