"""A small agent of PPO, and random steps for it to play."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from q2pi.algorithms import ppo
from q2pi.algorithms.base import AgentSpec
from q2pi.envs.spec import EnvSpec
from q2pi.envs.vector import Step

GAMES = 2
BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))
DISCRETE = spaces.Discrete(3)


def make_agent(space: Any = DISCRETE, shape: tuple[int, ...] = (3,), **changes: Any) -> ppo.Agent:
    """Return an agent for 2 games with rollouts of 8 steps."""
    options = {"num_steps": 8, "num_minibatches": 2, "hidden": (16,)} | changes
    dtype = np.dtype(np.uint8 if len(shape) == 3 else np.float32)
    spec = AgentSpec(
        env=EnvSpec("CartPole-v1", stack=1, life_loss_discount=False, clip_rewards=False),
        num_envs=GAMES,
        frame_shape=shape,
        frame_dtype=dtype,
        stack=1,
        observation_shape=shape,
        action_space=space,
        total_timesteps=160,
        seed=1,
        device=torch.device("cpu"),
        precision="fp32",
    )
    return ppo.Agent(ppo.Config(**options), spec)


def observations(shape: tuple[int, ...], now: int) -> np.ndarray:
    generator = np.random.default_rng(now)
    if len(shape) == 3:
        return generator.integers(0, 256, (GAMES, *shape), dtype=np.uint8)
    return generator.normal(1.0, 2.0, (GAMES, *shape)).astype(np.float32)


def step(now: int, shape: tuple[int, ...], truncated: bool = False, reward: float = 1.0) -> Step:
    nothing = np.zeros(GAMES, np.bool_)
    following = observations(shape, now + 1)
    return Step(
        next_observation=-following if truncated else following,
        observation=following,
        reward=np.full(GAMES, reward, np.float32),
        terminated=nothing,
        truncated=np.full(GAMES, truncated),
        life_lost=nothing,
        episodes=(),
    )


def fill(agent: ppo.Agent, start: int = 0, moved: Callable[[int], None] = lambda now: None) -> list[np.ndarray]:
    """Play a rollout on random observations; return the actions sent. `moved` is called after each step."""
    shape, sent = agent.spec.observation_shape, []
    for now in range(start, start + agent.rollout.steps):
        sent.append(agent.act(observations(shape, now), now * GAMES))
        agent.observe(sent[-1], step(now, shape, truncated=now % 5 == 4, reward=float(now)))
        moved(now)
    return sent
