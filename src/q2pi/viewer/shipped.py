"""Agents that come with the package: `viewer/agents/NAME/`, at most 1.5 MB each.

    config.toml           configuration of the run
    card.json             score with its protocol and interval, agent steps, and the command that trained the agent
    weights.safetensors   the parts of the agent's state that acting needs, floating-point weights in half precision

All other parts of the state (optimizer, replay, target network) are those of a new agent.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from q2pi.algorithms.base import Agent
from q2pi.algorithms.build import build_agent
from q2pi.config import ResolvedConfig, resolve, to_table
from q2pi.envs.make import make_envs
from q2pi.errors import UserError
from q2pi.runs.checkpoint import flatten, nest
from q2pi.runs.folder import RunFolder
from q2pi.runs.stored_config import read_config
from q2pi.types import State
from q2pi.viewer.cards import card
from q2pi.viewer.source import Loaded

MOST_BYTES = 1_500_000
"""Bound on the weights of one agent."""


def save(path: Path, agent: Agent, config: ResolvedConfig[Any], parts: Sequence[str], about: dict[str, Any]) -> None:
    """Write an agent into a new folder.

    Args:
        path: the folder.
        agent: the trained agent.
        config: its configuration.
        parts: names of the parts of its state that acting needs, such as "online" or "actor_critic".
        about: the card; it needs `env_id`, `step`, `statistics` and `protocol`.

    Raises:
        UserError: the weights are larger than MOST_BYTES.
    """
    state = agent.state()
    kept = {}
    for name, value in flatten({part: state[part] for part in parts}):
        tensor = value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))
        tensor = tensor.half() if tensor.dtype == torch.float32 else tensor
        kept[name] = tensor.detach().cpu().contiguous()
    data = to_bytes(kept)
    if len(data) > MOST_BYTES:
        raise UserError(f"the weights have {len(data):,} bytes, more than {MOST_BYTES:,}: use the smaller network")
    path.mkdir(parents=True)
    (path / "config.toml").write_text(tomli_w.dumps(to_table(config)))
    (path / "weights.safetensors").write_bytes(data)
    (path / "card.json").write_text(json.dumps(about, indent=1) + "\n")


def load(path: Path) -> Loaded:
    """Return the agent in a folder."""
    config = resolve(read_config(RunFolder(path)))
    envs = make_envs(config.env, config.num_envs, config.seed)
    agent = build_agent(config, envs)
    envs.close()
    fresh: State = {name: value for name, value in agent.state().items() if name != "replay"}
    flat = dict(flatten(fresh))
    for name, tensor in load_file(path / "weights.safetensors").items():
        flat[name] = _like(flat[name], tensor)
    agent.load(nest(flat))
    return Loaded(agent, config, int(card(path)["step"]))


def _like(old: Any, tensor: Any) -> Any:
    """Return a stored tensor in the type of the value that it replaces."""
    if isinstance(old, np.ndarray):
        return tensor.numpy().astype(old.dtype)
    return tensor.to(old.dtype) if hasattr(old, "dtype") else type(old)(tensor.item())


class ShippedSource:
    """An agent that comes with the package, see `cards.find`."""

    def __init__(self, path: Path) -> None:
        self.path, self.title = path, path.name

    def load(self) -> Loaded:
        return load(self.path)

    def refresh(self, loaded: Loaded) -> tuple[Loaded, str]:
        return loaded, ""
