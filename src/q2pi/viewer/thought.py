"""What an agent computes for one observation: Q-values or action probabilities, value, and saliency."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from q2pi.algorithms.base import Agent
from q2pi.networks.value import LOWEST
from q2pi.reports.network_picture import Kind
from q2pi.reports.network_view import action_values
from q2pi.types import Array


@runtime_checkable
class HasQNetwork(Protocol):
    """An agent with differentiable Q-values."""

    def tensor(self, observation: Array) -> torch.Tensor:
        """Return raw observations [B, ...] as network input."""

    def q_of(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return Q [B, A] of network inputs [B, ...]."""


@runtime_checkable
class HasStateValue(Protocol):
    """An agent with a differentiable estimate of the value of a state."""

    def tensor(self, observation: Array) -> torch.Tensor:
        """Return raw observations [B, ...] as network input."""

    def state_value(self, inputs: torch.Tensor) -> torch.Tensor | None:
        """Return V(s) [B] of network inputs [B, ...]; None without a value network."""


@runtime_checkable
class HasReturnDistribution(Protocol):
    """An agent that may learn the distribution of the return."""

    def return_distribution(self, observation: Array) -> tuple[Array, Array]:
        """Return (values, their probabilities) [B, A, M] of the discounted return; M is 1 without a distribution."""


BINS = 64
"""Largest number of bins of a distribution that is shown."""


@dataclass(frozen=True)
class Histogram:
    """Distributions of the discounted return, in bins of equal width."""

    low: float
    high: float
    """The first bin begins at `low`, the last ends at `high`."""
    probabilities: Array
    """[A, bins]"""


@dataclass(frozen=True)
class Thought:
    """The output of an agent's networks for one observation."""

    kind: Kind
    numbers: Array
    """[A] Q-values, probabilities or the mode of the policy."""
    value: float | None
    """max_a Q(s, a) or V(s); None if the agent estimates no value."""
    saliency: Array | None
    """[*observation_shape] float32: absolute gradient of the value with respect to each input; None without value."""
    distribution: Histogram | None = None
    """Of the return of each action; None if the agent learns its expectation only."""
    q: Array | None = None
    """[A] Q-values as the agent chooses its action by them; None if it has no Q-network."""


def think(agent: Agent, observation: Array, with_saliency: bool = True) -> Thought:
    """Return what an agent computes for an observation [*observation_shape].

    Raises:
        UserError: the agent has neither Q-values nor a policy.
    """
    if isinstance(agent, HasQNetwork):
        q, saliency = _with_gradient(agent.q_of, agent.tensor(observation[None]), with_saliency)
        assert q is not None
        shown = np.where(q == LOWEST, np.nan, q)
        return Thought("Q(s, a)", shown, float(q.max()), saliency, _distribution(agent, observation), q)
    _, numbers, kind = action_values(agent, observation)
    value, saliency = None, None
    if isinstance(agent, HasStateValue):
        value, saliency = _with_gradient(agent.state_value, agent.tensor(observation[None]), with_saliency)
    if value is None and kind == "Q(s, a)":
        value = np.nanmax(numbers)
    number = None if value is None else float(value)
    return Thought(kind, np.asarray(numbers, np.float32), number, saliency)


def _distribution(agent: Agent, observation: Array) -> Histogram | None:
    if not isinstance(agent, HasReturnDistribution):
        return None
    values, probabilities = (part[0] for part in agent.return_distribution(observation[None]))
    return histogram(values, probabilities) if values.shape[1] > 1 else None


def histogram(values: Array, probabilities: Array) -> Histogram:
    """Return distributions in bins from the least to the greatest value of any action.

    Args:
        values, probabilities: [A, M].
    """
    low, high = float(values.min()), float(values.max())
    if high <= low:
        low, high = low - 0.5, low + 0.5
    bins = min(BINS, values.shape[1])
    rows = [
        np.histogram(row, bins, (low, high), weights=weights)[0]
        for row, weights in zip(values, probabilities, strict=True)
    ]
    return Histogram(low, high, np.stack(rows))


def _with_gradient(
    function: Callable[[torch.Tensor], torch.Tensor | None], inputs: torch.Tensor, with_saliency: bool
) -> tuple[Array | None, Array | None]:
    """Return (output of one row of inputs, absolute gradient of its maximum with respect to the inputs)."""
    with torch.set_grad_enabled(with_saliency):
        # The networks scale images in place, which torch forbids for a leaf: the product is a new tensor.
        leaf = inputs.to(torch.float32).requires_grad_(with_saliency)
        output = function(leaf * 1)
        if output is None:
            return None, None
        numbers: Array = output[0].detach().float().cpu().numpy()
        if not with_saliency:
            return numbers, None
        (gradient,) = torch.autograd.grad(output[0].amax(), leaf)
    return numbers, gradient[0].abs().float().cpu().numpy()
