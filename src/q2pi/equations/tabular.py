"""Targets of tabular Q-learning, for one entry Q(s, a) of a table. Everything is float64."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Target = Literal["q_learning", "sarsa", "expected_sarsa", "double_q"]


def epsilon_greedy(q: ArrayLike, epsilon: float) -> Array:
    """Return the probabilities [..., A] of the epsilon-greedy policy for values `q` [..., A].

    Equation: epsilon / A for every action, and 1 - epsilon shared by the greedy ones.
    """
    q = np.asarray(q, dtype=np.float64)
    best = q == q.max(-1, keepdims=True)
    policy: Array = epsilon / q.shape[-1] + (1 - epsilon) * best / best.sum(-1, keepdims=True)
    return policy


def tabular_target(
    target: Target,
    reward: float,
    discount: float,
    q_next: Array,
    *,
    q_selector: Array | None = None,
    next_action: int | None = None,
    epsilon: float = 0.0,
) -> float:
    """Return r + discount * sum_a w(a) Q(s', a): the four methods differ in the weights w alone.

        q_learning      1 at argmax_a Q(s', a)                        (Watkins 1989)
        double_q        1 at argmax_a Q'(s', a), Q' the other table   (van Hasselt 2010)
        sarsa           1 at the action taken next                    (Rummery and Niranjan 1994)
        expected_sarsa  the epsilon-greedy policy's probabilities     (van Seijen et al. 2009)

    Args:
        target: the method.
        reward: r.
        discount: gamma, or 0 if terminated.
        q_next: [A] values at s' that the target bootstraps from.
        q_selector: [A] for double_q, values at s' of the table that is updated, which select the action.
        next_action: for sarsa, the action taken at s'; None if the episode was truncated at s': then the target is
            the expectation over the epsilon-greedy policy.
        epsilon: exploration rate of the policy at s', for expected_sarsa and for sarsa without a next action.

    Raises:
        ValueError: double_q without q_selector, or another method with it.
    """
    if (q_selector is not None) != (target == "double_q"):
        raise ValueError(f"q_selector is for double_q only, and double_q needs it: target is {target}")
    if target == "sarsa" and next_action is not None:
        value = q_next[next_action]
    elif target in ("sarsa", "expected_sarsa"):
        value = epsilon_greedy(q_next, epsilon) @ q_next
    else:
        value = q_next[(q_next if q_selector is None else q_selector).argmax()]
    return float(reward + discount * value)
