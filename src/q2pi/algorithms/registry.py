"""From a name to a configuration, and from a prepared one to an agent, fresh or with what a checkpoint holds."""

import importlib
import pkgutil
from types import ModuleType
from typing import Any

import numpy as np

from q2pi import algorithms
from q2pi.acceleration.device import device_of
from q2pi.algorithms.base import Agent, AgentSpec
from q2pi.config import RunConfig
from q2pi.envs.vector import VectorEnv
from q2pi.errors import UserError, suggest
from q2pi.types import State


def default_config(algorithm: str) -> RunConfig[Any]:
    """Return the configuration of `algorithm` with every default."""
    module = find(algorithm)
    return RunConfig(algorithm=algorithm, hyper=module.Config())


def agent_spec(config: RunConfig[Any], envs: VectorEnv) -> AgentSpec:
    """Return what an agent is built for, from a prepared config and its games."""
    return AgentSpec(
        env=config.env,
        num_envs=envs.num_envs,
        frame_shape=envs.frame_shape,
        frame_dtype=np.dtype(envs.frame_dtype),
        stack=envs.stack,
        observation_shape=envs.observation_shape,
        action_space=envs.action_space,
        total_timesteps=config.total_timesteps,
        seed=config.seed,
        device=device_of(config.device),
        precision=config.precision,
    )


def build_agent(config: RunConfig[Any], envs: VectorEnv) -> Agent:
    """Return a fresh agent of the run's algorithm, after its spaces were checked."""
    module = find(config.algorithm)
    spec = agent_spec(config, envs)
    module.check_spaces(spec)
    agent: Agent = module.Agent(config.hyper, spec)
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


def names() -> list[str]:
    """Return the algorithms' names: the files of the package but the contract and this one."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(algorithms.__path__)
        if module.name not in ("base", "common", "registry")
    )


def find(name: str) -> ModuleType:
    """Return the module of the algorithm `name`, which holds its `Config`, `check` and `Agent`."""
    if name not in names():
        raise UserError(f"unknown algorithm {name!r}: it must be one of {', '.join(names())}{suggest(name, names())}")
    return importlib.import_module(f"{algorithms.__name__}.{name}")
