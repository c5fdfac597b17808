"""Returns and advantages along a rollout, time-major: T steps of N environments.

The inputs of every function, for step t of environment n:

    observation_t --action_t--> reward_t, discount_t, next observation_t (the true one), ended_t

Three things can stop the sum of rewards, and they differ in what follows it:

    termination                     ended, discount 0       nothing follows
    truncation (time limit)         ended, discount gamma   next_value: value of the final observation
    the rollout ends                row T - 1               next_value: the episode continues, its rewards are unknown

`next_value_t` belongs to the true next observation of step t. If an episode ended at t, row t + 1 holds the first
observation of the next episode, so `value_{t+1}` cannot replace it. No gradient flows through any of these functions.
"""

import torch
from torch import Tensor

from q2pi.equations.shapes import require_shape


@torch.no_grad()
def lambda_returns(
    reward: Tensor, discount: Tensor, next_value: Tensor, ended: Tensor, lambda_: float | Tensor
) -> Tensor:
    """Return the lambda-returns, [T, N] (TD(lambda); with next_value = max_a Q(s', a), Q(lambda) as in PQN).

        G_t = r_t + discount_t * ((1 - lambda) * next_value_t + lambda * G_{t+1})

    with next_value_t in the place of G_{t+1} if an episode or the rollout ends at t. Sources: Sutton and Barto 2018,
    equation 12.20; Gallici et al. 2025, "Simplifying Deep Temporal Difference Learning".

    Args:
        reward: [T, N].
        discount: [T, N], gamma, or 0 if terminated.
        next_value: [T, N], finite values of the true next observations.
        ended: bool [T, N], the episode ended, by termination or by truncation.
        lambda_: in [0, 1]; 0 is the one-step target, 1 the discounted return. A tensor [T, N] has one for each step.
    """
    require_shape(tuple(reward.shape), discount=discount, next_value=next_value, ended=ended)
    lambdas = lambda_ if isinstance(lambda_, Tensor) else [lambda_] * len(reward)
    returns = torch.empty_like(next_value)
    following = next_value[-1]
    for t in reversed(range(len(reward))):
        following = torch.where(ended[t], next_value[t], following)
        following = discount[t] * torch.lerp(next_value[t], following, lambdas[t])
        following = reward[t] + torch.where(discount[t] == 0, 0.0, following)  # 0 * inf is NaN
        returns[t] = following
    return returns


def watkins_lambdas(greedy: Tensor, lambda_: float) -> Tensor:
    """Return lambda of each step in Watkins's Q(lambda), [T, N]: 0 if the next action is not greedy.

    The return of a step then ends with max_a Q(s', a) where the policy stops being greedy, so it estimates the optimal
    value whatever the exploration. Peng's has lambda everywhere. Source: Watkins 1989, "Learning from Delayed
    Rewards"; Sutton and Barto 2018, section 12.10.

    Args:
        greedy: bool [T, N], whether the action of a step had the greatest value.
        lambda_: in [0, 1].
    """
    following = torch.cat([greedy[1:], torch.ones_like(greedy[:1])])  # no action follows the last step
    return torch.where(following, lambda_, 0.0)


@torch.no_grad()
def discounted_returns(reward: Tensor, discount: Tensor, next_value: Tensor, ended: Tensor) -> Tensor:
    """Return the discounted sums of rewards up to the end of the episode or of the rollout, [T, N].

        G_t = r_t + discount_t * G_{t+1}

    with next_value_t in the place of G_{t+1} if an episode or the rollout ends at t. Arguments as in
    `lambda_returns`.
    """
    return lambda_returns(reward, discount, next_value, ended, lambda_=1.0)


@torch.no_grad()
def n_step_returns(reward: Tensor, discount: Tensor, next_value: Tensor, ended: Tensor, n: int) -> Tensor:
    """Return the n-step returns, [T, N] (Sutton 1988): n rewards, then the value of what follows.

        G_t^(n) = r_t + discount_t * G_{t+1}^(n-1)    and    G_t^(0) is the value of observation t

    If an episode or the rollout ends sooner, the sum ends with it and next_value of that step follows.

    Args:
        reward, discount, next_value, ended: [T, N], as in `lambda_returns`.
        n: rewards to sum, at least 1.
    """
    require_shape(tuple(reward.shape), discount=discount, next_value=next_value, ended=ended)
    if n < 1:
        raise ValueError(f"n-step returns need n of at least 1, got {n}")
    returns = reward + discount * next_value
    for _ in range(min(n, len(reward)) - 1):
        following = torch.cat([returns[1:], next_value[-1:]])
        returns = reward + discount * torch.where(ended, next_value, following)
    return returns


@torch.no_grad()
def generalized_advantages(
    reward: Tensor, discount: Tensor, value: Tensor, next_value: Tensor, ended: Tensor, lambda_: float
) -> Tensor:
    """Return the generalized advantage estimates, [T, N] (Schulman et al. 2016, equation 16).

        delta_t = r_t + discount_t * next_value_t - value_t
        A_t = delta_t + discount_t * lambda * A_{t+1}

    with 0 in the place of A_{t+1} if an episode or the rollout ends at t.

    Args:
        reward, discount, next_value, ended, lambda_: as in `lambda_returns`.
        value: [T, N], values of the observations that were acted on.
    """
    require_shape(tuple(reward.shape), discount=discount, value=value, next_value=next_value, ended=ended)
    delta = reward + discount * next_value - value
    decay = torch.where(ended, 0.0, discount * lambda_)
    advantages = [torch.zeros_like(reward[0])]
    for delta_t, decay_t in zip(reversed(delta.unbind()), reversed(decay.unbind()), strict=True):
        advantages.append(delta_t + decay_t * advantages[-1])
    return torch.stack(advantages[:0:-1])
