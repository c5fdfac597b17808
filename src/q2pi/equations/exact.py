"""Finite Markov decision processes solved exactly: the oracle for tests and experiments.

Values are linear solves in float64, for up to a few hundred states. Sources: Puterman 1994 (policy
iteration); Sutton et al. 2000 (policy gradient theorem); Singh, Jaakkola and Jordan 1994 (memoryless policies).

Policies are matrices of probabilities: `pi` [S, A] over states, `policy` [O, A] over observations if states are
aliased. A gamma of 1 is allowed if every evaluated policy terminates with probability 1.
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike, NDArray

from q2pi.rng import stream

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MDP:
    """A finite Markov decision process.

    Termination is not a state: a row of `transition` that sums to p terminates with probability 1 - p.
    """

    transition: Array
    """[S, A, S'] probability of the next state; rows sum to at most 1."""
    reward: Array
    """[S, A] expected reward."""
    gamma: float
    """Discount factor in [0, 1]."""
    start: Array
    """[S] probability of the initial state, sums to 1."""

    def __post_init__(self) -> None:
        for name in ("transition", "reward", "start"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        states, actions = self.reward.shape
        if self.transition.shape != (states, actions, states) or self.start.shape != (states,):
            raise ValueError(
                f"shapes do not agree: transition {self.transition.shape}, reward {self.reward.shape}, "
                f"start {self.start.shape}"
            )
        if self.transition.min() < 0 or self.transition.sum(-1).max() > 1 + 1e-9:
            raise ValueError("rows of transition must be probabilities that sum to at most 1")
        if self.start.min() < 0 or abs(self.start.sum() - 1) > 1e-9:
            raise ValueError("start must be probabilities that sum to 1")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma must be in [0, 1], got {self.gamma}")

    @property
    def states(self) -> int:
        return len(self.reward)

    @property
    def actions(self) -> int:
        return len(self.reward[0])


def policy_value(mdp: MDP, pi: ArrayLike) -> tuple[Array, Array]:
    """Return (V [S], Q [S, A]) of policy `pi` [S, A], which solve Bellman's equation.

    Raises:
        ValueError: gamma is 1 and the policy may never terminate.
    """
    pi = np.asarray(pi, dtype=np.float64)
    value = _solve(np.eye(mdp.states) - mdp.gamma * _transition_under(mdp, pi), (pi * mdp.reward).sum(-1))
    return value, action_values(mdp, value)


def action_values(mdp: MDP, value: Array) -> Array:
    """Return Q [S, A]: the reward plus the discounted `value` [S] of the next state."""
    q: Array = mdp.reward + mdp.gamma * mdp.transition @ value
    return q


def optimal_values(mdp: MDP) -> tuple[Array, Array]:
    """Return (V* [S], Q* [S, A]), by policy iteration (Howard 1960).

    The initial policy is uniform: it terminates if any policy does. So a gamma of 1 is allowed if every policy that
    never terminates has a return of minus infinity.
    """
    pi = np.full((mdp.states, mdp.actions), 1 / mdp.actions)
    while True:
        value, q = policy_value(mdp, pi)
        advantage = q.max(-1) - (pi * q).sum(-1)  # of the greedy action
        improvable = advantage > 1e-12 * (1 + np.abs(q).max())  # a tie keeps its action, else the loop may not stop
        if not improvable.any():
            return value, q
        pi = np.where(improvable[:, None], greedy(q), pi)


def greedy(q: Array) -> Array:
    """Return the greedy policy [S, A] of `q` [S, A]; ties to the lowest action."""
    pi: Array = np.eye(q.shape[1])[q.argmax(-1)]
    return pi


def state_distribution(mdp: MDP, pi: ArrayLike) -> Array:
    """Return the discounted state visits d [S] of policy `pi`: d(s) = sum_t gamma^t P(S_t = s).

    Not normalized: without termination it sums to 1 / (1 - gamma).

    Raises:
        ValueError: gamma is 1 and the policy may never terminate.
    """
    transition = _transition_under(mdp, np.asarray(pi, dtype=np.float64))
    return _solve(np.eye(mdp.states) - mdp.gamma * transition.T, mdp.start)


def expected_return(mdp: MDP, pi: ArrayLike) -> float:
    """Return J(pi), the expected discounted return from the start distribution."""
    return float(mdp.start @ policy_value(mdp, pi)[0])


def policy_over_states(policy: ArrayLike, observation: ArrayLike) -> Array:
    """Return pi [S, A] of a memoryless policy [O, A]; the observation of state s is observation[s]."""
    pi: Array = np.asarray(policy, dtype=np.float64)[np.asarray(observation, dtype=np.int64)]
    return pi


def softmax_policy(theta: ArrayLike) -> Array:
    """Return the policy [O, A] with logits `theta` [O, A]."""
    theta = np.asarray(theta, dtype=np.float64)
    weights = np.exp(theta - theta.max(-1, keepdims=True))
    policy: Array = weights / weights.sum(-1, keepdims=True)
    return policy


def policy_gradient(mdp: MDP, policy: ArrayLike, observation: ArrayLike) -> Array:
    """Return dJ / d policy[o, a], [O, A]: the sum over the states with observation o of d(s) Q(s, a)."""
    pi = policy_over_states(policy, observation)
    gradient = np.zeros(np.shape(policy))
    np.add.at(gradient, np.asarray(observation), state_distribution(mdp, pi)[:, None] * policy_value(mdp, pi)[1])
    return gradient


def softmax_gradient(mdp: MDP, theta: ArrayLike, observation: ArrayLike) -> Array:
    """Return dJ / d theta, [O, A], of the softmax policy over observations (policy gradient theorem).

        dJ / d theta[o, a] = policy[o, a] * sum over s with observation o of d(s) (Q(s, a) - sum_b policy[o, b] Q(s, b))

    Args:
        mdp: the environment.
        theta: [O, A] logits.
        observation: int [S], the observation of each state; `np.arange(S)` if no state is aliased.
    """
    policy = softmax_policy(theta)
    slope = policy_gradient(mdp, policy, observation)
    gradient: Array = policy * (slope - (policy * slope).sum(-1, keepdims=True))
    return gradient


def best_memoryless_deterministic(mdp: MDP, observation: ArrayLike) -> tuple[Array, float]:
    """Return (policy [O, A], its J) of the best policy that maps each observation to one action.

    Evaluates all A^O of these policies.

    Raises:
        ValueError: there are more than 100 000 of these policies.
    """
    observations, actions = _count(observation), mdp.actions
    if actions**observations > 100_000:
        raise ValueError(f"{actions}^{observations} deterministic policies are too many to try")
    policies = (np.eye(actions)[list(choice)] for choice in itertools.product(range(actions), repeat=observations))
    best = max(policies, key=lambda policy: expected_return(mdp, policy_over_states(policy, observation)))
    return best, expected_return(mdp, policy_over_states(best, observation))


def best_memoryless_stochastic(
    mdp: MDP, observation: ArrayLike, restarts: int = 10, seed: int = 0
) -> tuple[Array, float]:
    """Return (policy [O, A], its J) of the best policy that maps each observation to probabilities.

    J is not concave in the policy and the problem is NP-hard (Vlassis et al. 2012): sequential quadratic programming
    climbs from the uniform policy and `restarts` random ones, and the highest summit is returned. It is the best one
    for the small MDPs this is meant for, by experience and not by proof.
    """
    shape = (_count(observation), mdp.actions)
    rows = np.kron(np.eye(shape[0]), np.ones(shape[1]))  # one constraint for each observation: probabilities sum to 1

    def loss(flat: Array) -> tuple[float, Array]:
        policy = flat.reshape(shape)
        gradient = policy_gradient(mdp, policy, observation)
        return -expected_return(mdp, policy_over_states(policy, observation)), -gradient.ravel()

    def climb(policy: Array) -> Array:
        result = scipy.optimize.minimize(
            loss,
            policy.ravel(),
            jac=True,
            method="SLSQP",
            bounds=[(0.0, 1.0)] * policy.size,
            constraints={"type": "eq", "fun": lambda flat: rows @ flat - 1, "jac": lambda _: rows},
            options={"ftol": 1e-14, "maxiter": 1000},
        )
        found = np.clip(result.x, 0, 1).reshape(shape)
        normalized: Array = found / found.sum(-1, keepdims=True)
        return normalized

    random = stream(seed, "memoryless").dirichlet(np.ones(shape[1]), size=(restarts, shape[0]))
    summits = [climb(policy) for policy in (np.full(shape, 1 / shape[1]), *random)]
    values = [expected_return(mdp, policy_over_states(policy, observation)) for policy in summits]
    best = int(np.argmax(values))
    return summits[best], values[best]


def epsilon_greedy_at(mdp: MDP, observation: ArrayLike, epsilon: float) -> tuple[Array, float]:
    """Return (greedy policy [O, A], J) of the best epsilon-greedy policy over observations with rate `epsilon`.

    It is the best deterministic policy of an MDP that replaces every action with probability epsilon by a uniform one.
    """
    noisy = replace(
        mdp,
        transition=(1 - epsilon) * mdp.transition + epsilon * mdp.transition.mean(axis=1, keepdims=True),
        reward=(1 - epsilon) * mdp.reward + epsilon * mdp.reward.mean(axis=1, keepdims=True),
    )
    return best_memoryless_deterministic(noisy, observation)


def best_epsilon_greedy(mdp: MDP, observation: ArrayLike) -> tuple[float, Array, float]:
    """Return (epsilon, greedy policy [O, A], J) of the best epsilon-greedy policy over observations, for any epsilon.

    Evaluates a grid of 21 rates, then searches between the neighbours of the best one, to 1e-6.
    """

    def loss(epsilon: float) -> float:
        return -epsilon_greedy_at(mdp, observation, float(epsilon))[1]

    grid = np.linspace(0, 1, 21)
    best = float(min(grid, key=loss))
    bounds = (max(0.0, best - 0.05), min(1.0, best + 0.05))
    options = {"xatol": 1e-6}
    refined = float(scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options=options).x)
    epsilon = min((best, refined), key=loss)
    return (epsilon, *epsilon_greedy_at(mdp, observation, epsilon))


def expected_steps(mdp: MDP, pi: ArrayLike) -> float:
    """Return the expected episode length of policy `pi` [S, A], in steps, without a time limit.

    Raises:
        ValueError: the policy may never terminate.
    """
    return float(state_distribution(replace(mdp, gamma=1.0), pi).sum())


def expected_score(mdp: MDP, pi: Array, time_limit: int) -> float:
    """Return the expected undiscounted return of policy `pi` [S, A] within `time_limit` steps."""
    reward, transition = (pi * mdp.reward).sum(-1), _transition_under(mdp, pi)
    score, alive = 0.0, mdp.start
    for _ in range(time_limit):
        score += float(alive @ reward)
        alive = alive @ transition
    return score


def chain(n: int, gamma: float = 0.9) -> MDP:
    """Return a corridor of n states: action 0 goes left (and stays at the left end), action 1 goes right.

    Action 1 in the last state terminates with reward 1; all other rewards are 0. V*(s) = gamma^(n - 1 - s).
    """
    transition, reward = np.zeros((n, 2, n)), np.zeros((n, 2))
    for state in range(n):
        transition[state, 0, max(state - 1, 0)] = 1
        if state < n - 1:
            transition[state, 1, state + 1] = 1
    reward[n - 1, 1] = 1
    return MDP(transition, reward, gamma, np.eye(n)[0])


def short_corridor(gamma: float = 1.0) -> tuple[MDP, Index]:
    """Return (MDP, observation [3]): three aliased states (Sutton and Barto 2018, example 13.1).

    Actions are left and right, reversed in the middle state; right in the last state terminates. Every step has reward
    -1. With gamma 1: V* = (-3, -2, -1); the best memoryless policy goes right with probability 2 - sqrt(2) and has
    J = -(6 + 4 sqrt(2)), about -11.66; a deterministic memoryless policy never terminates.
    """
    transition = np.zeros((3, 2, 3))
    transition[0, 0, 0] = transition[0, 1, 1] = 1
    transition[1, 0, 2] = transition[1, 1, 0] = 1
    transition[2, 0, 1] = 1
    return MDP(transition, np.full((3, 2), -1.0), gamma, np.eye(3)[0]), np.zeros(3, dtype=np.int64)


def aliased_pair(gamma: float = 0.9) -> tuple[MDP, Index]:
    """Return (MDP, observation [2]): two aliased states with opposite optimal actions (Singh et al. 1994).

    Action 0 leaves state 0 and action 1 leaves state 1, each with reward 1; the other action stays and has reward -1.
    Without aliasing V* = 1 / (1 - gamma). The best memoryless policy is uniform and has J = 0; a deterministic
    memoryless policy has J = -gamma / (1 - gamma), since the initial state is uniform.
    """
    transition, reward = np.zeros((2, 2, 2)), np.full((2, 2), -1.0)
    for state in range(2):
        transition[state, state, 1 - state] = 1
        transition[state, 1 - state, state] = 1
        reward[state, state] = 1
    return MDP(transition, reward, gamma, np.full(2, 0.5)), np.zeros(2, dtype=np.int64)


def _transition_under(mdp: MDP, pi: Array) -> Array:
    """Return the transition matrix [S, S'] under policy `pi`."""
    transition: Array = np.einsum("sa,sat->st", pi, mdp.transition)
    return transition


def _count(observation: ArrayLike) -> int:
    return int(np.max(observation)) + 1


def _solve(matrix: Array, right: Array) -> Array:
    try:
        solution: Array = np.linalg.solve(matrix, right).astype(np.float64)
    except np.linalg.LinAlgError as error:
        raise ValueError("gamma is 1 and this policy may never terminate: its return is not finite") from error
    return solution
