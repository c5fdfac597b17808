"""Losses, element by element: importance weights, masks and means are applied afterwards, to any of them.

Factors of one half: `squared` has none, so that its mean is the plain mean of squares (torch's `mse_loss`, and what
CleanRL minimises); `huber` has the one of its definition. Its gradient is thus half of `squared`'s for small errors.
"""

import torch
from torch import Tensor

from q2pi.equations.shapes import require_shape


def td_errors(q: Tensor, action: Tensor, target: Tensor) -> Tensor:
    """Return the temporal-difference errors target - Q(s, a), [B].

    Args:
        q: [B, A].
        action: int64 [B], the actions taken.
        target: [B], free of gradient (see `targets`).

    Raises:
        ValueError: a shape differs from the one stated.
    """
    require_shape((len(q),), action=action, target=target)
    return target - q.gather(1, action.unsqueeze(1)).squeeze(1)


def squared(error: Tensor) -> Tensor:
    """Return error^2, of the same shape."""
    return error.square()


def huber(error: Tensor, delta: float = 1.0) -> Tensor:
    """Return error^2 / 2 if |error| <= delta, and delta * (|error| - delta / 2) beyond, of the same shape.

    Its gradient is the error clipped to [-delta, delta]: the "error clipping" of Mnih et al. 2015. Source: Huber 1964.
    """
    magnitude = error.abs()
    quadratic = magnitude.clamp(max=delta)
    return quadratic * (magnitude - 0.5 * quadratic)


def weighted_mean(loss: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean [] of loss * weights over the batch; the plain mean if `weights` is None.

    The divisor is the batch size, not the sum of the weights, as importance sampling wants (Schaul et al. 2016,
    "Prioritized Experience Replay", algorithm 1).

    Args:
        loss: [B].
        weights: [B] or None.

    Raises:
        ValueError: the shapes differ.
    """
    require_shape(tuple(loss.shape), weights=weights)
    return loss.mean() if weights is None else (loss * weights).mean()


def policy_gradient_loss(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """Return -log pi(a|s) * advantage, [B]: the gradient of its mean is minus the policy gradient.

    Source: Williams 1992, REINFORCE; Sutton et al. 2000. No gradient flows through the advantage.

    Args:
        log_prob: [B] log pi(a|s) of the policy that is trained.
        advantage: [B].

    Raises:
        ValueError: the shapes differ.
    """
    require_shape(tuple(log_prob.shape), advantage=advantage)
    return -log_prob * advantage.detach()


def clipped_surrogate(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Return the loss of proximal policy optimisation, [B].

    Equation: -min(ratio * advantage, clamp(ratio, 1 - clip, 1 + clip) * advantage), ratio = pi(a|s) / pi_old(a|s).
    Source: Schulman et al. 2017, equation 7. No gradient flows through the old policy or the advantage.

    Args:
        log_prob: [B] log pi(a|s) of the policy that is trained.
        old_log_prob: [B] the same when the action was taken.
        advantage: [B].
        clip: distance of the ratio from 1 beyond which the gradient vanishes.

    Raises:
        ValueError: the shapes differ.
    """
    require_shape(tuple(log_prob.shape), old_log_prob=old_log_prob, advantage=advantage)
    ratio = (log_prob - old_log_prob.detach()).exp()
    advantage = advantage.detach()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def value_loss(value: Tensor, target: Tensor, old_value: Tensor | None = None, clip: float | None = None) -> Tensor:
    """Return the squared error of state values, [B], without a factor of one half.

    With `old_value` and `clip`, the larger of that error and the error of the value moved at most `clip` away from the
    old one (from the code of Schulman et al. 2017; Huang et al. 2022, "The 37 Implementation Details of PPO", no. 9).

    Args:
        value: [B] V(s) of the network that is trained.
        target: [B]; no gradient flows through it.
        old_value: [B] V(s) when the step was taken, or None.
        clip: bound on the move, or None.

    Raises:
        ValueError: the shapes differ, or one of `old_value` and `clip` is given without the other.
    """
    require_shape(tuple(value.shape), target=target, old_value=old_value)
    target = target.detach()
    unclipped = (value - target).square()
    if old_value is None and clip is None:
        return unclipped
    if old_value is None or clip is None:
        raise ValueError("old_value and clip go together: one is missing")
    old_value = old_value.detach()
    clipped = old_value + (value - old_value).clamp(-clip, clip)
    return torch.maximum(unclipped, (clipped - target).square())
