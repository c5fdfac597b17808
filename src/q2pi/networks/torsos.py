"""Torsos: networks from observations to features.

Initial weights are torch's defaults (Kaiming-uniform, as in CleanRL and re-implementations of the Nature network).
"""

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, one_hot, pad

from q2pi.envs.layout import BYTE, Layout
from q2pi.networks.chain import Chain
from q2pi.networks.options import CONVOLUTIONS, Network, torso_of

Observation = tuple[int, ...] | Layout
"""The shape of a stacked observation, [C, H, W] or [D], or the layout of its parts."""


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation of images [B, C, H, W] over the channels, separately at each pixel.

    With channels-last memory the permutation is a view.
    """

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image.movedim(1, -1)).movedim(-1, 1)


class PaddedConvolution(nn.Conv2d):
    """A convolution whose output has ceil(H / stride) rows and ceil(W / stride) columns: SAME of TensorFlow and Flax.

    The image is padded with zeros, by one more at the bottom and on the right if their number is odd.
    """

    def forward(self, image: Tensor) -> Tensor:
        (top, bottom), (left, right) = (
            self._padding(side, kernel, stride)
            for side, kernel, stride in zip(image.shape[2:], self.kernel_size, self.stride, strict=True)
        )
        if top == bottom and left == right:
            return conv2d(image, self.weight, self.bias, self.stride, (top, left))
        return conv2d(pad(image, (left, right, top, bottom)), self.weight, self.bias, self.stride)

    @staticmethod
    def _padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        return total // 2, total - total // 2


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
            convolution = PaddedConvolution if sizes.is_padded else nn.Conv2d
            layers += [convolution(channels, size, kernel, stride=stride), *norm, nn.ReLU()]
        channels = size
    return [*layers, nn.ReLU()] if sizes.is_residual else layers


def scaled_pixels(observation: Tensor, scale: float = BYTE) -> Tensor:
    """Return images [B, C, H, W] divided by `scale`, channels-last in memory, in autocast's type; a new tensor."""
    device_type = observation.device.type
    autocast = torch.is_autocast_enabled(device_type)
    dtype = torch.get_autocast_dtype(device_type) if autocast else torch.float32
    # Converting to channels-last before the cast moves bytes, a quarter of the memory of floats.
    pixels = _channels_last(observation).to(dtype)
    # In place only if the cast has made a copy: floats would be scaled in the caller's batch.
    return pixels.mul_(1 / scale) if observation.dtype == torch.uint8 else pixels * (1 / scale)


def _channels_last(images: Tensor) -> Tensor:
    """Return images [B, C, H, W] channels-last in memory."""
    if images.device.type == "cpu" and images.is_contiguous():
        return torch.stack(images.unbind(1), dim=-1).movedim(-1, 1)  # in half the time of torch's copy
    return images.contiguous(memory_format=torch.channels_last)


class ImageTorso(nn.Module):
    """The convolutions and the linear layer of `CONVOLUTIONS[network]`, each followed by ReLU.

    Input: [B, C, H, W], uint8 or float32, which is divided by `scale`. Output: float32 [B, features]: 512 for nature,
    256 for nips, 128 for minatar. For 4 x 84 x 84 nature has 1,684,128 parameters, dopamine 4,043,424, nips 676,144.

    Args:
        channels, height, width: of an observation.
        network: name in CONVOLUTIONS, or auto, see `torso_of`.
        layer_norm: normalise before each ReLU, as in Gallici et al. 2025: adds 1,344 or 608 parameters.
        scale: the pixel that is read as 1.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        *,
        network: Network = "auto",
        layer_norm: bool = False,
        scale: float = BYTE,
    ) -> None:
        super().__init__()
        self.scale = scale
        network = torso_of(network, height, width)
        self.features = CONVOLUTIONS[network].features
        *convolutions, relu = convolution_layers(channels, network, layer_norm)
        # Flattened before the ReLU, whose gradient then has one memory layout: up to 7 % of a gradient's time.
        self.convolutions = nn.Sequential(*convolutions, nn.Flatten(), relu)
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, channels, height, width)).shape[1]
        self.linear = nn.Linear(flat, self.features)
        self.norm = nn.LayerNorm(self.features) if layer_norm else nn.Identity()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, observation: Tensor) -> Tensor:
        pixels = scaled_pixels(observation, self.scale)
        return torch.relu(self.norm(self.linear(self.convolutions(pixels))))


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
        self.chain = Chain(as_float, *layers)

    def forward(self, observation: Tensor) -> Tensor:
        return self.chain(observation)


def as_float(observation: Tensor) -> Tensor:
    """Return an observation as float32."""
    return observation.to(torch.float32)


class JointTorso(nn.Module):
    """Torso of an observation of several parts, or of indices: one branch per image, then an MLP on everything.

        image parts -> ImageTorso each --+
        vector parts --------------------+-- concatenated -> MLPTorso
        indices -> one-hot vectors ------+

    The MLP follows the concatenation, so that features of images and numbers can interact. An action mask is not read.

    Input: packed observations [B, K * F], or indices [B, K * D]. Output: float32 [B, hidden[-1]].

    Args:
        layout: of an observation.
        hidden, activation: of the MLP.
        network, layer_norm: see `ImageTorso`.
    """

    def __init__(
        self,
        layout: Layout,
        hidden: tuple[int, ...],
        activation: type[nn.Module],
        *,
        network: Network,
        layer_norm: bool,
    ) -> None:
        super().__init__()
        self.layout = layout
        torsos: list[ImageTorso] = []
        for part in layout.images:
            channels, height, width = part.shape
            options: dict[str, Any] = {"network": network, "layer_norm": layer_norm, "scale": part.scale}
            torsos.append(ImageTorso(layout.stack * channels, height, width, **options))
        self.images = nn.ModuleList(torsos)
        others = layout.stack * sum(part.width for part in layout.parts if part.kind in ("vector", "one-hot"))
        inputs = others + sum(torso.features for torso in torsos)
        self.mlp = MLPTorso(inputs, hidden, activation, layer_norm=layer_norm)
        self.features = self.mlp.features

    def forward(self, observation: Tensor) -> Tensor:
        frames = observation.view(len(observation), self.layout.stack, -1)  # [B, K, F]
        images, inputs, start = iter(self.images), [], 0
        for part in self.layout.parts:
            entries = frames[:, :, start : start + part.length]  # [B, K, length]
            start += part.length
            if part.kind == "image":
                image = entries.reshape(len(observation), -1, *part.shape[1:])  # [B, K * C, H, W]
                inputs.append(next(images)(image).float())
            elif part.kind == "vector":
                inputs.append(entries.flatten(1).float())
            elif part.kind == "one-hot":
                inputs += [
                    one_hot(entries[:, :, index].long(), size).flatten(1).float()
                    for index, size in enumerate(part.sizes)
                ]
        features: Tensor = self.mlp(torch.cat(inputs, dim=1))
        return features


def torso_for(
    observation: Observation,
    hidden: tuple[int, ...],
    activation: type[nn.Module] = nn.ReLU,
    *,
    network: Network = "auto",
    layer_norm: bool = False,
) -> ImageTorso | MLPTorso | JointTorso:
    """Return the torso of an observation: `network` for an image, an MLP of sizes `hidden` for a vector, or both."""
    layout = layout_of(observation)
    part, *others = layout.parts
    if others or part.kind == "one-hot":
        return JointTorso(layout, hidden, activation, network=network, layer_norm=layer_norm)
    first, *size = part.shape
    if part.kind == "image":
        height, width = size
        channels = layout.stack * first
        return ImageTorso(channels, height, width, network=network, layer_norm=layer_norm, scale=part.scale)
    return MLPTorso(layout.stack * first, hidden, activation, layer_norm=layer_norm)


def chain_of(torso: nn.Module, head: nn.Module) -> Chain:
    """Return head(torso(observation)) as one chain; a plain MLP is called layer by layer."""
    return Chain(as_float, *torso.layers, head) if isinstance(torso, MLPTorso) else Chain(torso, head)


def layout_of(observation: Observation) -> Layout:
    """Return the layout of an observation of which the shape is known."""
    return observation if isinstance(observation, Layout) else Layout.of_shape(observation)


def allowed_actions(observation: Tensor, observed: Observation) -> Tensor | None:
    """Return which actions the newest mask of observations [B, ...] allows, bool [B, A], or None without masks."""
    size = layout_of(observed).mask_size
    return observation[:, -size:] != 0 if size else None
