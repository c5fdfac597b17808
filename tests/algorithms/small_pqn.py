"""Small agents of PQN, and one whose Q-values are its observations."""

from types import ModuleType
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from q2pi.algorithms import pqn
from q2pi.algorithms.base import AgentSpec
from q2pi.envs.spec import EnvSpec
from q2pi.envs.vector import Step
from q2pi.rng import stream

TWO_ACTIONS = EnvSpec("Two-v0", clip_rewards=False, life_loss_discount=False)


def make_agent(
    num_envs: int = 1,
    shape: tuple[int, ...] = (2,),
    space: Any = None,
    precision: str = "fp32",
    module: ModuleType = pqn,
    env: EnvSpec = TWO_ACTIONS,
    **hyper: Any,
) -> Any:
    """Return an agent of `module` with a budget of 100 agent steps and one minibatch per rollout."""
    images = len(shape) == 3
    spec = AgentSpec(
        env=env,
        num_envs=num_envs,
        frame_space=spaces.Box(0, 255, shape, np.uint8) if images else spaces.Box(-np.inf, np.inf, shape, np.float32),
        stack=1,
        action_space=space or spaces.Discrete(2),
        total_timesteps=100,
        seed=1,
        device=torch.device("cpu"),
        precision=precision,
    )
    options = {"num_minibatches": 1, "hidden": (8,), "gamma": 0.5, "q_lambda": 0.5}
    return module.Agent(module.Config(**(options | hyper)), spec)


def filled(agent: Any, rollout: int = 0) -> Any:
    """Return the agent after a rollout of random observations; `rollout` selects them."""
    draw = stream(rollout, "observations")
    envs, shape = agent.spec.num_envs, agent.spec.observation_shape
    false = np.zeros(envs, np.bool_)
    for t in range(agent.rollout.steps):
        if len(shape) == 3:
            observation = draw.integers(0, 256, (envs, *shape), dtype=np.uint8)
        else:
            observation = draw.normal(size=(envs, *shape)).astype(np.float32)
        agent.act(observation, t)
        reward = draw.normal(size=envs).astype(np.float32)
        agent.observe(np.zeros(envs), Step(observation, observation, reward, false, false, false, ()))
    return agent


def numbered(agent: Any, first: int = 0) -> None:
    """Replace the first number of each observation in the full rollout by its row: `first`, `first` + 1, ..."""
    rows = np.arange(first, first + agent.rollout.rows)
    agent.rollout.observation[..., 0] = rows.reshape(agent.rollout.steps, -1)


class Identity(nn.Module):
    """Q(s) is s itself; `rows` counts the observations in all forward passes."""

    rows = 0

    def forward(self, observation: Tensor) -> Tensor:
        self.rows += len(observation)
        return observation

    def q_values(self, observation: Tensor) -> Tensor:
        return self.forward(observation)


def scripted(**options: Any) -> pqn.Agent:
    """Return an agent whose Q-values are the numbers of its observations."""
    agent: pqn.Agent = make_agent(**options)
    agent.online = Identity()  # type: ignore[assignment]
    return agent


FIRST = 99.0
"""max_a Q of the first observation of every episode but the first: no target may bootstrap from it."""


def states(*best: float) -> np.ndarray:
    """Return observations [N, 2] with max_a Q = best; the other action's value is lower by 50."""
    return np.array([[value - 50, value] for value in best], np.float32)


def observe(
    agent: pqn.Agent, reward: list[float], following: list[float], ending: list[str] | None = None, **rules: bool
) -> None:
    """Store one step of each environment after `act`; `following` is max_a Q of the true next observation."""
    ends = ending or [""] * len(reward)
    flags = [np.array([name == kind for name in ends]) for kind in ("terminated", "truncated", "life_lost")]
    first = [FIRST if name in ("terminated", "truncated") else best for name, best in zip(ends, following, strict=True)]
    step = Step(states(*following), states(*first), np.array(reward, np.float32), *flags, (), **rules)
    agent.observe(np.zeros(len(reward)), step)


def step_through(
    agent: pqn.Agent, values: list[float], rewards: list[float], endings: dict[int, str] | None = None, **rules: bool
) -> None:
    """Step one environment: step t pays rewards[t] and leads from values[t] to values[t + 1]; FIRST follows an end."""
    endings = endings or {}
    for t, reward in enumerate(rewards):
        is_first = endings.get(t - 1) in ("terminated", "truncated")
        agent.act(states(FIRST if is_first else values[t]), t)
        observe(agent, [reward], [values[t + 1]], [endings.get(t, "")], **rules)
