"""Torsos that turn observations into features, and heads that turn features into what an algorithm learns.

Parameters are initialised by torch's defaults (Kaiming-uniform, as in CleanRL and re-implementations of the Nature
network) under a generator of the run's own, so that a network is a pure function of the seed. Those of policies and
state values are initialised orthogonally (Huang et al. 2022, "The 37 Implementation Details of PPO", no. 2).
"""

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from q2pi.equations.policies import Categorical, DiagonalGaussian, SquashedGaussian
from q2pi.errors import UserError
from q2pi.rng import derive

Module = TypeVar("Module", bound=nn.Module)
Network = Literal["nature", "nips"]


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation of images [B, C, H, W]: over the channels, each place by itself.

    With channels last in memory nothing is moved.
    """

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image.movedim(1, -1)).movedim(-1, 1)


@dataclass(frozen=True)
class Convolutions:
    """Sizes of a network for images: (channels, kernel, stride) of each convolution, then the units of one layer."""

    layers: tuple[tuple[int, int, int], ...]
    features: int


CONVOLUTIONS = {
    "nature": Convolutions(((32, 8, 4), (64, 4, 2), (64, 3, 1)), 512),
    "nips": Convolutions(((16, 8, 4), (32, 4, 2)), 256),
}
"""Mnih et al. 2015 in Nature, and Mnih et al. 2013 at the NIPS workshop: a third of the arithmetic."""


class ImageTorso(nn.Module):
    """The convolutions and the one layer of `CONVOLUTIONS[network]`, ReLU after each.

    Input: uint8 [B, C, H, W], divided by 255 here. Output: float32 [B, features]: 512 for nature, 256 for nips. For
    4 x 84 x 84: 1,684,128 parameters, or 676,144.

    Args:
        channels, height, width: of an observation.
        network: nature or nips.
        layer_norm: normalise before each ReLU, as in Gallici et al. 2025: 1,344 parameters more, or 608.
    """

    def __init__(
        self, channels: int, height: int, width: int, *, network: Network = "nature", layer_norm: bool = False
    ) -> None:
        super().__init__()
        sizes = CONVOLUTIONS[network]
        self.features = sizes.features
        layers: list[nn.Module] = []
        inputs = channels
        for size, kernel, stride in sizes.layers:
            norm = [ChannelNorm(size)] if layer_norm else []
            layers += [nn.Conv2d(inputs, size, kernel, stride=stride), *norm, nn.ReLU()]
            inputs = size
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, channels, height, width)).shape[1]
        self.linear = nn.Linear(flat, self.features)
        self.norm = nn.LayerNorm(self.features) if layer_norm else nn.Identity()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, observation: Tensor) -> Tensor:
        kind = observation.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        # Laying out the bytes before widening them moves a quarter of the memory.
        pixels = observation.contiguous(memory_format=torch.channels_last).to(dtype).mul_(1 / 255)
        return torch.relu(self.norm(self.linear(self.convolutions(pixels))))


class MLPTorso(nn.Module):
    """Fully connected layers, ReLU unless told. Input: float [B, D]. Output: float32 [B, hidden[-1]].

    Args:
        inputs, hidden: D and the units of each layer.
        activation: what follows each layer.
        layer_norm: normalise before each activation: 2 * sum(hidden) parameters more.
    """

    def __init__(
        self,
        inputs: int,
        hidden: tuple[int, ...],
        activation: type[nn.Module] = nn.ReLU,
        *,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = (inputs, *hidden)
        self.features = sizes[-1]
        layers: list[nn.Module] = []
        for size_in, size_out in itertools.pairwise(sizes):
            norm = [nn.LayerNorm(size_out)] if layer_norm else []
            layers += [nn.Linear(size_in, size_out), *norm, activation()]
        self.layers = nn.Sequential(*layers)

    def forward(self, observation: Tensor) -> Tensor:
        features: Tensor = self.layers(observation.to(torch.float32))
        return features


def torso_for(
    observation_shape: tuple[int, ...],
    hidden: tuple[int, ...],
    activation: type[nn.Module] = nn.ReLU,
    *,
    network: Network = "nature",
    layer_norm: bool = False,
) -> ImageTorso | MLPTorso:
    """Return the torso `network` for images [C, H, W] and an MLP of sizes `hidden` for vectors [D]."""
    if len(observation_shape) == 3:
        return ImageTorso(*observation_shape, network=network, layer_norm=layer_norm)
    return MLPTorso(observation_shape[0], hidden, activation, layer_norm=layer_norm)


class QNetwork(nn.Module):
    """One value per action: observations [B, ...] -> Q [B, A], float32 whatever the precision inside."""

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        actions: int,
        hidden: tuple[int, ...],
        *,
        network: Network = "nature",
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.torso = torso_for(observation_shape, hidden, network=network, layer_norm=layer_norm)
        self.head = nn.Linear(self.torso.features, actions)

    def forward(self, observation: Tensor) -> Tensor:
        q: Tensor = self.head(self.torso(observation))
        return q.float()


class Rounded:
    """A network that is only read: in bf16 its layers' weights are rounded once, and not by autocast in every forward.

    What `network` gives under autocast is the same to the bit; `refresh` follows the original when that has moved.
    """

    def __init__(self, original: nn.Module, precision: str) -> None:
        self.original = self.network = original
        if precision == "bf16":
            self.network = copy.deepcopy(original).requires_grad_(False)
            for layer in self.network.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    layer.to(torch.bfloat16)

    def refresh(self) -> None:
        """Round the original's weights as they are now, in place: a captured graph sees it."""
        if self.network is self.original:
            return
        with torch.no_grad():
            for rounded, exact in zip(self.network.parameters(), self.original.parameters(), strict=True):
                rounded.copy_(exact)


def seeded(build: Callable[[], Module], seed: int, name: str) -> Module:
    """Return `build()` with its initial parameters drawn from the run's stream `name`, on the CPU.

    The global generator of torch is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, f"init/{name}"))
        return build()


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

    def played(self, action: Tensor) -> NDArray[Any]:
        """Return actions [B] as the game counts them."""
        return action.cpu().numpy() + self.start


@dataclass(frozen=True, eq=False)
class Unsquashed(DiagonalGaussian):
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
        return Unsquashed(mean, log_std, self.low, self.high) if self.squash else DiagonalGaussian(mean, log_std)

    def sample(self, policy: DiagonalGaussian, generator: np.random.Generator) -> Tensor:
        """Return actions [B, D], unbounded."""
        noise = generator.standard_normal(tuple(policy.mean.shape), dtype=np.float32)
        return policy.sample(torch.from_numpy(noise).to(policy.mean))

    def played(self, action: Tensor) -> NDArray[Any]:
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


class ValueNetwork(nn.Module):
    """Observations [B, ...] -> V [B], float32, through a torso of its own (tanh for vectors)."""

    def __init__(self, observation_shape: tuple[int, ...], hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.torso = torso_for(observation_shape, hidden, nn.Tanh)
        orthogonal(self.torso, math.sqrt(2))
        self.head = nn.Linear(self.torso.features, 1)
        orthogonal(self.head, 1.0)

    def forward(self, observation: Tensor) -> Tensor:
        value: Tensor = self.head(self.torso(observation))
        return value.squeeze(1).float()


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


def orthogonal(network: nn.Module, gain: float) -> None:
    """Make the weights of linear and convolutional layers orthogonal matrices times `gain`, and their biases 0.

    Source: Saxe et al. 2014.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            # Channels-last weights cannot be viewed as matrices: draw in the plain layout, then copy.
            weight = nn.init.orthogonal_(torch.empty(layer.weight.shape), gain)
            with torch.no_grad():
                layer.weight.copy_(weight)
                assert layer.bias is not None
                layer.bias.zero_()
