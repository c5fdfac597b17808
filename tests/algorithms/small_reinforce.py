"""MDPs that are solved exactly, environments of them, and a linear agent of REINFORCE."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from q2pi.algorithms import reinforce
from q2pi.algorithms.base import AgentSpec
from q2pi.envs.spec import EnvSpec
from q2pi.envs.vector import Step
from q2pi.equations.exact import MDP, chain

EPISODES = 4


def spec(states: int, actions: int, num_envs: int = 1) -> AgentSpec:
    return AgentSpec(
        env=EnvSpec("CartPole-v1", stack=1, life_loss_discount=False, clip_rewards=False),
        num_envs=num_envs,
        frame_space=spaces.Box(0, 1, (states,), np.float32),
        stack=1,
        action_space=spaces.Discrete(actions),
        total_timesteps=1_000,
        seed=1,
        device=torch.device("cpu"),
        precision="fp32",
    )


def random_mdp() -> MDP:
    """Return three states and three actions; every step terminates with a probability of about 0.3."""
    generator = np.random.default_rng(11)
    transition = generator.dirichlet(np.ones(4), size=(3, 3))[..., :3] * 0.9
    return MDP(transition, generator.normal(size=(3, 3)), 0.8, np.array([0.5, 0.3, 0.2]))


MDPS: dict[str, tuple[MDP, np.ndarray]] = {
    "random": (random_mdp(), np.random.default_rng(12).normal(size=(3, 3))),
    "chain": (chain(3, gamma=0.7), np.array([[0.0, 0.5], [0.2, 0.0], [0.0, 0.3]])),
}


class MDPEnvs:
    """N environments of one finite MDP: the observation is the state, one-hot."""

    def __init__(self, mdp: MDP, num_envs: int, seed: int) -> None:
        self.mdp, self.generator = mdp, np.random.default_rng(seed)
        self.state = np.array([self._first() for _ in range(num_envs)])

    @property
    def observation(self) -> np.ndarray:
        return np.eye(self.mdp.states, dtype=np.float32)[self.state]

    def step(self, action: np.ndarray) -> Step:
        reward = self.mdp.reward[self.state, action].astype(np.float32)
        cumulative = self.mdp.transition[self.state, action].cumsum(-1)
        arrival = (self.generator.random((len(action), 1)) > cumulative).sum(-1)
        terminated = arrival == self.mdp.states
        self.state = np.where(terminated, 0, arrival)
        following = self.observation
        for env in np.flatnonzero(terminated):
            self.state[env] = self._first()
        false = np.zeros(len(action), np.bool_)
        return Step(following, self.observation, reward, terminated, false, false, ())

    def _first(self) -> int:
        return int(self.generator.choice(self.mdp.states, p=self.mdp.start))


def linear_agent(name: str, num_envs: int = 2, **changes: Any) -> reinforce.Agent:
    """Return an agent whose logits are the MDP's theta and whose learning rates are 0."""
    mdp, theta = MDPS[name]
    options = {
        "hidden": (),
        "learning_rate": 0.0,
        "value_learning_rate": 0.0,
        "value_updates": 1,
        "episodes_per_update": EPISODES,
        "gamma": mdp.gamma,
        "discount_states": True,
    }
    agent = reinforce.Agent(reinforce.Config(**(options | changes)), spec(mdp.states, mdp.actions, num_envs))
    with torch.no_grad():
        agent.head.logits.weight.copy_(torch.from_numpy(theta.T))
    return agent
