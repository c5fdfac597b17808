"""Noisy linear layers: exploration by noise on the weights, whose size is learned.

Paper: Fortunato et al. 2018, "Noisy Networks for Exploration", factorised Gaussian noise (section 3, equations 10, 11):

    y = (w + sigma_w * f(e_out) f(e_in)^T) x + b + sigma_b * f(e_out)        f(e) = sign(e) sqrt(|e|), e ~ N(0, 1)

Initial values: w, b ~ U(-1 / sqrt(p), 1 / sqrt(p)) and sigma_w, sigma_b = sigma / sqrt(p) for p inputs.

Difference from the paper: when acting, each environment has noise of its own. One draw for all would make them explore
in the same direction.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from q2pi.types import Array


class NoisyLinear(nn.Module):
    """A linear layer with noise: x [B, ..., inputs] -> [B, ..., outputs].

    The noise has `rows` rows: row i is for row i of a batch of `rows`; any other batch uses row 0 for all. Until
    `draw_noise` it is 0, and the layer computes with its mean weights. It belongs to no state: draw it before each use.

    Args:
        inputs, outputs: p and the units.
        sigma: initial standard deviation times sqrt(p).
        rows: number of environments.
        is_output: whether to compute in fp32 also under autocast, see `q2pi.networks.output`.
    """

    noise_in: Tensor
    noise_out: Tensor

    def __init__(self, inputs: int, outputs: int, sigma: float, rows: int = 1, *, is_output: bool = False) -> None:
        super().__init__()
        self.is_output = is_output
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), sigma * bound))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), sigma * bound))
        self.register_buffer("noise_in", torch.zeros(rows, inputs), persistent=False)
        self.register_buffer("noise_out", torch.zeros(rows, outputs), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        if self.is_output and torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                return self.forward(x.float())
        rows = len(self.noise_in) if len(x) == len(self.noise_in) else 1
        shape = (rows, *[1] * (x.dim() - 2), -1)
        noise_in, noise_out = self.noise_in[:rows].view(shape), self.noise_out[:rows].view(shape)
        mean = functional.linear(x, self.weight, self.bias)
        # (sigma_w * out in^T) x = out * (sigma_w (in * x)): no noisy weight matrix per row is needed.
        return mean + noise_out * functional.linear(noise_in * x, self.weight_sigma, self.bias_sigma)


def noisy_layers(network: nn.Module) -> Iterator[NoisyLinear]:
    """Yield the noisy layers of a network in the order of `modules()`."""
    return (layer for layer in network.modules() if isinstance(layer, NoisyLinear))


def draw_noise(network: nn.Module, rng: np.random.Generator, *, is_shared: bool) -> None:
    """Draw the noise of all layers, in place: a captured graph reads this memory.

    Args:
        network: the network; without noisy layers nothing is drawn.
        rng: source of randomness.
        is_shared: True draws one row for the whole batch, as an update needs; False one per environment.
    """
    layers = list(noisy_layers(network))
    if not layers:
        return
    sizes = [buffer.shape[1] for layer in layers for buffer in (layer.noise_in, layer.noise_out)]
    rows = 1 if is_shared else len(layers[0].noise_in)
    drawn = torch.from_numpy(factorised(rng.standard_normal((rows, sum(sizes)), np.float32)))
    # One transfer for all layers.
    parts = drawn.to(layers[0].noise_in.device).split(sizes, dim=1)
    for layer, noise_in, noise_out in zip(layers, parts[::2], parts[1::2], strict=True):
        layer.noise_in.copy_(noise_in.expand_as(layer.noise_in))
        layer.noise_out.copy_(noise_out.expand_as(layer.noise_out))


def factorised(normal: Array) -> Array:
    """Return f(e) = sign(e) sqrt(|e|) of standard normal numbers e."""
    noise: Array = np.sign(normal) * np.sqrt(np.abs(normal))
    return noise


def clear_noise(network: nn.Module) -> None:
    """Set the noise of all layers to 0, in place: the network computes with its mean weights."""
    for layer in noisy_layers(network):
        layer.noise_in.zero_()
        layer.noise_out.zero_()
