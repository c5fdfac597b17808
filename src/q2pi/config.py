"""The configuration of a run: frozen dataclasses, read from and written to TOML.

    RunConfig --resolve--> ResolvedConfig --to_table--> config.toml

A run is a pure function of its `ResolvedConfig`. The fields of `RunConfig`, of its environment specification and of the
algorithm's own `Config` are options of the command line under the same names; their docstrings are the help texts.
torch is imported only to resolve `precision = "auto"`, so that reading a configuration is fast.
"""

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from q2pi.acceleration.threads import one_per_core
from q2pi.envs.names import canonical
from q2pi.envs.spec import EnvSpec, is_atari
from q2pi.envs.spec import resolve as resolve_env
from q2pi.errors import UserError, suggest

Hyperparameters = TypeVar("Hyperparameters", covariant=True)
Dataclass = TypeVar("Dataclass")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Generic[Hyperparameters]):
    """All options of a run."""

    algorithm: str
    """Name of a file in q2pi/algorithms."""
    total_timesteps: int = 200_000
    """Budget in agent steps, summed over environments (one agent step of Atari = 4 frames)."""
    seed: int = 1
    """Seed of episodes, exploration, sampling and initial weights."""
    num_envs: int = 8
    """Number of environments that are stepped together."""
    actors: int = 0
    """Number of actors on a Ray cluster, each with `num_envs` environments, that collect for one learner; 0 steps the
    environments in the learner's process."""
    actor_steps: int = 16
    """Steps of an actor's environments in each message to the learner; 0 is lock-step: an actor takes one step with
    the learner's newest weights, and waits for the learner."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Torch device; auto uses CUDA if available."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Arithmetic of the networks: fp32, or bf16 autocast (parameters stay fp32). auto uses the
    faster one on this machine for Atari games, and fp32 otherwise."""
    threads: int = 0
    """Number of CPU threads of torch. 0 chooses before the run: one for networks without images; for images the
    number with which a timing of the network is fastest, or without timing (--no-estimate) one per core for Atari games
    and one otherwise. Results are bit-exact for the same number."""
    checkpoint_frequency: int = 50_000
    """Agent steps between checkpoints; the last step always has one. 0 saves only the last step."""
    log_frequency: int = 1_000
    """Agent steps between rows of metrics."""
    evaluation_frequency: int = 0
    """Agent steps between evaluations during training; 0 evaluates only at the end."""
    evaluation_episodes: int = 30
    """Number of whole episodes per evaluation; 0 disables evaluation."""
    preset: str | None = None
    """Preset of the algorithm, or path of a TOML file; by default chosen by the environment."""
    from_run: str | None = None
    """Folder of a run of the same algorithm whose newest weights, with the statistics of normalisation, this run starts
    from; its replay, optimizer and counters are not taken over."""
    from_digest: str | None = None
    """Digest of the run in `from_run`, as q2pi digest prints it."""
    env: EnvSpec = field(default_factory=EnvSpec)
    hyper: Hyperparameters

    @property
    def total_envs(self) -> int:
        """Number of environments of all actors."""
        return self.num_envs * max(1, self.actors)


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(RunConfig[Hyperparameters]):
    """A `RunConfig` with all bounds checked and all `auto` and None values resolved. Use `resolve` to make one."""


def resolve(config: RunConfig[Hyperparameters]) -> ResolvedConfig[Hyperparameters]:
    """Return `config` with its environment, threads, precision and hyperparameters resolved. Idempotent.

    Threads are not timed here, see `runs.threads`: `resolve` is also called where a run is read.

    Raises:
        UserError: an unknown environment, or a value out of its bounds.
    """
    hyper: Any = config.hyper
    config = dataclasses.replace(config, env=resolve_env(with_action_masks(config.env, hyper)))
    check_run(config)
    hyper.check(config)
    if config.threads == 0:
        config = dataclasses.replace(config, threads=one_per_core() if _has_game_images(config) else 1)
    if config.precision == "auto":
        config = dataclasses.replace(config, precision=_faster_precision(config))
    config = dataclasses.replace(config, hyper=hyper.resolved(config))
    return ResolvedConfig(**{entry.name: getattr(config, entry.name) for entry in dataclasses.fields(config)})


def draft(config: RunConfig[Hyperparameters]) -> ResolvedConfig[Hyperparameters]:
    """Return `config` resolved as `resolve` does, but without timing: precision `auto` is fp32."""
    return resolve(dataclasses.replace(config, precision="fp32") if config.precision == "auto" else config)


def with_action_masks(env: EnvSpec, hyper: Any) -> EnvSpec:
    """Return a specification with `action_masks` decided: used if the environment has masks and the algorithm reads
    them.

    Raises:
        UserError: `action_masks` is on, and one of both is not the case.
    """
    if is_atari(canonical(env.env_id)) or env.action_masks is False:
        return env
    if not hyper.ACTION_MASKS:
        if env.action_masks:
            raise UserError(f"--action-masks: {hyper.algorithm} does not use action masks")
        return env
    from q2pi.envs.gymnasium import has_action_masks  # loads Gymnasium

    has_masks = has_action_masks(env)
    if env.action_masks and not has_masks:
        raise UserError(
            f'--action-masks: {env.env_id} has none; they are read from info["action_mask"] or the method action_masks '
            "of an environment with Discrete or MultiDiscrete actions"
        )
    return dataclasses.replace(env, action_masks=has_masks)


def _faster_precision(config: RunConfig[Any]) -> Literal["fp32", "bf16"]:
    if not _has_game_images(config):
        return "fp32"
    from q2pi.acceleration.device import device_of
    from q2pi.acceleration.precision import faster_precision
    from q2pi.networks.options import torso_of

    assert config.env.resize is not None, "the specification is not resolved"
    return faster_precision(
        torso_of(config.hyper.image_network, *config.env.resize), device_of(config.device), config.threads
    )


def _has_game_images(config: RunConfig[Any]) -> bool:
    """Return whether the networks read images of an Atari game; other environments are not made to find out."""
    return is_atari(config.env.env_id) and config.env.resize is not None


def check_run(config: RunConfig[Any]) -> None:
    """Raise a UserError for the first field of `RunConfig` (not `env`, not `hyper`) that is out of its bounds."""
    at_least(config, 1, "total_timesteps", "num_envs", "log_frequency")
    at_least(config, 0, "seed", "threads", "checkpoint_frequency", "evaluation_frequency", "evaluation_episodes")
    at_least(config, 0, "actors", "actor_steps")
    hyper: Any = config.hyper
    if config.actors and not hyper.HAS_ACTORS:
        raise UserError(f"--actors {config.actors}: {config.algorithm} learns on-policy, so it must be 0")
    if config.num_envs > config.total_timesteps:
        raise UserError(f"--num-envs {config.num_envs} is larger than --total-timesteps {config.total_timesteps}")


def flag(name: str) -> str:
    """Return the command-line flag of a field."""
    return "--" + name.replace("_", "-")


def at_least(config: Any, bound: float, *names: str) -> None:
    """Raise a UserError unless each named field of `config` is a number >= bound or a nonempty tuple of them."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, tuple) and (not value or min(value) < bound):
            raise UserError(f"{flag(name)} {value} is out of range: at least one layer of at least {bound} unit")
        if not isinstance(value, tuple) and not value >= bound:
            raise UserError(f"{flag(name)} {value} is out of range: it must be at least {bound}")


def within(config: Any, low: float, high: float, *names: str) -> None:
    """Raise a UserError unless each named field of `config` is a number in [low, high]."""
    for name in names:
        value = getattr(config, name)
        if not low <= value <= high:
            raise UserError(f"{flag(name)} {value} is out of range: it must be in [{low}, {high}]")


def to_table(config: Any) -> dict[str, Any]:
    """Return a dataclass as a TOML table; fields that are None are omitted, tuples become arrays."""
    table: dict[str, Any] = {}
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            table[entry.name] = to_table(value)
        elif isinstance(value, tuple):
            table[entry.name] = list(value)
        elif value is not None:
            table[entry.name] = value
    return table


def read_toml(file: Path | Traversable, name: str = "") -> dict[str, Any]:
    """Return a TOML file as a table.

    Args:
        file: the file.
        name: the file in error messages; by default its path.

    Raises:
        UserError: the file cannot be read or is not TOML.
    """
    name = name or str(file)
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise UserError(f"{name} is not valid TOML: {problem}") from problem
    except OSError as problem:
        raise UserError(f"{name} cannot be read: {(problem.strerror or str(problem)).lower()}") from problem


def from_table(base: Dataclass, table: Mapping[str, Any], where: str) -> Dataclass:
    """Return `base` with the fields in a TOML table replaced.

    Args:
        base: a dataclass instance; nested dataclasses are replaced field by field.
        table: as `tomllib` reads it.
        where: source of the table, for error messages.

    Raises:
        UserError: an unknown key, or a value of the wrong type.
    """
    known = typing.get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise UserError(f"{where}: unknown option {key!r}{suggest(key, known)}")
        old = getattr(base, key)
        if dataclasses.is_dataclass(old) and not isinstance(old, type):
            if not isinstance(value, Mapping):
                raise UserError(f"{where}: {key} = {value!r}: it must be a table, [{key}]")
            changes[key] = from_table(old, value, where)
        else:
            changes[key] = _typed(value, known[key], f"{where}: {key} = {value!r}")
    return dataclasses.replace(base, **changes)  # type: ignore[type-var]


def _typed(value: Any, kind: Any, what: str) -> Any:
    """Return `value` converted to the annotated type `kind`, one of the few types of configurations."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        kinds = [option for option in arguments if option is not type(None)]
        return _typed(value, kinds[0], what) if len(kinds) == 1 else value
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{what}: it must be one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple) or (arguments[-1] is not ... and len(value) != len(arguments)):
            raise UserError(f"{what}: it must be a list of {'numbers' if arguments[-1] is ... else len(arguments)}")
        return tuple(_typed(item, arguments[0], what) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise UserError(f"{what}: it must be of type {kind.__name__}")
    return value


def override(config: RunConfig[Any], options: Mapping[str, Any]) -> RunConfig[Any]:
    """Return `config` with options replaced by name; they may be fields of the run, of `env` or of `hyper`.

    Raises:
        UserError: an unknown option, or a value of the wrong type.
    """
    for name, value in options.items():
        for part in ("", "env", "hyper"):
            owner = getattr(config, part) if part else config
            if name in {field.name for field in dataclasses.fields(owner)} - {"env", "hyper"}:
                config = from_table(config, {part: {name: value}} if part else {name: value}, "options")
                break
        else:
            raise UserError(f"unknown option {name!r} of {config.algorithm}")
    return config
