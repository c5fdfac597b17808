"""Torsos that turn observations into features, and heads that turn features into what an algorithm learns.

Parameters are initialised by torch's defaults (Kaiming-uniform, as in CleanRL and re-implementations of the Nature
network) under a generator of the run's own, so that a network is a pure function of the seed. Those of policies and
state values are initialised orthogonally (Huang et al. 2022, "The 37 Implementation Details of PPO", no. 2).
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
from q2pi.networks.torsos import torso_for
from q2pi.networks.value import ValueNetwork


class Policy(Protocol):
    """A distribution over actions, one for each of B observations."""

    def log_prob(self, action: Tensor) -> Tensor: ...

    def entropy(self) -> Tensor: ...

    def mode(self) -> Tensor: ...


class CategoricalHead(nn.Module):
    """Features -> a policy over the actions of a `Discrete` space; its actions count from 0."""

    action_shape: tuple[int, ...] = ()
    action_dtype = np.dtype(np.int64)

    def __init__(self, features: int, actions: int, start: int) -> None:
        super().__init__()
        self.start = start
        self.logits = nn.Linear(features, actions)
        orthogonal(self.logits, 0.01)

    def forward(self, features: Tensor) -> Categorical:
        return Categorical(self.logits(features).float())

    def sample(self, policy: Categorical, generator: np.random.Generator) -> Tensor:
        """Return actions, int64 [B], one number of `generator` each."""
        return policy.sample(torch.from_numpy(generator.random(len(policy.logits))).to(policy.logits))

    def to_env_action(self, action: Tensor) -> NDArray[Any]:
        """Return actions [B] as the game counts them."""
        return action.cpu().numpy() + self.start


@dataclass(frozen=True, eq=False)
class PreTanhGaussian(DiagonalGaussian):
    """The policy of x, where the game is sent the action that x is squashed to.

    The density of the action is that of x over da/dx, which no parameter moves: ratios of two policies, divergences and
    the gradient of log_prob are those of the action, and x keeps the digits that an action near a bound has lost.
    The entropy is the action's.
    """

    low: Tensor
    high: Tensor

    def entropy(self) -> Tensor:
        return SquashedGaussian(self.mean, self.log_std, self.low, self.high).entropy()


class GaussianHead(nn.Module):
    """Features -> a policy over the vectors of a `Box` space, with a standard deviation that all states share.

    Without `squash`, actions are unbounded and clipped to the bounds only on their way to the game. With it, actions
    are the x of `Unsquashed`.

    Args:
        features: size of the features.
        space: the gymnasium space; actions are flattened to [D].
        log_std: logarithm of the first standard deviation, in units of the action, or of x with `squash`.
        squash: play low + (high - low) * (1 + tanh(x)) / 2.
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
        self.mean = nn.Linear(features, self.action_shape[0])
        self.log_std = nn.Parameter(torch.full(self.action_shape, log_std))
        orthogonal(self.mean, 0.01)

    def forward(self, features: Tensor) -> DiagonalGaussian:
        mean = self.mean(features).float()
        log_std = self.log_std.expand_as(mean)
        return PreTanhGaussian(mean, log_std, self.low, self.high) if self.squash else DiagonalGaussian(mean, log_std)

    def sample(self, policy: DiagonalGaussian, generator: np.random.Generator) -> Tensor:
        """Return actions [B, D], unbounded."""
        noise = generator.standard_normal(tuple(policy.mean.shape), dtype=np.float32)
        return policy.sample(torch.from_numpy(noise).to(policy.mean))

    def to_env_action(self, action: Tensor) -> NDArray[Any]:
        """Return actions [B, *shape] within the bounds, as the game is sent them."""
        if self.squash:
            action = SquashedGaussian(action, torch.zeros_like(action), self.low, self.high).mode()
        else:
            action = torch.clamp(action, self.low, self.high)
        sent: NDArray[Any] = action.cpu().numpy().reshape(len(action), *self.shape)
        return sent


def policy_head(features: int, space: Any, *, log_std: float = 0.0, squash: bool = False) -> Any:
    """Return the head for a `Discrete` space, or for a `Box` of floats.

    Raises:
        UserError: `squash` for a space without finite bounds.
    """
    if type(space).__name__ == "Discrete":
        if squash:
            raise UserError(f"--squash is for Box actions, not for {space}")
        return CategoricalHead(features, int(space.n), int(space.start))
    return GaussianHead(features, space, log_std=log_std, squash=squash)


def serves(space: Any) -> bool:
    """Tell whether `policy_head` has a head for an action space."""
    kind = type(space).__name__
    return kind == "Discrete" or (kind == "Box" and space.dtype.kind == "f")


class PolicyNetwork(nn.Module):
    """Observations [B, ...] -> a policy, through a torso of its own (tanh for vectors)."""

    def __init__(
        self, observation_shape: tuple[int, ...], space: Any, hidden: tuple[int, ...], *, log_std: float, squash: bool
    ) -> None:
        super().__init__()
        self.torso = torso_for(observation_shape, hidden, nn.Tanh)
        orthogonal(self.torso, math.sqrt(2))
        self.head = policy_head(self.torso.features, space, log_std=log_std, squash=squash)

    def forward(self, observation: Tensor) -> Policy:
        policy: Policy = self.head(self.torso(observation))
        return policy


class ActorCritic(nn.Module):
    """Observations [B, ...] -> (a policy, V [B] float32).

    Images pass through one Nature torso for both; vectors through one MLP of tanh layers for each.
    """

    def __init__(
        self, observation_shape: tuple[int, ...], space: Any, hidden: tuple[int, ...], *, log_std: float, squash: bool
    ) -> None:
        super().__init__()
        self.policy = PolicyNetwork(observation_shape, space, hidden, log_std=log_std, squash=squash)
        self.separate = len(observation_shape) != 3
        features = self.policy.torso.features
        self.critic = ValueNetwork(observation_shape, hidden) if self.separate else nn.Linear(features, 1)
        if not self.separate:
            orthogonal(self.critic, 1.0)

    def forward(self, observation: Tensor) -> tuple[Policy, Tensor]:
        if self.separate:
            return self.policy(observation), self.critic(observation)
        features = self.policy.torso(observation)
        return self.policy.head(features), self.critic(features).squeeze(1).float()
