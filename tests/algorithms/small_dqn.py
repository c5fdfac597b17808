"""A small agent of DQN."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from q2pi.algorithms import dqn
from q2pi.algorithms.base import AgentSpec
from q2pi.envs.spec import EnvSpec


def make_agent(num_envs: int = 1, total_timesteps: int = 100, first_action: int = 0, **hyper: Any) -> dqn.Agent:
    """Return an agent for observations of two numbers and two actions."""
    spec = AgentSpec(
        env=EnvSpec("Two-v0", clip_rewards=False, life_loss_discount=False),
        num_envs=num_envs,
        frame_space=spaces.Box(-np.inf, np.inf, (2,), np.float32),
        stack=1,
        action_space=spaces.Discrete(2, start=first_action),
        total_timesteps=total_timesteps,
        seed=1,
        device=torch.device("cpu"),
        precision="fp32",
    )
    options = {"hidden": (3,), "buffer_size": 64, "batch_size": 4, "learning_starts": 0} | hyper
    return dqn.Agent(dqn.Config(**options), spec)
