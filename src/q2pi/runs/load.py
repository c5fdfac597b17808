"""Reading the parts of a run folder that need torch: newest checkpoint, agent."""

from collections.abc import Mapping
from typing import Any

from q2pi.algorithms.base import Agent
from q2pi.algorithms.build import build_agent, restore
from q2pi.config import ResolvedConfig, override, resolve
from q2pi.envs.make import make_envs
from q2pi.runs import checkpoint
from q2pi.runs.folder import RunFolder
from q2pi.runs.stored_config import read_config
from q2pi.types import State

REPLAY = "agent/replay/"
"""Start of the names of the replay's arrays in a checkpoint."""


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
