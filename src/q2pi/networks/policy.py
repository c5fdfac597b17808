"""Policy heads, policy networks and actor-critics; orthogonal initial weights.

Source of the initialisation: Huang et al. 2022, "The 37 Implementation Details of PPO", no. 2.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from q2pi.equations.distributions import Categorical, DiagonalGaussian, SquashedGaussian
from q2pi.errors import UserError
from q2pi.networks.initialisation import orthogonal
from q2pi.networks.output import OutputLayer
from q2pi.networks.torsos import Observation, allowed_actions, layout_of, torso_for
from q2pi.networks.value import ValueNetwork


class Policy(Protocol):
    """A batch of B distributions over actions."""

    def log_prob(self, action: Tensor) -> Tensor: ...

    def entropy(self) -> Tensor: ...

    def mode(self) -> Tensor: ...


class CategoricalHead(nn.Module):
    """Features -> a policy over the actions 0 .. A - 1 of a `Discrete` space."""

    action_shape: tuple[int, ...] = ()
    action_dtype = np.dtype(np.int64)

    def __init__(self, features: int, actions: int, start: int) -> None:
        super().__init__()
        self.start = start
        self.logits = OutputLayer(features, actions)
        orthogonal(self.logits, 0.01)

    def forward(self, features: Tensor) -> Categorical:
        return Categorical(self.logits(features))

    def sample(self, policy: Categorical, generator: np.random.Generator) -> Tensor:
        """Return sampled actions, int64 [B]; each uses one number of `generator`."""
        return policy.sample(torch.from_numpy(generator.random(len(policy.logits))).to(policy.logits))

    def to_env_action(self, action: Tensor) -> NDArray[Any]:
        """Return actions [B] in the environment's numbering, which starts at `start`."""
        return action.cpu().numpy() + self.start


@dataclass(frozen=True, eq=False)
class PreTanhGaussian(DiagonalGaussian):
    """The policy over x, the action before tanh squashing.

    The density of the action is the density of x divided by da/dx, which does not depend on the parameters. So ratios
    of two policies, divergences and the gradient of log_prob are the same for x and for the action, and x has not
    lost digits near a bound. The entropy is the action's.
    """

    low: Tensor
    high: Tensor

    def entropy(self) -> Tensor:
        return SquashedGaussian(self.mean, self.log_std, self.low, self.high).entropy()


class GaussianHead(nn.Module):
    """Features -> a policy over the vectors of a `Box` space, with a state-independent standard deviation.

    Without `squash`, actions are unbounded; `to_env_action` clips them to the bounds. With `squash`, actions are the x
    of `PreTanhGaussian`; `to_env_action` squashes them.

    Args:
        features: size of the features.
        space: the gymnasium space; actions are flattened to [D].
        log_std: logarithm of the initial standard deviation, in units of the action, or of x with `squash`.
        squash: whether the environment's action is low + (high - low) * (1 + tanh(x)) / 2.
    """

    low: Tensor
    high: Tensor
    action_dtype = np.dtype(np.float32)

    def __init__(self, features: int, space: Any, *, log_std: float, squash: bool) -> None:
        super().__init__()
        self.shape, self.squash = space.shape, squash
        self.action_shape = (math.prod(space.shape),)
        for name, bound in (("low", space.low), ("high", space.high)):
            flat = torch.from_numpy(np.asarray(bound, np.float32).reshape(-1).copy())
            self.register_buffer(name, flat, persistent=False)
        if squash and not (self.low.isfinite().all() and self.high.isfinite().all()):
            raise UserError(f"--squash needs actions with finite bounds, not {space}")
        self.mean = OutputLayer(features, self.action_shape[0])
        self.log_std = nn.Parameter(torch.full(self.action_shape, log_std))
        orthogonal(self.mean, 0.01)

    def forward(self, features: Tensor) -> DiagonalGaussian:
        mean = self.mean(features)
        log_std = self.log_std.expand_as(mean)
        return PreTanhGaussian(mean, log_std, self.low, self.high) if self.squash else DiagonalGaussian(mean, log_std)

    def sample(self, policy: DiagonalGaussian, generator: np.random.Generator) -> Tensor:
        """Return sampled actions [B, D], unbounded."""
        noise = generator.standard_normal(tuple(policy.mean.shape), dtype=np.float32)
        return policy.sample(torch.from_numpy(noise).to(policy.mean))

    def to_env_action(self, action: Tensor) -> NDArray[Any]:
        """Return actions [B, *shape] within the environment's bounds."""
        if self.squash:
            action = SquashedGaussian(action, torch.zeros_like(action), self.low, self.high).mode()
        else:
            action = torch.clamp(action, self.low, self.high)
        env_action: NDArray[Any] = action.cpu().numpy().reshape(len(action), *self.shape)
        return env_action


def policy_head(features: int, space: Any, *, log_std: float = 0.0, squash: bool = False) -> Any:
    """Return the policy head for a `Discrete` space or a `Box` of floats.

    Raises:
        UserError: `squash` for a space without finite bounds.
    """
    if type(space).__name__ == "Discrete":
        if squash:
            raise UserError(f"--squash is for Box actions, not for {space}")
        return CategoricalHead(features, int(space.n), int(space.start))
    return GaussianHead(features, space, log_std=log_std, squash=squash)


def serves(space: Any) -> bool:
    """Return whether `policy_head` supports an action space."""
    kind = type(space).__name__
    return kind == "Discrete" or (kind == "Box" and space.dtype.kind == "f")


class PolicyNetwork(nn.Module):
    """Observations [B, ...] -> a policy, through its own torso (tanh for vectors)."""

    def __init__(
        self, observation: Observation, space: Any, hidden: tuple[int, ...], *, log_std: float, squash: bool
    ) -> None:
        super().__init__()
        self.observation = observation
        self.torso = torso_for(observation, hidden, nn.Tanh)
        orthogonal(self.torso, math.sqrt(2))
        self.head = policy_head(self.torso.features, space, log_std=log_std, squash=squash)

    def forward(self, observation: Tensor) -> Policy:
        return self.policy(self.torso(observation), observation)

    def policy(self, features: Tensor, observation: Tensor) -> Policy:
        """Return the policy at features [B, ...]; probability 0 for the actions that a mask does not allow."""
        policy: Policy = self.head(features)
        allowed = allowed_actions(observation, self.observation)
        if allowed is None:
            return policy
        assert isinstance(policy, Categorical), "action masks are for Discrete actions"
        return Categorical(policy.logits.masked_fill(~allowed, -math.inf))


class ActorCritic(nn.Module):
    """Observations [B, ...] -> (a policy, V [B] float32).

    Policy and value share one torso if there are images; otherwise each has a tanh MLP.
    """

    def __init__(
        self, observation: Observation, space: Any, hidden: tuple[int, ...], *, log_std: float, squash: bool
    ) -> None:
        super().__init__()
        self.policy = PolicyNetwork(observation, space, hidden, log_std=log_std, squash=squash)
        self.separate = not layout_of(observation).images
        features = self.policy.torso.features
        self.critic = ValueNetwork(observation, hidden) if self.separate else OutputLayer(features, 1)
        if not self.separate:
            orthogonal(self.critic, 1.0)

    def forward(self, observation: Tensor) -> tuple[Policy, Tensor]:
        if self.separate:
            return self.policy(observation), self.critic(observation)
        features = self.policy.torso(observation)
        return self.policy.policy(features, observation), self.critic(features).squeeze(1)
