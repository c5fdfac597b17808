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

from q2pi.equations.distributions import (
    Categorical,
    DiagonalGaussian,
    MultiBernoulli,
    MultiCategorical,
    SquashedGaussian,
)
from q2pi.errors import UserError
from q2pi.networks.action_spaces import kind_of
from q2pi.networks.initialisation import orthogonal
from q2pi.networks.output import OutputLayer
from q2pi.networks.torsos import Observation, allowed_actions, chain_of, layout_of, torso_for
from q2pi.networks.value import ValueNetwork


class Policy(Protocol):
    """A batch of B distributions over actions."""

    def log_prob(self, action: Tensor) -> Tensor: ...

    def entropy(self) -> Tensor: ...

    def mode(self) -> Tensor: ...


class PolicyHead(nn.Module):
    """Features -> a policy: an output layer, and a distribution made of what it returns."""

    @property
    def layer(self) -> OutputLayer:
        """The output layer."""
        raise NotImplementedError

    def policy(self, output: Tensor) -> Any:
        """Return the policy at outputs [B, size] of the layer."""
        raise NotImplementedError

    def forward(self, features: Tensor) -> Any:
        return self.policy(self.layer(features))


class CategoricalHead(PolicyHead):
    """Features -> a policy over the actions 0 .. A - 1 of a `Discrete` space."""

    action_shape: tuple[int, ...] = ()
    action_dtype = np.dtype(np.int64)

    def __init__(self, features: int, actions: int, start: int) -> None:
        super().__init__()
        self.start = start
        self.logits = _logits(features, actions)

    @property
    def layer(self) -> OutputLayer:
        return self.logits

    def policy(self, output: Tensor) -> Categorical:
        return Categorical(output, may_mask=False)

    def masked(self, policy: Categorical, allowed: Tensor) -> Categorical:
        """Return the policy with probability 0 for actions that `allowed`, bool [B, A], does not allow."""
        return Categorical(policy.logits.masked_fill(~allowed, -math.inf))

    def sample(self, policy: Categorical, generator: np.random.Generator) -> Tensor:
        """Return sampled actions, int64 [B]; each uses one number of `generator`."""
        return policy.sample(torch.from_numpy(generator.random(len(policy.logits))).to(policy.logits))

    def to_env_action(self, action: Tensor) -> NDArray[Any]:
        """Return actions [B] in the environment's numbering, which starts at `start`."""
        return action.cpu().numpy() + self.start


class MultiCategoricalHead(PolicyHead):
    """Features -> a policy over the vectors of a `MultiDiscrete` space, one categorical per component."""

    action_dtype = np.dtype(np.int64)

    def __init__(self, features: int, space: Any) -> None:
        super().__init__()
        self.space = space
        sizes = np.asarray(space.nvec).reshape(-1)
        self.action_shape = (len(sizes),)
        self.largest = int(sizes.max())
        slots = [d * self.largest + action for d, size in enumerate(sizes) for action in range(size)]
        self.register_buffer("slots", torch.tensor(slots), persistent=False)
        self.logits = _logits(features, len(slots))

    @property
    def layer(self) -> OutputLayer:
        return self.logits

    def policy(self, output: Tensor) -> MultiCategorical:
        return MultiCategorical(self._padded(output, -torch.inf))

    def masked(self, policy: MultiCategorical, allowed: Tensor) -> MultiCategorical:
        """Return the policy with probability 0 for actions that `allowed`, bool [B, sum(nvec)], does not allow."""
        return MultiCategorical(policy.logits.masked_fill(~self._padded(allowed, False), -math.inf))

    def _padded(self, values: Tensor, filler: float) -> Tensor:
        """Return values [B, sum of the sizes] as [B, D, M], with the filler for actions that a component lacks."""
        padded = values.new_full((len(values), self.action_shape[0] * self.largest), filler)
        return padded.index_copy(1, self.get_buffer("slots"), values).reshape(len(values), -1, self.largest)

    def sample(self, policy: MultiCategorical, generator: np.random.Generator) -> Tensor:
        """Return sampled actions, int64 [B, D]."""
        return policy.sample(_uniform(generator, policy.logits[..., 0]))

    def to_env_action(self, action: Tensor) -> NDArray[Any]:
        """Return actions [B, *shape] in the environment's numbering, which starts at `start`."""
        shaped = action.cpu().numpy().reshape(len(action), *self.space.shape)
        env_action: NDArray[Any] = (shaped + self.space.start).astype(self.space.dtype)
        return env_action


class MultiBernoulliHead(PolicyHead):
    """Features -> a policy over the vectors of a `MultiBinary` space."""

    action_dtype = np.dtype(np.int64)

    def __init__(self, features: int, space: Any) -> None:
        super().__init__()
        self.space = space
        self.action_shape = (math.prod(space.shape),)
        self.logits = _logits(features, self.action_shape[0])

    @property
    def layer(self) -> OutputLayer:
        return self.logits

    def policy(self, output: Tensor) -> MultiBernoulli:
        return MultiBernoulli(output)

    def sample(self, policy: MultiBernoulli, generator: np.random.Generator) -> Tensor:
        """Return sampled actions, int64 [B, D]."""
        return policy.sample(_uniform(generator, policy.logits))

    def to_env_action(self, action: Tensor) -> NDArray[Any]:
        """Return actions [B, *shape] of the space's type."""
        env_action: NDArray[Any] = action.cpu().numpy().reshape(len(action), *self.space.shape).astype(self.space.dtype)
        return env_action


def _logits(features: int, size: int) -> OutputLayer:
    """Return the layer of a head's logits, whose policy is at first nearly uniform."""
    layer = OutputLayer(features, size)
    orthogonal(layer, 0.01)
    return layer


def _uniform(generator: np.random.Generator, like: Tensor) -> Tensor:
    """Return numbers in [0, 1) of the shape and on the device of a tensor."""
    return torch.from_numpy(generator.random(tuple(like.shape))).to(like)


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


class GaussianHead(PolicyHead):
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
        self.space, self.squash = space, squash
        self.action_shape = (math.prod(space.shape),)
        for name, bound in (("low", space.low), ("high", space.high)):
            flat = torch.from_numpy(np.asarray(bound, np.float32).reshape(-1).copy())
            self.register_buffer(name, flat, persistent=False)
        width = self.high - self.low
        if squash and not (width.isfinite() & (width > 0)).all():
            raise UserError(f"--squash needs actions with finite bounds, each low below its high, not {space}")
        self.mean = OutputLayer(features, self.action_shape[0])
        self.log_std = nn.Parameter(torch.full(self.action_shape, log_std))
        orthogonal(self.mean, 0.01)

    @property
    def layer(self) -> OutputLayer:
        return self.mean

    def policy(self, output: Tensor) -> DiagonalGaussian:
        log_std = self.log_std.expand_as(output)
        if self.squash:
            return PreTanhGaussian(output, log_std, self.low, self.high)
        return DiagonalGaussian(output, log_std)

    def sample(self, policy: DiagonalGaussian, generator: np.random.Generator) -> Tensor:
        """Return sampled actions [B, D], unbounded."""
        noise = generator.standard_normal(tuple(policy.mean.shape), dtype=np.float32)
        return policy.sample(torch.from_numpy(noise).to(policy.mean))

    def to_env_action(self, action: Tensor) -> NDArray[Any]:
        """Return actions [B, *shape] of the space's type, within its bounds."""
        if self.squash:
            action = SquashedGaussian(action, torch.zeros_like(action), self.low, self.high).mode()
        return within_box(action.cpu().numpy().reshape(len(action), *self.space.shape), self.space)


def within_box(action: NDArray[Any], space: Any) -> NDArray[Any]:
    """Return the nearest members [B, *shape] of a `Box` to actions [B, *shape] of floats; integers are rounded.

    The bounds are applied in the type of the space: 0.1 in float32 is larger than 0.1 in float64.

    Raises:
        FloatingPointError: an action is NaN.
    """
    if np.isnan(action).any():
        raise FloatingPointError("an action is NaN")
    dtype, low, high = space.dtype, space.low, space.high
    if dtype.kind == "f":
        largest = float(np.finfo(dtype).max)
        finite = action if dtype == action.dtype else np.clip(action.astype(np.float64), -largest, largest)
        members: NDArray[Any] = np.clip(finite.astype(dtype, copy=False), low, high)
        return members
    values = np.rint(action.astype(np.float64))
    inside = (values > low.astype(np.float64)) & (values < high.astype(np.float64))
    # Only numbers inside are cast: the largest int64 is no float64, and a cast beyond it gives the smallest.
    cast = np.where(inside, values, 0).astype(dtype)
    return np.where(inside, cast, np.where(values >= high.astype(np.float64), high, low)).astype(dtype)


def policy_head(features: int, space: Any, *, log_std: float = 0.0, squash: bool = False) -> Any:
    """Return the policy head for an action space that `serves` accepts.

    Raises:
        UserError: `squash` for a space that is no `Box` with finite bounds.
    """
    kind = kind_of(space)
    if kind == "Box":
        return GaussianHead(features, space, log_std=log_std, squash=squash)
    if squash:
        raise UserError(f"--squash is for Box actions, not for {space}")
    if kind == "Discrete":
        return CategoricalHead(features, int(space.n), int(space.start))
    return MultiCategoricalHead(features, space) if kind == "MultiDiscrete" else MultiBernoulliHead(features, space)


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
        self.chain = chain_of(self.torso, self.head.layer)
        self.has_masks = layout_of(observation).mask_size > 0

    def forward(self, observation: Tensor) -> Policy:
        return self.masked(self.head.policy(self.chain(observation)), observation)

    def masked(self, policy: Policy, observation: Tensor) -> Policy:
        """Return the policy with probability 0 for the actions that a mask in observations [B, ...] does not allow."""
        if not self.has_masks:
            return policy
        allowed = allowed_actions(observation, self.observation)
        masked: Policy = self.head.masked(policy, allowed)  # only Discrete and MultiDiscrete actions have masks
        return masked


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
        return self.policy.masked(self.policy.head(features), observation), self.critic(features).squeeze(1)

    def value(self, observation: Tensor) -> Tensor:
        """Return V [B] at observations [B, ...], without the policy."""
        critic = self.critic
        value: Tensor = critic(observation) if self.separate else critic(self.policy.torso(observation)).squeeze(1)
        return value
