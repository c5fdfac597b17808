"""Policies as probability distributions over actions, one per row of a batch.

Noise is an argument: an action is a pure function of the distribution's parameters and of uniform or normal numbers,
so the caller's random stream determines it, on any device.

Entropies and divergences are in nats. All methods are differentiable in the parameters, except `sample` and `mode` of
the discrete ones, whose actions are integers.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import softplus

from q2pi.equations.shapes import require_shape

BELOW_ONE = 1 - 2**-24
"""Largest float32 below 1."""
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def _without_nan(logits: Tensor) -> Tensor:
    """Return logits; raise FloatingPointError if one is NaN, which would choose an action without a sign of error."""
    if logits.isnan().any():
        raise FloatingPointError("a logit is NaN")
    return logits


@dataclass(frozen=True, eq=False)
class Categorical:
    """pi(a) = softmax(logits)_a; a logit of -inf masks its action out."""

    logits: Tensor
    """[B, A]"""
    may_mask: bool = True
    """False if no logit is -inf: log-probabilities need no bound then."""

    @cached_property
    def log_probs(self) -> Tensor:
        """[B, A] log pi(a); a masked action has the smallest finite number instead of -inf, so that 0 * log 0 is 0."""
        normalized = self.logits.log_softmax(dim=1)
        return normalized.clamp(min=torch.finfo(normalized.dtype).min) if self.may_mask else normalized

    def sample(self, uniform: Tensor) -> Tensor:
        """Return actions, int64 [B]: the first whose cumulative probability exceeds `uniform`.

        Args:
            uniform: [B] in [0, 1]; a 1 (from rounding) is treated as the largest number below 1, so that a masked
                action is never returned.

        Raises:
            FloatingPointError: every action of a row is masked, or a logit is NaN.
        """
        require_shape((len(self.logits),), uniform=uniform)
        cumulative = self.log_probs.detach().float().exp().cumsum(dim=1)
        total = cumulative[:, -1:]
        if math.isnan(total.sum()):
            raise FloatingPointError("cannot sample: a policy has every action masked, or a logit that is NaN")
        # The product of a float32 and a number below 1 is smaller than it.
        threshold = uniform.float().clamp(max=BELOW_ONE).unsqueeze(1) * total
        return (cumulative <= threshold).sum(dim=1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return log pi(a) [B] of `action`, int64 [B]."""
        require_shape((len(self.logits),), action=action)
        return self.log_probs.gather(1, action.unsqueeze(1)).squeeze(1)

    def entropy(self) -> Tensor:
        """Return -sum_a pi(a) log pi(a), [B]."""
        log_probs = self.log_probs
        return -(log_probs.exp() * log_probs).sum(dim=1)

    def kl(self, other: "Categorical") -> Tensor:
        """Return KL(self || other) = sum_a pi(a) log(pi(a) / pi'(a)), [B]; huge if only `other` masks an action."""
        require_shape(tuple(self.logits.shape), logits=other.logits)
        log_probs = self.log_probs
        return (log_probs.exp() * (log_probs - other.log_probs)).sum(dim=1)

    def mode(self) -> Tensor:
        """Return the most probable actions, int64 [B]; ties to the lowest action.

        Raises:
            FloatingPointError: a logit is NaN.
        """
        return _without_nan(self.logits).argmax(dim=1)


@dataclass(frozen=True, eq=False)
class MultiCategorical:
    """D independent categorical components: pi(a) = prod_d softmax(logits_d)_{a_d}."""

    logits: Tensor
    """[B, D, M]; a component with fewer than M actions has the logit -inf for the others."""

    @property
    def components(self) -> Categorical:
        """The B * D components as rows."""
        return Categorical(self.logits.flatten(0, 1))

    def sample(self, uniform: Tensor) -> Tensor:
        """Return actions, int64 [B, D], from `uniform` [B, D] in [0, 1]; see `Categorical.sample`."""
        require_shape(tuple(self.logits.shape[:2]), uniform=uniform)
        return self.components.sample(uniform.flatten()).reshape(uniform.shape)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return log pi(a) = sum_d log pi_d(a_d), [B], of `action`, int64 [B, D]."""
        require_shape(tuple(self.logits.shape[:2]), action=action)
        return self.components.log_prob(action.flatten()).reshape(action.shape).sum(dim=1)

    def entropy(self) -> Tensor:
        """Return the sum of the components' entropies, [B]."""
        return self.components.entropy().reshape(self.logits.shape[:2]).sum(dim=1)

    def kl(self, other: "MultiCategorical") -> Tensor:
        """Return KL(self || other), the sum over the components, [B]."""
        require_shape(tuple(self.logits.shape), logits=other.logits)
        return self.components.kl(other.components).reshape(self.logits.shape[:2]).sum(dim=1)

    def mode(self) -> Tensor:
        """Return the most probable actions, int64 [B, D]; ties to the lowest action.

        Raises:
            FloatingPointError: a logit is NaN.
        """
        return _without_nan(self.logits).argmax(dim=2)


@dataclass(frozen=True, eq=False)
class MultiBernoulli:
    """D independent components in {0, 1}: pi(a_d = 1) = sigmoid(logits_d)."""

    logits: Tensor
    """[B, D]"""

    def sample(self, uniform: Tensor) -> Tensor:
        """Return actions, int64 [B, D]: 1 if `uniform` [B, D] in [0, 1] is below the probability of 1.

        Raises:
            FloatingPointError: a logit is NaN.
        """
        require_shape(tuple(self.logits.shape), uniform=uniform)
        return (uniform < _without_nan(self.logits.detach()).float().sigmoid()).long()

    def log_prob(self, action: Tensor) -> Tensor:
        """Return log pi(a) = sum_d (a_d logits_d - log(1 + exp(logits_d))), [B], of `action`, int64 [B, D]."""
        require_shape(tuple(self.logits.shape), action=action)
        return (action * self.logits - softplus(self.logits)).sum(dim=1)

    def entropy(self) -> Tensor:
        """Return the sum of the components' entropies, log(1 + exp(l)) - l sigmoid(l), [B]."""
        return (softplus(self.logits) - self.logits * self.logits.sigmoid()).sum(dim=1)

    def kl(self, other: "MultiBernoulli") -> Tensor:
        """Return KL(self || other), the sum over the components, [B]."""
        require_shape(tuple(self.logits.shape), logits=other.logits)
        weighted = self.logits.sigmoid() * (self.logits - other.logits)
        return (weighted - softplus(self.logits) + softplus(other.logits)).sum(dim=1)

    def mode(self) -> Tensor:
        """Return the most probable actions, int64 [B, D]; a tie is 0.

        Raises:
            FloatingPointError: a logit is NaN.
        """
        return (_without_nan(self.logits) > 0).long()


@dataclass(frozen=True, eq=False)
class DiagonalGaussian:
    """Independent normal action dimensions."""

    mean: Tensor
    """[B, D]"""
    log_std: Tensor
    """[B, D] logarithm of the standard deviation; a state-independent one must be expanded to [B, D]."""

    def sample(self, normal: Tensor) -> Tensor:
        """Return actions mean + std * normal, [B, D]; `normal` [B, D] is standard normal noise."""
        require_shape(tuple(self.mean.shape), log_std=self.log_std, normal=normal)
        return self.mean + self.log_std.exp() * normal

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log-density [B] of `action` [B, D]."""
        require_shape(tuple(self.mean.shape), log_std=self.log_std, action=action)
        standardized = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * standardized.square() - self.log_std - LOG_SQRT_2PI).sum(dim=1)

    def entropy(self) -> Tensor:
        """Return the differential entropy, sum_d log_std_d + log(2 pi e) / 2, [B]."""
        return (self.log_std + (0.5 + LOG_SQRT_2PI)).sum(dim=1)

    def kl(self, other: "DiagonalGaussian") -> Tensor:
        """Return KL(self || other), [B]."""
        require_shape(tuple(self.mean.shape), mean=other.mean, log_std=other.log_std)
        log_ratio = other.log_std - self.log_std
        distance = (self.mean - other.mean) * (-other.log_std).exp()
        return (log_ratio + 0.5 * ((-2 * log_ratio).exp() + distance.square() - 1)).sum(dim=1)

    def mode(self) -> Tensor:
        """Return the mean, [B, D]."""
        return self.mean


@dataclass(frozen=True, eq=False)
class SquashedGaussian:
    """A normal x squashed into the bounds of the action space: a = center + half_width * tanh(x).

    Source: Haarnoja et al. 2018, "Soft Actor-Critic", appendix C. The entropy has no closed form: `entropy`
    integrates it, and -log_prob of `sample_with_log_prob` is an unbiased estimate.
    """

    mean: Tensor
    """[B, D] of x."""
    log_std: Tensor
    """[B, D] of x."""
    low: Tensor
    """[D] smallest action."""
    high: Tensor
    """[D] largest action, above `low`."""

    @property
    def base(self) -> DiagonalGaussian:
        """The distribution of x, before squashing."""
        return DiagonalGaussian(self.mean, self.log_std)

    def sample(self, normal: Tensor) -> Tensor:
        """Return actions [B, D] in [low, high]; `normal` [B, D] is standard normal noise."""
        return self._squash(self.base.sample(normal))

    def sample_with_log_prob(self, normal: Tensor) -> tuple[Tensor, Tensor]:
        """Return (actions [B, D], their log-density [B]), exact even if the action was rounded to a bound."""
        x = self.base.sample(normal)
        return self._squash(x), self.base.log_prob(x) - self._log_slope(x)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log-density [B] of `action` [B, D]; an action at a bound is moved just inside it.

        Inaccurate for actions that were rounded near a bound: prefer `sample_with_log_prob` if the action is sampled.
        """
        require_shape(tuple(self.mean.shape), action=action)
        edge = 1 - torch.finfo(action.dtype).eps
        x = ((action - self._center) / self._half_width).clamp(-edge, edge).atanh()
        return self.base.log_prob(x) - self._log_slope(x)

    def entropy(self) -> Tensor:
        """Return the differential entropy of the action, [B]: the entropy of x plus the mean of log |da/dx|.

        The mean is computed by the trapezoidal rule over 129 standard normal nodes, which converges exponentially for
        a smooth integrand: the error is below 1e-5 for a std of x up to 8.
        """
        node = torch.linspace(-6.0, 6.0, 129, dtype=self.mean.dtype, device=self.mean.device).reshape(-1, 1, 1)
        weight = (-0.5 * node.square()).softmax(dim=0).squeeze(2)
        return self.base.entropy() + (weight * self._log_slope(self.base.mean + self.log_std.exp() * node)).sum(dim=0)

    def kl(self, other: "SquashedGaussian") -> Tensor:
        """Return KL(self || other), [B]; both have the same bounds, so squashing does not change the divergence."""
        return self.base.kl(other.base)

    def mode(self) -> Tensor:
        """Return the squashed mean of x, [B, D]: the median of the actions, used as the greedy action."""
        return self._squash(self.mean)

    @property
    def _center(self) -> Tensor:
        return (self.low + self.high) / 2

    @property
    def _half_width(self) -> Tensor:
        return (self.high - self.low) / 2

    def _squash(self, x: Tensor) -> Tensor:
        return torch.clamp(self._center + self._half_width * x.tanh(), self.low, self.high)

    def _log_slope(self, x: Tensor) -> Tensor:
        """Return log |da/dx|, [..., B], of x [..., B, D].

        Uses 1 - tanh(x)^2 = 4 / (e^x + e^-x)^2, which does not cancel for large x.
        """
        log_derivative = 2 * (math.log(2) - x - softplus(-2 * x))
        return (self._half_width.log() + log_derivative).sum(dim=-1)
