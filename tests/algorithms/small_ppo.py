"""A small agent of PPO, and random steps of its environments."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from q2pi.algorithms import ppo
from q2pi.algorithms.base import AgentSpec
from q2pi.envs.spec import EnvSpec
from q2pi.envs.vector import Step

ENVS = 2
BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))
DISCRETE = spaces.Discrete(3)


def make_agent(space: Any = DISCRETE, shape: tuple[int, ...] = (3,), **changes: Any) -> ppo.Agent:
    """Return an agent for 2 environments with rollouts of 8 steps."""
    options = {"num_steps": 8, "num_minibatches": 2, "hidden": (16,)} | changes
    images = len(shape) == 3
    spec = AgentSpec(
        env=EnvSpec("CartPole-v1", stack=1, life_loss_discount=False, clip_rewards=False),
        num_envs=ENVS,
        frame_space=spaces.Box(0, 255, shape, np.uint8) if images else spaces.Box(-np.inf, np.inf, shape, np.float32),
        stack=1,
        action_space=space,
        total_timesteps=160,
        seed=1,
        device=torch.device("cpu"),
        precision="fp32",
    )
    return ppo.Agent(ppo.Config(**options), spec)


def observations(shape: tuple[int, ...], time: int) -> np.ndarray:
    """Return random observations [ENVS, *shape] of a time step."""
    generator = np.random.default_rng(time)
    if len(shape) == 3:
        return generator.integers(0, 256, (ENVS, *shape), dtype=np.uint8)
    return generator.normal(1.0, 2.0, (ENVS, *shape)).astype(np.float32)


def step(
    time: int, shape: tuple[int, ...], truncated: bool = False, reward: float = 1.0, clip_rewards: bool = False
) -> Step:
    """Return the step from time `time` to the next one."""
    false = np.zeros(ENVS, np.bool_)
    following = observations(shape, time + 1)
    return Step(
        next_observation=-following if truncated else following,
        observation=following,
        reward=np.full(ENVS, reward, np.float32),
        terminated=false,
        truncated=np.full(ENVS, truncated),
        life_lost=false,
        episodes=(),
        clip_rewards=clip_rewards,
    )


def fill(agent: ppo.Agent, start: int = 0, after_step: Callable[[int], None] = lambda time: None) -> list[np.ndarray]:
    """Collect a rollout of random observations; return the actions sent. `after_step` is called after each step."""
    shape, sent = agent.spec.observation_shape, []
    for time in range(start, start + agent.rollout.steps):
        sent.append(agent.act(observations(shape, time), time * ENVS))
        agent.observe(sent[-1], step(time, shape, truncated=time % 5 == 4, reward=float(time)))
        after_step(time)
    return sent
