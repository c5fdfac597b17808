"""A small agent of DQN."""

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete

from q2pi.algorithms import dqn
from q2pi.algorithms.base import AgentSpec
from q2pi.envs.spec import EnvSpec


def agent_of(
    num_envs: int = 1, env: EnvSpec | None = None, total_timesteps: int = 100, first_action: int = 0, **hyper: Any
) -> dqn.Agent:
    """Return an agent for observations of two numbers and two actions."""
    spec = AgentSpec(
        env=env or EnvSpec("Two-v0", clip_rewards=False, life_loss_discount=False),
        num_envs=num_envs,
        frame_shape=(2,),
        frame_dtype=np.dtype(np.float32),
        stack=1,
        observation_shape=(2,),
        action_space=Discrete(2, start=first_action),
        total_timesteps=total_timesteps,
        seed=1,
        device=torch.device("cpu"),
        precision="fp32",
    )
    options = {"hidden": (3,), "buffer_size": 64, "batch_size": 4, "learning_starts": 0} | hyper
    return dqn.Agent(dqn.Config(**options), spec)
