"""What an agent computes for one observation: Q-values or action probabilities, value, and saliency."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from q2pi.algorithms.base import Agent
from q2pi.reports.network_view import Kind, action_values
from q2pi.types import Array


@runtime_checkable
class HasStateValue(Protocol):
    """An agent with a differentiable estimate of the value of a state."""

    def tensor(self, observation: Array) -> torch.Tensor:
        """Return raw observations [B, ...] as network input."""

    def state_value(self, inputs: torch.Tensor) -> torch.Tensor | None:
        """Return max_a Q(s, a) or V(s) [B] of network inputs [B, ...]; None without a value network."""


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


def think(agent: Agent, observation: Array, with_saliency: bool = True) -> Thought:
    """Return what an agent computes for an observation [*observation_shape].

    Raises:
        UserError: the agent has neither Q-values nor a policy.
    """
    _, numbers, kind = action_values(agent, observation)
    value, saliency = _value(agent, observation, with_saliency)
    if value is None and kind == "Q(s, a)":
        value = float(numbers.max())
    return Thought(kind, np.asarray(numbers, np.float32), value, saliency)


def _value(agent: Agent, observation: Array, with_saliency: bool) -> tuple[float | None, Array | None]:
    """Return (value, absolute gradient of the value with respect to the network's input, normalised observations)."""
    if not isinstance(agent, HasStateValue):
        return None, None
    with torch.set_grad_enabled(with_saliency):
        # The networks scale images in place, which torch forbids for a leaf: the product is a new tensor.
        leaf = agent.tensor(observation[None]).to(torch.float32).requires_grad_(with_saliency)
        value = agent.state_value(leaf * 1)
        if value is None:
            return None, None
        number = float(value[0].detach())
        if not with_saliency:
            return number, None
        (gradient,) = torch.autograd.grad(value[0], leaf)
    return number, gradient[0].abs().float().cpu().numpy()
