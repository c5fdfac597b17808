"""From a run's configuration and its environments to an agent, and from a checkpoint's state back to it."""

from typing import Any

from q2pi.acceleration.device import device_of
from q2pi.algorithms import registry
from q2pi.algorithms.base import Agent, AgentSpec
from q2pi.config import ResolvedConfig
from q2pi.envs.vector import VectorEnv
from q2pi.errors import UserError
from q2pi.types import State


def agent_spec(config: ResolvedConfig[Any], envs: VectorEnv) -> AgentSpec:
    """Return what an agent needs to know of its environments and its run."""
    return AgentSpec(
        env=config.env,
        num_envs=envs.num_envs,
        frame_space=envs.frame_space,
        stack=envs.stack,
        action_space=envs.action_space,
        total_timesteps=config.total_timesteps,
        seed=config.seed,
        device=device_of(config.device),
        precision=config.precision,
        parts=envs.parts,
        observation_space=envs.observation_space,
    )


def build_agent(config: ResolvedConfig[Any], envs: VectorEnv) -> Agent:
    """Return a new agent of the run's algorithm.

    Raises:
        UserError: the algorithm cannot serve the environment's spaces.
    """
    spec = agent_spec(config, envs)
    config.hyper.check_spaces(spec)
    agent: Agent = registry.find(config.algorithm).Agent(config.hyper, spec)
    return agent


def start_from(agent: Agent, weights: State, source: str) -> None:
    """Give a new agent the weights and the statistics of normalisation of another run.

    Args:
        agent: a new agent.
        weights: part "agent" of a checkpoint's state of a run of the same algorithm.
        source: folder of that run, for messages.

    Raises:
        UserError: the networks of the two runs differ.
    """
    for name, network in agent.networks().items():
        own, other = network.state_dict(), weights.get(name, {})
        for layer in dict.fromkeys([*own, *other]):
            shapes = [tuple(tensors[layer].shape) if layer in tensors else "no such layer" for tensors in (other, own)]
            if shapes[0] != shapes[1]:
                raise UserError(
                    f"--from {source}: in its network {name!r}, {layer} has shape {shapes[0]}; this run's has "
                    f"{shapes[1]}: spaces and options of the network must be the same"
                )
    try:
        agent.load_weights(weights)
    except UserError as problem:
        raise UserError(f"--from {source}: {problem}") from problem


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
            "another version of q2pi wrote it, and only that version can read it"
        ) from problem
