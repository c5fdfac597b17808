"""Reading the parts of a run folder that need its algorithm: typed configuration, newest checkpoint, agent."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from q2pi.algorithms.base import Agent
from q2pi.algorithms.build import build_agent, restore
from q2pi.algorithms.registry import default_config
from q2pi.config import ResolvedConfig, RunConfig, from_table, override, read_toml, resolve
from q2pi.envs import make_envs
from q2pi.errors import UserError
from q2pi.runs import checkpoint
from q2pi.runs.folder import RunFolder
from q2pi.types import State

REPLAY = "agent/replay/"
"""Start of the names of the replay's arrays in a checkpoint."""


def read_config(folder: RunFolder) -> RunConfig[Any]:
    """Return the configuration of a run.

    Raises:
        UserError: the file is not TOML, or names an algorithm or an option that does not exist.
    """
    table = read_toml(folder.config_file)
    if not isinstance(table.get("algorithm"), str):
        raise UserError(f"{folder.config_file}: the option 'algorithm' is missing")
    return from_table(default_config(table["algorithm"]), table, str(folder.config_file))


def trains_the_same(stored: RunConfig[Any], config: RunConfig[Any]) -> bool:
    """Return whether two configurations train the same run, whatever they note of a preset's name and a digest."""
    notes: dict[str, Any] = {"preset": None, "from_digest": None}
    return replace(resolve(stored), **notes) == replace(resolve(config), **notes)


def load_checkpoint(folder: RunFolder) -> tuple[int, State, dict[str, Any], list[str]]:
    """Return (step, state, info, warnings) of a run's newest intact checkpoint, see `checkpoint.load_newest`."""
    return checkpoint.load_newest(folder.checkpoints)


def load_state_of_agent(folder: RunFolder) -> tuple[int, State, list[str]]:
    """Return (step, state, warnings) of a run's newest intact checkpoint without the replay, whose files are not read.

    The agent can act and be evaluated with it, not trained.
    """
    step, state, _, warnings = checkpoint.load_newest(folder.checkpoints, skip=REPLAY)
    state["agent"].pop("replay", None)
    return step, state, warnings


def load_agent(
    folder: RunFolder, options: Mapping[str, Any] | None = None
) -> tuple[Agent, ResolvedConfig[Any], int, list[str]]:
    """Return (agent, config, agent steps, warnings) of a run's newest checkpoint, without its replay.

    The agent can act and be evaluated. To continue its training, pass the whole state to `training.loop.run`.

    Args:
        folder: the run's folder.
        options: options of the run to replace by name, such as {"eval_epsilon": 0.0}.
    """
    config = resolve(override(read_config(folder), options or {}))
    step, state, warnings = load_state_of_agent(folder)
    envs = make_envs(config.env, config.num_envs, config.seed)
    agent = build_agent(config, envs)
    envs.close()
    restore(agent, state)
    return agent, config, step, warnings
