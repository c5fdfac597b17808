"""Small environments for experiments, registered with Gymnasium when this module is imported.

    q2pi/LabTable-v0          a finite MDP with its state as a number (for tables)
    q2pi/LabVector-v0         the same with its state as a one-hot vector (for networks)
    q2pi/CartPoleBlind-v0     CartPole without the two velocities
    q2pi/PendulumBins-v0      Pendulum with the torque as one of `bins` equally spaced values
    q2pi/HalfCheetahBins-v0   HalfCheetah (MuJoCo) with `bins` values of each of six torques: bins^6 actions

`--env-options mdp=tempting_chain size=8` selects a finite MDP of MDPS and its size.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from q2pi.equations.exact import MDP
from q2pi.types import Array


def tempting_chain(size: int, temptation: float = 0.2, gamma: float = 0.95) -> MDP:
    """Return a corridor that starts at its left end: left there terminates with a small reward, `temptation`; right at
    the other end terminates with reward 1. Action 0 goes left, action 1 goes right."""
    transition, reward = np.zeros((size, 2, size)), np.zeros((size, 2))
    for state in range(size):
        if state > 0:
            transition[state, 0, state - 1] = 1
        if state < size - 1:
            transition[state, 1, state + 1] = 1
    reward[0, 0], reward[-1, 1] = temptation, 1.0
    return MDP(transition, reward, gamma, np.eye(size)[0])


def maximisation_bias(size: int, gamma: float = 1.0) -> MDP:
    """Return the MDP of Sutton and Barto 2018, example 6.7, with `size` actions.

    In state 0 action 0 terminates with reward 0, every other action leads to state 1. There every action terminates
    with mean reward -0.1 (the environment adds standard normal noise). So Q*(0, 0) = 0 and Q*(0, a) = -0.1 for a > 0.
    """
    transition, reward = np.zeros((2, size, 2)), np.zeros((2, size))
    transition[0, 1:, 1] = 1
    reward[1] = -0.1
    return MDP(transition, reward, gamma, np.array([1.0, 0.0]))


def slippery_walk(size: int, gamma: float = 0.9) -> MDP:
    """Return a corridor whose ends terminate, left with reward 0.5 and right with reward 1; a move goes the other way
    with probability 0.3. It starts in the middle."""
    transition, reward = np.zeros((size, 2, size)), np.zeros((size, 2))
    for state in range(size):
        for action, right in ((0, 0.3), (1, 0.7)):
            if state > 0:
                transition[state, action, state - 1] = 1 - right
            if state < size - 1:
                transition[state, action, state + 1] = right
    reward[0, :], reward[-1, :] = 0.5 * np.array([0.7, 0.3]), np.array([0.3, 0.7])
    return MDP(transition, reward, gamma, np.eye(size)[size // 2])


MDPS: dict[str, Callable[[int], MDP]] = {
    "tempting_chain": tempting_chain,
    "maximisation_bias": maximisation_bias,
    "slippery_walk": slippery_walk,
}


class FiniteMDP(gymnasium.Env[Any, Any]):
    """A finite MDP as an environment.

    Args:
        mdp: name in MDPS.
        size: its argument.
        one_hot: observation as a one-hot vector, float32 [S]; else the state's number.
        noise: standard deviation of normal noise on rewards that are not 0.
    """

    def __init__(self, mdp: str, size: int, one_hot: bool = False, noise: float = 0.0) -> None:
        self.mdp, self.one_hot, self.noise = MDPS[mdp](size), one_hot, noise
        states = self.mdp.states
        self.observation_space: Any = spaces.Box(0, 1, (states,), np.float32) if one_hot else spaces.Discrete(states)
        self.action_space = spaces.Discrete(self.mdp.actions)
        self.state = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = int(self.np_random.choice(self.mdp.states, p=self.mdp.start))
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(self.mdp.reward[self.state, action])
        if self.noise and reward:
            reward += self.noise * float(self.np_random.normal())
        following = self.mdp.transition[self.state, action].cumsum()
        draw = self.np_random.random()
        terminated = bool(draw >= following[-1])
        if not terminated:
            self.state = int((draw >= following).sum())
        return self._observe(), reward, terminated, False, {}

    def _observe(self) -> Any:
        return np.eye(self.mdp.states, dtype=np.float32)[self.state] if self.one_hot else np.int64(self.state)


class Blind(gymnasium.ObservationWrapper[Any, Any, Any]):
    """CartPole's position and angle without their velocities, float32 [2]."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def observation(self, observation: Any) -> Array:
        kept: Array = np.asarray(observation, np.float32)[[0, 2]]
        return kept


def blind_cartpole(**options: Any) -> Any:
    return Blind(gymnasium.make("CartPole-v1", **options))


class Bins(gymnasium.ActionWrapper[Any, Any, Any]):
    """A Box action [d] as one of bins^d: in each dimension `bins` equally spaced values, both bounds included.

    The last dimension changes fastest.
    """

    def __init__(self, env: Any, bins: int) -> None:
        super().__init__(env)
        low, high = env.action_space.low, env.action_space.high
        self.values = np.linspace(low, high, bins, dtype=np.float32)
        """[bins, d]"""
        self.shape = (bins,) * len(low)
        self.action_space = spaces.Discrete(bins ** len(low))

    def action(self, action: Any) -> Array:
        chosen = np.unravel_index(int(action), self.shape)
        value: Array = self.values[chosen, range(len(self.shape))]
        return value


def pendulum_bins(bins: int, **options: Any) -> Any:
    return Bins(gymnasium.make("Pendulum-v1", **options), bins)


def half_cheetah_bins(bins: int, **options: Any) -> Any:
    return Bins(gymnasium.make("HalfCheetah-v5", **options), bins)


_THIS = "q2pi.lab.environments"
for _name, _entry, _limit, _options in (
    ("q2pi/LabTable-v0", "FiniteMDP", 500, {}),
    ("q2pi/LabVector-v0", "FiniteMDP", 500, {"one_hot": True}),
    ("q2pi/CartPoleBlind-v0", "blind_cartpole", 500, {}),
    ("q2pi/PendulumBins-v0", "pendulum_bins", 200, {}),
    ("q2pi/HalfCheetahBins-v0", "half_cheetah_bins", 1000, {}),
):
    if _name not in gymnasium.registry:
        gymnasium.register(_name, entry_point=f"{_THIS}:{_entry}", max_episode_steps=_limit, kwargs=_options)
