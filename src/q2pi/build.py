"""From a name to a configuration, and from a prepared one to an agent, fresh or with what a checkpoint holds."""

from typing import Any

import numpy as np
import torch

from q2pi import algorithms
from q2pi.algorithms.base import Agent, Setting, State
from q2pi.config import RunConfig
from q2pi.envs.games import VectorGames
from q2pi.errors import UserError


def default_config(algorithm: str) -> RunConfig[Any]:
    """Return the configuration of `algorithm` with every default."""
    module = algorithms.find(algorithm)
    return RunConfig(algorithm=algorithm, hyper=module.Config())


def device_of(name: str) -> torch.device:
    """Return the torch device for auto, cpu or cuda."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device here; use --device cpu or auto")
    return torch.device(name)


def setting_of(config: RunConfig[Any], games: VectorGames) -> Setting:
    """Return what an agent is built for, from a prepared config and its games."""
    return Setting(
        env=config.env,
        num_envs=games.num_envs,
        frame_shape=games.frame_shape,
        frame_dtype=np.dtype(games.frame_dtype),
        stack=games.stack,
        observation_shape=games.observation_shape,
        action_space=games.action_space,
        total_timesteps=config.total_timesteps,
        seed=config.seed,
        device=device_of(config.device),
        precision=config.precision,
    )


def build_agent(config: RunConfig[Any], games: VectorGames) -> Agent:
    """Return a fresh agent of the run's algorithm, after its spaces were checked."""
    module = algorithms.find(config.algorithm)
    setting = setting_of(config, games)
    module.check_spaces(setting)
    agent: Agent = module.Agent(config.hyper, setting)
    return agent


def restore(agent: Agent, state: State) -> None:
    """Give an agent its part of a checkpoint's state.

    Raises:
        UserError: the state lacks something that this version's agent has.
    """
    try:
        agent.load(state["agent"])
    except KeyError as problem:
        raise UserError(
            f"the checkpoint of agent step {state['step']} has no {problem}: "
            "another version of q2pi wrote it, and only that one can read it"
        ) from problem
