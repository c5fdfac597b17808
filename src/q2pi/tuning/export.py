"""The winner as a preset: what `q2pi train --preset FILE` lays over the defaults."""

import textwrap
from pathlib import Path
from typing import Any

import tomli_w

from q2pi.algorithms.registry import default_config
from q2pi.config import RunConfig, to_table
from q2pi.envs.spec import EnvSpec, resolve
from q2pi.runs.files import write_atomically

NOT_EXPORTED = (
    *("algorithm", "env", "hyper", "seed", "device", "log_frequency"),
    *("checkpoint_frequency", "evaluation_frequency", "evaluation_episodes"),
)
"""Fields of a run that belong to the search or to a machine, not to what was found."""


def write_preset(path: Path, config: RunConfig[Any], evidence: str) -> None:
    """Write the options in which a configuration differs from its algorithm's defaults, whole or not at all.

    Args:
        path: the TOML file.
        config: the winner's.
        evidence: what was measured, as a comment.
    """
    usual, found = to_table(default_config(config.algorithm)), to_table(config)
    table: dict[str, Any] = {"algorithm": config.algorithm}
    table |= {name: value for name, value in found.items() if name not in NOT_EXPORTED and value != usual.get(name)}
    rules = to_table(resolve(EnvSpec(config.env.env_id)))
    table["env"] = {name: value for name, value in found["env"].items() if name == "env_id" or value != rules.get(name)}
    table["hyper"] = {name: value for name, value in found["hyper"].items() if value != usual["hyper"].get(name)}
    comment = "".join(f"# {line}\n" for line in textwrap.wrap(evidence, 117))
    write_atomically(path, comment + tomli_w.dumps(table))
