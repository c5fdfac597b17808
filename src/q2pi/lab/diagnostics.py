"""Diagnostics of learning: small functions of arrays, for experiments and for logging.

Each names the question that it answers and its source. Arrays are numpy; nothing here knows networks or buffers.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from q2pi.types import Array


def discounted(rewards: ArrayLike, gamma: float) -> Array:
    """Return the discounted return from each step on, [T], of the rewards [T] of one episode."""
    rewards = np.asarray(rewards, np.float64)
    result, following = np.empty_like(rewards), 0.0
    for t in reversed(range(len(rewards))):
        following = rewards[t] + gamma * following
        result[t] = following
    return result


def overestimation(
    predicted: Sequence[ArrayLike], rewards: Sequence[ArrayLike], truncated: Sequence[bool], gamma: float, tail: int
) -> float:
    """Return the mean of predicted values minus the discounted returns that followed (van Hasselt et al. 2016).

    Args:
        predicted: [T] of each episode, max_a Q(s_t, a).
        rewards: [T] of each episode.
        truncated: whether a time limit cut each episode; its rewards after that are unknown.
        gamma: discount factor.
        tail: number of last steps of a truncated episode that do not count, so that gamma^tail is next to 0. A
            truncated episode without other steps does not count.

    Returns:
        NaN if no step counts.
    """
    differences = []
    for values, received, cut in zip(predicted, rewards, truncated, strict=True):
        kept = len(np.asarray(received)) - (tail if cut else 0)
        differences.append((np.asarray(values) - discounted(received, gamma))[: max(0, kept)])
    every = np.concatenate(differences)
    return float(every.mean()) if len(every) else float("nan")


def target_drift(before: ArrayLike, after: ArrayLike) -> float:
    """Return the root mean square change of targets [B] at the same transitions, in units of the targets."""
    return float(np.sqrt(np.mean(np.square(np.asarray(after, np.float64) - np.asarray(before, np.float64)))))


def total_variation(before: ArrayLike, after: ArrayLike) -> Array:
    """Return the total variation distance [B] between action probabilities [B, A] before and after an update.

    Half of the sum of absolute differences: 1 if the policy moved all its probability to other actions.
    """
    distance: Array = 0.5 * np.abs(np.asarray(after, np.float64) - np.asarray(before, np.float64)).sum(axis=-1)
    return distance


def churn(before: ArrayLike, after: ArrayLike) -> float:
    """Return the share of states whose greedy action changed, for values or probabilities [B, A] (Schaul et al. 2022,
    "The Phenomenon of Policy Churn")."""
    return float(np.mean(np.argmax(before, axis=-1) != np.argmax(after, axis=-1)))


def gradient_variance(gradients: ArrayLike) -> float:
    """Return the sum over components of the variance of gradients [n, ...], divided by n - 1."""
    rows = np.asarray(gradients, np.float64).reshape(len(np.asarray(gradients)), -1)
    return float(rows.var(axis=0, ddof=1).sum())


def replay_age(written: ArrayLike, now: int) -> float:
    """Return the mean age in agent steps of sampled transitions, which were written at the steps `written` [B]."""
    return float(now - np.mean(np.asarray(written, np.float64)))


def dormant_share(activations: ArrayLike, threshold: float = 0.025) -> float:
    """Return the share of units whose mean absolute activation is at most `threshold` times the layer's mean.

    Source: Sokar et al. 2023, "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", equation 1.

    Args:
        activations: [B, units] of one layer.
        threshold: tau of the paper; 0 counts units that are never active.
    """
    mean = np.abs(np.asarray(activations, np.float64)).mean(axis=0)
    layer = mean.mean()
    return float(np.mean(mean <= threshold * layer)) if layer > 0 else 1.0


def correlation_of_neighbours(rows: ArrayLike) -> float:
    """Return the correlation of neighbours in a batch: the mean over features of the correlation between feature
    values [:-1] and [1:] of rows [B, D]; features that do not vary are left out. 0 if none varies."""
    values = np.asarray(rows, np.float64)
    values = values - values.mean(axis=0)
    variance = np.square(values).mean(axis=0)
    varies = variance > 1e-12
    if not varies.any():
        return 0.0
    products = (values[:-1] * values[1:]).mean(axis=0)
    return float((products[varies] / variance[varies]).mean())
