"""Distributional Q-learning: targets, projections and losses of distributions of returns.

A distribution of returns is M values with probabilities; equally likely quantiles have none (None). With M = 1 it is a
plain Q-value. `bootstrap_target` is the one function that combines n-step returns, Double DQN, Munchausen's soft policy
and the kinds of distributions.
"""

import torch
from torch import Tensor
from torch.nn import functional

from q2pi.equations.shapes import require_shape


def bootstrap_target(
    reward: Tensor,
    discount: Tensor,
    values: Tensor,
    selector: Tensor,
    probabilities: Tensor | None = None,
    temperature: float = 0.0,
) -> tuple[Tensor, Tensor | None]:
    """Return (target values [B, M'], their probabilities [B, M'] or None), detached.

    Equations, with Z' the target network's distribution at s', the observation that the return bootstraps from, q the
    selector, and z_j its values with probabilities p_j:

        greedy, temperature 0     r + discount * z_j(s', a*), a* = argmax_a q(a), with p_j(s', a*)
        soft, with probabilities  r + discount * (z_j(s', a) - tau log pi(a)), with pi(a) p_j(s', a): all A * M values
        soft, quantiles           r + discount * sum_a pi(a) (z_j(s', a) - tau log pi(a))
        where                     pi = softmax(q / tau)

    Sources: Mnih et al. 2015; van Hasselt, Guez and Silver 2016, equation 4 (q of the online network); Bellemare,
    Dabney and Munos 2017, algorithm 1; Dabney et al. 2018, "Distributional Reinforcement Learning with Quantile
    Regression", algorithm 1; Vieillard, Pietquin and Geist 2020, "Munchausen Reinforcement Learning", M-DQN and M-IQN.
    A soft policy with probabilities is the mixture of the actions' distributions, of the same mean.

    Args:
        reward: [B] the reward, or the n-step return without its bootstrap.
        discount: [B] gamma, or gamma^n; 0 if terminated: the target is then the reward.
        values: [B, A, M] z of the target network at s'.
        selector: [B, A] Q at s': of the target network, or of the online network for Double DQN.
        probabilities: [B, A, M] of the values; None if they are equally likely.
        temperature: tau of the soft policy; 0 is greedy.

    Raises:
        ValueError: a shape differs from the one stated.
    """
    batch, actions, _ = values.shape
    require_shape((batch,), reward=reward, discount=discount)
    require_shape((batch, actions), selector=selector)
    require_shape(tuple(values.shape), probabilities=probabilities)
    if temperature == 0:
        best = selector.argmax(dim=1)
        next_values = of_action(values, best)
        next_probabilities = None if probabilities is None else of_action(probabilities, best)
    else:
        # The clamp keeps 0 * log 0 at 0 for actions whose Q is the lowest number, because they are masked.
        log_policy = functional.log_softmax(selector / temperature, dim=1).clamp(min=-1e30).unsqueeze(2)  # [B, A, 1]
        soft = values - temperature * log_policy
        if probabilities is None:
            next_values, next_probabilities = (log_policy.exp() * soft).sum(dim=1), None
        else:
            next_values, next_probabilities = soft.flatten(1), (log_policy.exp() * probabilities).flatten(1)
    factor = discount.unsqueeze(1)
    bootstrap = torch.where(factor == 0, 0.0, factor * next_values)  # 0 * inf is NaN
    target = (reward.unsqueeze(1) + bootstrap).detach()
    return target, None if next_probabilities is None else next_probabilities.detach()


def munchausen_reward(q: Tensor, action: Tensor, alpha: float, temperature: float, floor: float) -> Tensor:
    """Return alpha * clip(tau log pi(a|s), floor, 0), [B], detached: what Munchausen adds to the reward.

    Source: Vieillard, Pietquin and Geist 2020, equation 2, with pi = softmax(q / tau).

    Args:
        q: [B, A] Q of the target network at s, the observation of the action.
        action: int64 [B].
        alpha: share of the log-policy.
        temperature: tau.
        floor: l_0, the least value of the clipped log-policy.

    Raises:
        ValueError: a shape differs from the one stated.
    """
    require_shape((len(q),), action=action)
    log_policy = temperature * functional.log_softmax(q / temperature, dim=1)
    return alpha * log_policy.gather(1, action.unsqueeze(1)).squeeze(1).clamp(floor, 0).detach()


def of_action(values: Tensor, action: Tensor) -> Tensor:
    """Return values[b, action[b]], [B, M].

    Args:
        values: [B, A, M].
        action: int64 [B].
    """
    return values[torch.arange(len(values), device=values.device), action]


def support(atoms: int, low: float, high: float) -> Tensor:
    """Return the values [Z] of a categorical distribution, equally spaced from `low` to `high`."""
    return torch.linspace(low, high, atoms)


def categorical_projection(values: Tensor, probabilities: Tensor, support: Tensor) -> Tensor:
    """Return the probabilities [B, Z] of a distribution projected onto equally spaced atoms.

    Equation: m_i = sum_j p_j max(0, 1 - |clip(z_j, z_min, z_max) - z_i| / dz): each value shares its probability among
    its two neighbours. The mean is kept unless a value is clipped. Source: Bellemare, Dabney and Munos 2017, "A
    Distributional Perspective on Reinforcement Learning", equation 7.

    Args:
        values: [B, M] z_j.
        probabilities: [B, M] p_j.
        support: [Z] equally spaced z_i, ascending, at least two.

    Raises:
        ValueError: a shape differs from the one stated.
    """
    require_shape(tuple(values.shape), probabilities=probabilities)
    spacing = (support[-1] - support[0]) / (len(support) - 1)
    clipped = values.clamp(support[0], support[-1])
    # Dense instead of a scatter: deterministic on every device, and a shape that a captured graph can keep.
    share = (1 - (clipped.unsqueeze(1) - support[:, None]).abs() / spacing).clamp(min=0)  # [B, Z, M]
    return (share * probabilities.unsqueeze(1)).sum(dim=2)  # autocast would round the factors of a bmm to bf16


def categorical_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy -sum_i target_i log softmax(logits)_i, [B].

    Source: Bellemare, Dabney and Munos 2017, algorithm 1. Its gradient is that of KL(target || softmax(logits)); its
    least value is the target's entropy.

    Args:
        logits: [B, Z] of the actions taken.
        target: [B, Z] probabilities, free of gradient.

    Raises:
        ValueError: the shapes differ.
    """
    require_shape(tuple(logits.shape), target=target)
    return -(target * functional.log_softmax(logits, dim=1)).sum(dim=1)


def midpoints(count: int) -> Tensor:
    """Return the fractions [count] (2 i + 1) / (2 count) of equally likely quantiles (Dabney et al. 2018, lemma 2)."""
    return (torch.arange(count) + 0.5) / count


def quantile_loss(quantiles: Tensor, fractions: Tensor, target: Tensor, kappa: float = 1.0) -> Tensor:
    """Return the quantile Huber loss, [B]: summed over the N quantiles, averaged over the M target values.

    Equation: sum_i mean_j |tau_i - 1{u_ij < 0}| L_kappa(u_ij) / kappa with u_ij = y_j - q_i, and |u| for L_0 / 0.
    Sources: Dabney et al. 2018, equations 9 and 10; Dabney, Ostrovski, Silver and Munos 2018, "Implicit Quantile
    Networks for Distributional Reinforcement Learning", equation 3.

    Args:
        quantiles: [B, N] q_i of the actions taken.
        fractions: [N] or [B, N] tau_i.
        target: [B, M] y_j, free of gradient.
        kappa: threshold of the Huber loss; 0 is the plain quantile loss.

    Raises:
        ValueError: a shape differs from the one stated.
    """
    batch, count = quantiles.shape
    require_shape((batch, target.shape[1]), target=target)
    require_shape((batch, count) if fractions.dim() == 2 else (count,), fractions=fractions)
    below, above = _huber_sums(quantiles, target.detach(), kappa)
    loss = fractions * above + (1 - fractions) * below
    return (loss.sum(dim=1) / target.shape[1]).to(quantiles.dtype)


def _huber_sums(x: Tensor, values: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    """Return float64 [B, N], twice: the sums of L_kappa(values_j - x_i) / kappa over values below x_i, and over others.

    With (u)+ the positive part of u, L_kappa(u) = (u)+^2 / 2 - (u - kappa)+^2 / 2 for u >= 0. The sum of the squares of
    (values_j - x)+ is a quadratic function of x, with sums of the values beyond x and of their squares as coefficients.
    So running sums of the sorted values give in O((N + M) log M) what all N * M pairs would give.

    Args:
        x: [B, N].
        values: [B, M], free of gradient.
    """
    centre = values.double().mean(dim=1, keepdim=True)  # squares of distances lose fewer digits than squares of values
    x, ordered = x.double() - centre, (values.double() - centre).sort(dim=1).values
    powers = torch.stack([torch.ones_like(ordered), ordered, ordered.square()])
    running = functional.pad(powers.cumsum(dim=2), (1, 0))  # [3, B, 1 + M]: sums of the c smallest values

    def moments(at: Tensor) -> tuple[Tensor, Tensor]:
        """Return (number, sum, sum of squares) [3, B, N] of the values up to `at` [B, N], and of those beyond."""
        index = torch.searchsorted(ordered, at.detach().contiguous(), right=True)
        lower = running.gather(2, index.expand(3, *index.shape))
        return lower, running[:, :, -1:] - lower

    def half_squares(at: Tensor, sums: Tensor) -> Tensor:
        return 0.5 * (sums[0] * at.square() - 2 * at * sums[1] + sums[2])

    lower, upper = moments(x)
    if kappa == 0:
        return lower[0] * x - lower[1], upper[1] - upper[0] * x
    below = half_squares(x, lower) - half_squares(x - kappa, moments(x - kappa)[0])
    above = half_squares(x, upper) - half_squares(x + kappa, moments(x + kappa)[1])
    return below / kappa, above / kappa
