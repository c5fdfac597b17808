"""Presets: partial configurations in TOML, one folder per algorithm, that `--preset NAME` lays over the defaults.

A preset of the environment has priority (`Pong-laptop.toml` over `laptop.toml`). Without `--preset`, the default is the
preset named after the environment (`CartPole-v1.toml`) or after its namespace (`MinAtar.toml` for MinAtar/Breakout-v1),
else `quick` for Atari games and `classic` for everything else, if the algorithm has them.

A preset with a table `[elsewhere]` names an agent for Atari. For other environments the options in this table are laid
over the environment's default preset, which has the sizes.
"""

from dataclasses import replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from q2pi.algorithms import registry
from q2pi.algorithms.registry import default_config
from q2pi.config import RunConfig, from_table, read_toml
from q2pi.envs.names import canonical, is_atari
from q2pi.errors import UserError, suggest


def names(algorithm: str) -> list[str]:
    """Return the names of the presets that come with `algorithm`."""
    folder = files(__name__) / algorithm
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir()) if folder.is_dir() else []


def configure(
    algorithm: str, env_id: str | None = None, preset: str | None = None
) -> tuple[RunConfig[Any], str | None]:
    """Return (configuration, name of the preset used).

    Args:
        algorithm: name of the algorithm.
        env_id: environment; None uses the preset's or the algorithm's default.
        preset: a name from `names(algorithm)` or the path of a TOML file; None uses the default for the environment.

    Raises:
        UserError: an unknown algorithm, environment or preset, or a preset made for another algorithm.
    """
    base = default_config(algorithm)
    env_id = canonical(env_id) if env_id is not None else None
    if preset is None:
        preset = _default_preset(algorithm, env_id or base.env.env_id)
    if preset is None:
        return _with_env(base, env_id, {}, ""), None
    base = replace(base, preset=preset)
    env_preset = f"{_file_name(env_id or base.env.env_id)}-{preset}"
    preset = env_preset if env_preset in names(algorithm) else preset
    source = _find(algorithm, preset)
    table = read_toml(source, f"--preset {preset}")
    if table.get("algorithm", algorithm) != algorithm:
        raise UserError(f"--preset {preset} is for {table['algorithm']}, not for {algorithm}")
    elsewhere = table.pop("elsewhere", None)
    if elsewhere is not None and env_id is not None and not is_atari(env_id):
        sizes, _ = configure(algorithm, env_id)
        return from_table(sizes, {"hyper": elsewhere}, f"preset {preset}"), preset
    return _with_env(base, env_id, table, f"preset {preset}"), preset


def _with_env(base: RunConfig[Any], env_id: str | None, table: dict[str, Any], where: str) -> RunConfig[Any]:
    config = from_table(base, table, where)
    return from_table(config, {"env": {"env_id": env_id}}, where) if env_id is not None else config


def _default_preset(algorithm: str, env_id: str) -> str | None:
    available = names(algorithm)
    namespace = env_id.rpartition("/")[0]
    for name in (_file_name(env_id), namespace, "quick" if is_atari(env_id) else "classic"):
        if name in available:
            return name
    return None


def _file_name(env_id: str) -> str:
    return env_id.replace("/", "-")


def _find(algorithm: str, preset: str) -> Traversable:
    if preset in names(algorithm):
        return files(__name__) / algorithm / f"{preset}.toml"
    path = Path(preset)
    if path.suffix == ".toml" and path.is_file():
        return path
    registry.find_config(algorithm)
    available = ", ".join(names(algorithm)) or "none"
    hint = suggest(preset, names(algorithm))
    raise UserError(f"--preset {preset}: {algorithm} has {available}{hint}; or give the path of a .toml file")
