"""Torsos: networks from observations to features.

Initial weights are torch's defaults (Kaiming-uniform, as in CleanRL and re-implementations of the Nature network).
"""

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Network = Literal["nature", "nips", "minatar", "data_efficient", "impala"]


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation of images [B, C, H, W] over the channels, separately at each pixel.

    With channels-last memory the permutation is a view.
    """

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image.movedim(1, -1)).movedim(-1, 1)


@dataclass(frozen=True)
class Convolutions:
    """Sizes of an image network: (channels, kernel, stride) of each convolution, and units of the linear layer."""

    layers: tuple[tuple[int, int, int], ...]
    features: int
    is_residual: bool = False
    """Whether each convolution is a stage of `residual_stage`."""


CONVOLUTIONS = {
    "nature": Convolutions(((32, 8, 4), (64, 4, 2), (64, 3, 1)), 512),
    "nips": Convolutions(((16, 8, 4), (32, 4, 2)), 256),
    "minatar": Convolutions(((16, 3, 1),), 128),
    "data_efficient": Convolutions(((32, 5, 5), (64, 5, 5)), 256),
    "impala": Convolutions(((16, 3, 1), (32, 3, 1), (32, 3, 1)), 256, is_residual=True),
}
"""nature: Mnih et al. 2015. nips: Mnih et al. 2013 (NIPS workshop), with a third of the arithmetic. minatar: Young and
Tian 2019, for images of 10 x 10. data_efficient: van Hasselt et al. 2019. impala: Espeholt et al. 2018."""


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))), both convolutions 3 x 3 with the channels of x [B, C, H, W] (He et al. 2016)."""

    def __init__(self, channels: int, layer_norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)]
            layers += [ChannelNorm(channels)] if layer_norm else []
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        # The first ReLU must not overwrite `image`, which the sum needs.
        branch: Tensor = self.layers(image)
        return image + branch


def residual_stage(inputs: int, channels: int, kernel: int, stride: int, layer_norm: bool) -> list[nn.Module]:
    """Return a stage of IMPALA's network: convolution, max-pooling that halves the image, two residual blocks."""
    norm = [ChannelNorm(channels)] if layer_norm else []
    first = nn.Conv2d(inputs, channels, kernel, stride=stride, padding=kernel // 2)
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    return [first, *norm, pool, Residual(channels, layer_norm), Residual(channels, layer_norm)]


def convolution_layers(channels: int, network: Network, layer_norm: bool, width: int = 1) -> list[nn.Module]:
    """Return the layers of `CONVOLUTIONS[network]` up to the last ReLU, with `width` times the channels."""
    sizes = CONVOLUTIONS[network]
    layers: list[nn.Module] = []
    for base, kernel, stride in sizes.layers:
        size = base * width
        if sizes.is_residual:
            layers += residual_stage(channels, size, kernel, stride, layer_norm)
        else:
            norm = [ChannelNorm(size)] if layer_norm else []
            layers += [nn.Conv2d(channels, size, kernel, stride=stride), *norm, nn.ReLU()]
        channels = size
    return [*layers, nn.ReLU()] if sizes.is_residual else layers


def scaled_pixels(observation: Tensor) -> Tensor:
    """Return uint8 images [B, C, H, W] as floats in [0, 1], channels-last in memory, in autocast's type."""
    device_type = observation.device.type
    autocast = torch.is_autocast_enabled(device_type)
    dtype = torch.get_autocast_dtype(device_type) if autocast else torch.float32
    # Converting to channels-last before the cast moves bytes, a quarter of the memory of floats.
    return observation.contiguous(memory_format=torch.channels_last).to(dtype).mul_(1 / 255)


class ImageTorso(nn.Module):
    """The convolutions and the linear layer of `CONVOLUTIONS[network]`, each followed by ReLU.

    Input: uint8 [B, C, H, W], which is divided by 255. Output: float32 [B, features]: 512 for nature, 256 for nips. For
    4 x 84 x 84: 1,684,128 or 676,144 parameters.

    Args:
        channels, height, width: of an observation.
        network: name in CONVOLUTIONS.
        layer_norm: normalise before each ReLU, as in Gallici et al. 2025: adds 1,344 or 608 parameters.
    """

    def __init__(
        self, channels: int, height: int, width: int, *, network: Network = "nature", layer_norm: bool = False
    ) -> None:
        super().__init__()
        self.features = CONVOLUTIONS[network].features
        self.convolutions = nn.Sequential(*convolution_layers(channels, network, layer_norm), nn.Flatten())
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, channels, height, width)).shape[1]
        self.linear = nn.Linear(flat, self.features)
        self.norm = nn.LayerNorm(self.features) if layer_norm else nn.Identity()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, observation: Tensor) -> Tensor:
        return torch.relu(self.norm(self.linear(self.convolutions(scaled_pixels(observation)))))


class MLPTorso(nn.Module):
    """Fully connected layers. Input: float [B, D]. Output: float32 [B, hidden[-1]].

    Args:
        inputs, hidden: D and the units of each layer.
        activation: activation after each layer.
        layer_norm: normalise before each activation: adds 2 * sum(hidden) parameters.
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
