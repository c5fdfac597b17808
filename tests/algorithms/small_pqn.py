"""A small agent of PQN, and one whose Q-values are what it sees."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from q2pi.algorithms import pqn
from q2pi.algorithms.base import AgentSpec
from q2pi.envs.spec import EnvSpec
from q2pi.envs.vector import Step


def agent_of(
    num_envs: int = 1,
    shape: tuple[int, ...] = (2,),
    space: Any = None,
    env: EnvSpec | None = None,
    precision: str = "fp32",
    **hyper: Any,
) -> pqn.Agent:
    """Return an agent with a budget of 100 agent steps and one minibatch per rollout."""
    spec = AgentSpec(
        env=env or EnvSpec("Two-v0", clip_rewards=False, life_loss_discount=False),
        num_envs=num_envs,
        frame_shape=shape,
        frame_dtype=np.dtype(np.uint8 if len(shape) == 3 else np.float32),
        stack=1,
        observation_shape=shape,
        action_space=space or spaces.Discrete(2),
        total_timesteps=100,
        seed=1,
        device=torch.device("cpu"),
        precision=precision,
    )
    options = {"num_minibatches": 1, "hidden": (8,), "gamma": 0.5, "q_lambda": 0.5}
    return pqn.Agent(pqn.Config(**(options | hyper)), spec)


class Seen(nn.Module):
    """Q(s) is s itself; `rows` counts the observations asked about."""

    rows = 0

    def forward(self, observation: Tensor) -> Tensor:
        self.rows += len(observation)
        return observation


def scripted(**options: Any) -> pqn.Agent:
    """Return an agent whose Q-values are the numbers of its observations."""
    agent = agent_of(**options)
    agent.online = Seen()  # type: ignore[assignment]
    return agent


FIRST = 99.0
"""max_a Q of the first observation of every episode but the first: nobody may bootstrap from it."""


def seen(*best: float) -> np.ndarray:
    """Return observations [N, 2] with max_a Q = best; the other action's value is lower by 50."""
    return np.array([[value - 50, value] for value in best], np.float32)


def observe(agent: pqn.Agent, reward: list[float], following: list[float], ending: list[str] | None = None) -> None:
    """Take in one step of every game after `act`; `following` is max_a Q of the true next observation."""
    ends = ending or [""] * len(reward)
    flags = [np.array([name == kind for name in ends]) for kind in ("terminated", "truncated", "life_lost")]
    first = [FIRST if name in ("terminated", "truncated") else best for name, best in zip(ends, following, strict=True)]
    result = Step(seen(*following), seen(*first), np.array(reward, np.float32), *flags, ())
    agent.observe(np.zeros(len(reward)), result)


def play(agent: pqn.Agent, values: list[float], rewards: list[float], endings: dict[int, str] | None = None) -> None:
    """Play one game: step t pays rewards[t] and leads from values[t] to values[t + 1]; FIRST follows an ending."""
    endings = endings or {}
    for t, reward in enumerate(rewards):
        fresh = endings.get(t - 1) in ("terminated", "truncated")
        agent.act(seen(FIRST if fresh else values[t]), t)
        observe(agent, [reward], [values[t + 1]], [endings.get(t, "")])
