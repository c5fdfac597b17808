"""The network of Rainbow: an encoder, then fully connected streams that may be dueling, noisy and distributional.

Papers: Wang et al. 2016, "Dueling Network Architectures for Deep Reinforcement Learning"; Hessel et al. 2018 (Rainbow).

    observation -> convolutions, or the MLP but its last hidden layer -> features [B, F]
    features -> hidden layer -> ReLU -> output layer                      one stream, or two if dueling

With streams V and A, for each of the Z numbers of an action's distribution (Hessel et al., section "the integrated
agent"; Wang et al., equation 9, for Z = 1):

    output(a) = V + A(a) - mean over a' of A(a')

An implicit network multiplies the features with an embedding of each fraction before the streams.

Differences from the papers: the gradient that enters the convolutions is not scaled by 1 / sqrt(2).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from q2pi.envs.layout import Layout
from q2pi.networks import initialisation
from q2pi.networks.noisy import NoisyLinear
from q2pi.networks.options import CONVOLUTIONS, InitialWeights, Network, torso_of
from q2pi.networks.output import OutputLayer
from q2pi.networks.spectral import normalise_spectrally
from q2pi.networks.torsos import (
    Observation,
    Residual,
    convolution_layers,
    layout_of,
    scaled_pixels,
    torso_for,
)
from q2pi.networks.value import masked
from q2pi.networks.value_distributions import CosineEmbedding, Distribution, Expectation, Implicit


@dataclass(frozen=True)
class Architecture:
    """Sizes and switches of a network."""

    hidden: tuple[int, ...] = (120, 84)
    """Units of the hidden layers for vectors."""
    network: Network = "auto"
    """Convolutions for images."""
    width: int = 1
    """Factor of the convolutions' channels and of the hidden layer behind them."""
    pool: int = 0
    """Side of the adaptive max-pooling behind the convolutions; 0 disables it."""
    layer_norm: bool = False
    spectral_norm: bool = False
    """Spectral normalisation: of the residual blocks' convolutions, of all convolutions of a network without residual
    blocks, and of the MLP's hidden layers before the last."""
    dueling: bool = False
    sigma: float | None = None
    """Initial noise of the fully connected layers; None without noise."""
    noise_rows: int = 1
    """Number of environments, see `NoisyLinear`."""
    cosines: int = 64
    """Size of an implicit network's embedding."""
    initial_weights: InitialWeights = "torch"


class ImageEncoder(nn.Module):
    """Images [B, C, H, W] -> features [B, F]: the convolutions of `Architecture.network`, flattened."""

    def __init__(self, layout: Layout, architecture: Architecture) -> None:
        super().__init__()
        (image,) = layout.parts
        shape = (layout.stack * image.shape[0], *image.shape[1:])
        network, self.scale = torso_of(architecture.network, shape[1], shape[2]), image.scale
        layers = convolution_layers(shape[0], network, architecture.layer_norm, architecture.width)
        if architecture.pool:
            layers.append(nn.AdaptiveMaxPool2d(architecture.pool))
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            self.features = self.convolutions(torch.zeros(1, *shape)).shape[1]
        self.hidden = CONVOLUTIONS[network].features * architecture.width
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, observation: Tensor) -> Tensor:
        features: Tensor = self.convolutions(scaled_pixels(observation, self.scale))
        return features

    def normalised_layers(self) -> list[nn.Module]:
        """Return the layers that spectral normalisation applies to."""
        blocks = [layer for layer in self.convolutions if isinstance(layer, Residual)]
        within: list[nn.Module] = [*blocks] if blocks else [self.convolutions]
        return [layer for block in within for layer in block.modules() if isinstance(layer, nn.Conv2d)]


class VectorEncoder(nn.Module):
    """Vectors, indices or several parts -> features [B, F]: the torso without the last hidden layer."""

    def __init__(self, layout: Layout, architecture: Architecture) -> None:
        super().__init__()
        *before, self.hidden = architecture.hidden
        options: Any = {"network": architecture.network, "layer_norm": architecture.layer_norm}
        self.layers = torso_for(layout, tuple(before), **options)
        self.features = self.layers.features

    def forward(self, observation: Tensor) -> Tensor:
        features: Tensor = self.layers(observation)
        return features

    def normalised_layers(self) -> list[nn.Module]:
        return [layer for layer in self.layers.modules() if isinstance(layer, nn.Linear)]


class RainbowNetwork(nn.Module):
    """Observations -> the output of a `Distribution`: Q [B, A], or [B, A, Z].

    Args:
        observation: shape [C, H, W] or [D], or the layout of its parts.
        actions: A.
        architecture: sizes and switches.
        distribution: what the output means.
    """

    def __init__(
        self,
        observation: Observation,
        actions: int,
        architecture: Architecture,
        distribution: Distribution,
    ) -> None:
        super().__init__()
        self.architecture, self.distribution, self.actions = architecture, distribution, actions
        self.layout = layout_of(observation)
        is_image = len(self.layout.parts) == 1 and self.layout.parts[0].kind == "image"
        self.encoder = (ImageEncoder if is_image else VectorEncoder)(self.layout, architecture)
        self.embedding = None
        if isinstance(distribution, Implicit):
            self.embedding = CosineEmbedding(architecture.cosines, self.encoder.features)
        self.value = self._stream(distribution.outputs) if architecture.dueling else None
        self.advantage = self._stream(actions * distribution.outputs)
        initialisation.initialise(self, architecture.initial_weights)
        if architecture.spectral_norm:
            for layer in self.encoder.normalised_layers():
                normalise_spectrally(layer)

    def _stream(self, outputs: int) -> nn.Module:
        """Return a hidden layer, ReLU and an output layer."""
        hidden = self.encoder.hidden
        norm = [nn.LayerNorm(hidden)] if self.architecture.layer_norm else []
        return nn.Sequential(
            self._linear(self.encoder.features, hidden, is_output=False),
            *norm,
            nn.ReLU(),
            self._linear(hidden, outputs, is_output=True),
        )

    def _linear(self, inputs: int, outputs: int, *, is_output: bool) -> nn.Module:
        a = self.architecture
        if a.sigma is not None:
            return NoisyLinear(inputs, outputs, a.sigma, a.noise_rows, is_output=is_output)
        return OutputLayer(inputs, outputs) if is_output else nn.Linear(inputs, outputs)

    def forward(self, observation: Tensor, fractions: Tensor | None = None) -> Tensor:
        """Return the output of the distribution.

        Args:
            observation: [B, ...].
            fractions: [B, N] of an implicit network; None uses the midpoints for acting.
        """
        features = self.encoder(observation)  # [B, F]
        if self.embedding is not None:
            if fractions is None:
                fractions = self.distribution.midpoints.expand(len(features), -1)  # type: ignore[operator]
            features = features.unsqueeze(1) * self.embedding(fractions)  # [B, N, F]
        output: Tensor = self.advantage(features).unflatten(-1, (self.actions, -1))  # [B, (N,) A, Z]
        if self.value is not None:
            output = self.value(features).unsqueeze(-2) + output - output.mean(dim=-2, keepdim=True)
        if self.embedding is not None:
            return output.squeeze(-1).transpose(1, 2)  # [B, A, N]
        return output.squeeze(-1) if isinstance(self.distribution, Expectation) else output

    def q_values(self, observation: Tensor) -> Tensor:
        """Return Q [B, A] for acting, LOWEST for masked actions."""
        return masked(self.distribution.q(self(observation)), observation, self.layout)
