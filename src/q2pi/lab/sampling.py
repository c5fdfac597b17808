"""Sampled episodes of finite Markov decision processes: many at a time, as time-major arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from q2pi.equations.exact import MDP, Array

Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Episodes:
    """M episodes as columns; episodes shorter than T are padded at their end with state 0, action 0 and reward 0."""

    state: Index
    """[T, M]"""
    action: Index
    """[T, M]"""
    reward: Array
    """[T, M]"""
    valid: Mask
    """[T, M]: the episode has a step t."""
    ended: Mask
    """[T, M]: step t is the episode's last."""

    def returns(self, gamma: float) -> Array:
        """Return G_t [T, M], the discounted return from step t on."""
        result, following = np.zeros_like(self.reward), np.zeros(self.reward.shape[1])
        for t in reversed(range(len(self.reward))):
            following = self.reward[t] + gamma * following
            result[t] = following
        return result


def random_mdp(states: int, actions: int, branches: int, gamma: float, noise: np.random.Generator) -> MDP:
    """Return a random MDP with rewards at every step ("Garnet", Archibald, McKinnon and Thomas 1995).

    Each state and action leads to `branches` random states with random probabilities, and terminates with probability
    0.1; rewards are standard normal; the start is state 0.
    """
    transition = np.zeros((states, actions, states))
    for state in range(states):
        for action in range(actions):
            reached = noise.choice(states, branches, replace=False)
            transition[state, action, reached] = 0.9 * noise.dirichlet(np.ones(branches))
    return MDP(transition, noise.normal(size=(states, actions)), gamma, np.eye(states)[0])


def sample(mdp: MDP, pi: Array, count: int, noise: np.random.Generator, limit: int = 1_000) -> Episodes:
    """Return `count` episodes.

    Args:
        mdp: the environment; its rewards are the expected ones.
        pi: [S, A] the policy, or [count, S, A] the policy of each episode.
        count: M.
        noise: source of randomness.
        limit: steps after which an episode is cut off; choose it so that this is next to impossible.
    """
    pi = np.broadcast_to(pi, (count, *pi.shape[-2:]))
    policy_cdf, next_cdf = pi.cumsum(axis=-1), mdp.transition.cumsum(axis=-1)
    rows, columns = np.arange(count), np.arange(count)
    state = _drawn(np.broadcast_to(mdp.start.cumsum(), (count, mdp.states)), noise.random(count))
    steps: list[tuple[Index, Index, Array, Mask, Mask]] = []
    alive = np.ones(count, np.bool_)
    while alive.any() and len(steps) < limit:
        action = _drawn(policy_cdf[rows, state], noise.random(count))
        following = next_cdf[state, action]
        draw = noise.random(count)
        terminated = draw >= following[columns, -1]
        next_state = _drawn(following, draw)
        reward = np.where(alive, mdp.reward[state, action], 0.0)
        steps.append((np.where(alive, state, 0), np.where(alive, action, 0), reward, alive, alive & terminated))
        alive = alive & ~terminated
        state = np.where(alive, next_state, 0)
    return Episodes(*(np.stack(column) for column in zip(*steps, strict=True)))


def _drawn(cdf: Array, draw: Array) -> Index:
    """Return the index [M] at which each row of cumulated probabilities [M, K] exceeds draw [M]."""
    index: Index = np.minimum((draw[:, None] >= cdf).sum(axis=1), cdf.shape[1] - 1).astype(np.int64)
    return index


def score_functions(policy: Array, observation: Index, action: Index) -> Array:
    """Return d log policy[o, a] / d theta[o, :] [..., A] of a softmax policy [O, A]: one-hot(a) - policy[o]."""
    scores: Array = np.eye(policy.shape[1])[action] - policy[observation]
    return scores


def episode_gradients(policy: Array, observation: Index, action: Index, weight: Array, valid: Mask) -> Array:
    """Return, for each episode, sum over t of weight_t * d log policy[o_t, a_t] / d theta, [M, O, A].

    Args:
        policy: [O, A] softmax policy.
        observation, action: int [T, M].
        weight: [T, M].
        valid: bool [T, M].
    """
    gradients = np.zeros((observation.shape[1], *policy.shape))
    columns = np.arange(observation.shape[1])
    for t in range(len(observation)):
        kept = np.where(valid[t], weight[t], 0.0)[:, None]
        gradients[columns, observation[t]] += kept * score_functions(policy, observation[t], action[t])
    return gradients
