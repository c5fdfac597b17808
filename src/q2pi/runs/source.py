"""Starting a run from the weights of another one: `q2pi train --from RUN`."""

from dataclasses import replace
from typing import Any

from q2pi.config import ResolvedConfig
from q2pi.errors import UserError
from q2pi.runs.checkpoint import digest
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint
from q2pi.runs.stored_config import read_config
from q2pi.types import State


def load_source(config: ResolvedConfig[Any]) -> tuple[ResolvedConfig[Any], State]:
    """Return the configuration with the digest of the run in `from_run`, and the state of that run's agent.

    The replay is left out: it may be larger than the rest of the process.

    Raises:
        UserError: no run there, a run of another algorithm, or not the run whose digest the configuration holds.
    """
    source = RunFolder.open(str(config.from_run))
    algorithm = read_config(source).algorithm
    if algorithm != config.algorithm:
        raise UserError(f"--from {source.path} is a run of {algorithm}, not of {config.algorithm}")
    _, state, _, _ = load_checkpoint(source)
    found = digest(state)
    if config.from_digest not in (None, found):
        raise UserError(
            f"--from {source.path}: its digest is {found}, and this run was to start from {config.from_digest}: "
            "it was trained further or replaced"
        )
    state["agent"].pop("replay", None)
    return replace(config, from_digest=found), state["agent"]
