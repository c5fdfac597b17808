"""Writing the best configuration as a preset for `q2pi train --preset FILE`."""

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
    *("preset", "from_run", "from_digest"),
)
"""Fields of a run that depend on the search or on the machine; a preset does not contain them."""


def write_preset(path: Path, config: RunConfig[Any], evidence: str) -> None:
    """Write the options in which a configuration differs from its algorithm's defaults, atomically.

    Args:
        path: the TOML file.
        config: the configuration.
        evidence: the result of the final evaluation, for the comment at the top of the file.
    """
    defaults, values = to_table(default_config(config.algorithm)), to_table(config)
    table: dict[str, Any] = {"algorithm": config.algorithm}
    table |= {name: value for name, value in values.items() if name not in NOT_EXPORTED and value != defaults.get(name)}
    env_defaults = to_table(resolve(EnvSpec(config.env.env_id)))
    table["env"] = {
        name: value for name, value in values["env"].items() if name == "env_id" or value != env_defaults.get(name)
    }
    table["hyper"] = {name: value for name, value in values["hyper"].items() if value != defaults["hyper"].get(name)}
    comment = "".join(f"# {line}\n" for line in textwrap.wrap(evidence, 117))
    write_atomically(path, comment + tomli_w.dumps(table))
