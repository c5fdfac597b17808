"""Configurations: bounds, reading and writing TOML, and errors of one line."""

import ast
import sys
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import tomli_w
from small_runs import CARTPOLE, cartpole, flags, invaders

import q2pi
from q2pi import __main__ as cli
from q2pi.acceleration import precision
from q2pi.algorithms import registry
from q2pi.algorithms.configs.base import AlgorithmConfig
from q2pi.algorithms.registry import default_config
from q2pi.config import (
    ResolvedConfig,
    RunConfig,
    at_least,
    check_run,
    flag,
    from_table,
    override,
    resolve,
    to_table,
    within,
)
from q2pi.envs.spec import resolve as resolve_env
from q2pi.errors import UserError
from q2pi.runs import execute


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


def test_a_table_replaces_only_the_fields_it_has() -> None:
    changed = from_table(Sample(), {"rate": 2, "hidden": [4, 4], "inner": {"size": 5}, "crop": [1, 2]}, "f")
    assert changed == Sample(rate=2.0, hidden=(4, 4), inner=Inner(5), crop=(1, 2))
    assert isinstance(changed.rate, float)


def test_fields_that_are_none_are_omitted_from_the_table() -> None:
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


def test_hyperparameters_that_are_not_a_table() -> None:
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


# ---- resolving -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", registry.names())
def test_resolve_is_idempotent(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "faster_precision", lambda network, device, threads: "bf16")
    env_id = "Taxi-v3" if algorithm == "q_learning" else "SpaceInvaders"
    config = override(default_config(algorithm), {"env_id": env_id, "precision": "auto"})
    resolved = resolve(config)
    assert type(config) is RunConfig
    assert type(resolved) is ResolvedConfig
    assert resolve(resolved) == resolved
    monkeypatch.setattr(precision, "faster_precision", lambda network, device, threads: "fp32")
    assert resolve(resolved) == resolved, "nothing depends on the machine any more"


def test_resolve_leaves_no_auto_or_none() -> None:
    config = override(default_config("dqn"), {"env_id": "space_invaders", "num_envs": 4})
    assert (config.env.env_id, config.env.protocol, config.hyper.replay_codec) == ("space_invaders", None, "auto")
    resolved = resolve(config)
    assert resolved.env.env_id == "SpaceInvaders"
    assert resolved.env == resolve_env(config.env) != config.env
    assert resolved.hyper.replay_codec in ("raw", "zstd")
    assert (resolved.num_envs, resolved.seed) == (4, config.seed)


def test_resolve_checks_every_bound() -> None:
    for changes, line in (
        ({"num_envs": 0}, "--num-envs 0 is out of range"),
        ({"gamma": 1.5}, "--gamma 1.5 is out of range"),
        ({"batch_size": 500}, "--batch-size 500 is larger than --buffer-size 200"),
        ({"env_id": "Nowhere-v0"}, "--env-id Nowhere-v0"),
    ):
        with pytest.raises(UserError, match=line):
            resolve(cartpole(**changes))


def test_a_resolved_config_survives_toml() -> None:
    resolved = resolve(invaders())
    table = tomllib.loads(tomli_w.dumps(to_table(resolved)))
    assert resolve(from_table(default_config("dqn"), table, "config.toml")) == resolved


def test_a_resolved_config_is_what_the_loop_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`q2pi train`, `q2pi resume` and `q2pi.train` resolve the configuration before the loop starts."""
    given: list[Any] = []
    loop = execute.run

    def recording(config: Any, *arguments: Any) -> Any:
        given.append(config)
        return loop(config, *arguments)

    monkeypatch.setattr(execute, "run", recording)
    monkeypatch.setitem(sys.modules, "q2pi.reports.learning_curves", SimpleNamespace(learning_curves=lambda *_: None))
    q2pi.train("dqn", **CARTPOLE)
    path = tmp_path / "run"
    assert cli.main(["train", "dqn", *flags(CARTPOLE), "--run-dir", str(path)]) == 0
    (path / "config.toml").write_text((path / "config.toml").read_text().replace("= 400", "= 404", 1))
    assert cli.main(["resume", str(path)]) == 0
    assert [type(config) for config in given] == [ResolvedConfig] * 3
    assert all(resolve(config) == config for config in given)


# ---- generic code does not use hyperparameters by name ---------------------------------------------------------------

SOURCE = Path(q2pi.__file__).parent
GENERIC = ["config.py", "api.py", "training", "runs", "evaluation", "commands", "reports"]
BY_STRING = {"reports/learning_curves.py"}
"""It shows the protocol's epsilon in a caption."""
BY_ATTRIBUTE = {"runs/benchmark.py", "runs/benchmark_switches.py"}
"""They only measure DQN and Rainbow."""


def named_hyperparameters(source: str) -> set[str]:
    """Return how a source uses hyperparameters by name: "string" for getattr(hyper, "x"), "attribute" for hyper.x."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
            owner, name = node.args[:2]
            if "hyper" in ast.unparse(owner) and isinstance(name, ast.Constant):
                found.add("string")
        of_hyper = isinstance(node, ast.Attribute) and ast.unparse(node.value).rpartition(".")[2] == "hyper"
        if of_hyper and not hasattr(AlgorithmConfig, node.attr):
            found.add("attribute")
    return found


def test_the_search_finds_each_kind_of_name() -> None:
    assert named_hyperparameters('x = getattr(config.hyper, "gamma", 0.99)') == {"string"}
    assert named_hyperparameters('if hasattr(hyper, "gamma"): pass') == {"string"}
    assert named_hyperparameters("x = run.config.hyper.gamma") == {"attribute"}
    assert named_hyperparameters("x = config.hyper.method; getattr(config, name); getattr(config.hyper, name)") == set()


def test_generic_code_names_no_hyperparameter() -> None:
    files = [path for name in GENERIC for path in ([SOURCE / name] if ".py" in name else (SOURCE / name).rglob("*.py"))]
    assert len(files) > 40
    found = {str(path.relative_to(SOURCE)): named_hyperparameters(path.read_text()) for path in files}
    assert {name for name, kinds in found.items() if "string" in kinds} <= BY_STRING
    assert {name for name, kinds in found.items() if "attribute" in kinds} <= BY_ATTRIBUTE


def test_the_bounds_of_a_run_belong_to_it() -> None:
    """One step of every environment is a run, and so is one without evaluations or checkpoints."""
    zero = {"threads": 0, "checkpoint_frequency": 0, "evaluation_frequency": 0, "evaluation_episodes": 0, "seed": 0}
    check_run(replace(cartpole(), num_envs=400, log_frequency=1, **zero))
    check_run(replace(cartpole(), num_envs=1, total_timesteps=1))


def test_every_layer_needs_a_unit() -> None:
    with pytest.raises(UserError, match=r"^--hidden \(3, 0\) is out of range: at least one layer of at least 1 unit$"):
        resolve(cartpole(hidden=(3, 0)))
