"""Spectral normalisation: a layer's weight divided by its largest singular value.

Papers: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks", algorithm 1; Gogianu et al.
2021, "Spectral Normalisation for Deep Reinforcement Learning".

    v = W^T u / |W^T u|,  u' = W v / |W v|,  sigma = u'^T W v,  weight = W / sigma       (no gradient through u' and v)

Difference from the paper: u takes the value of u' once per update (`power_iteration`), not in every forward pass.
Acting and evaluation thus change nothing.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

STARTING_ITERATIONS = 15


class SpectralNorm(nn.Module):
    """The parametrisation W -> W / sigma of a weight [outputs, ...], seen as a matrix [outputs, inputs]."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        # A parameter, so that the target network and checkpoints get it as they get weights.
        self.u = nn.Parameter(functional.normalize(torch.randn(len(weight)), dim=0), requires_grad=False)
        for _ in range(STARTING_ITERATIONS):
            self.iterate(weight)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            u, v = self.vectors(weight)
            return weight / (u @ weight.flatten(1) @ v)

    @torch.no_grad()
    def vectors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return (u', v): estimates of the singular vectors, one power iteration after `u`."""
        matrix = weight.detach().flatten(1)
        v = functional.normalize(matrix.T @ self.u, dim=0)
        return functional.normalize(matrix @ v, dim=0), v

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        """Move `u` by one power iteration, in place."""
        self.u.copy_(self.vectors(weight)[0])


def normalise_spectrally(layer: nn.Module) -> None:
    """Normalise the weight of a linear or convolutional layer, in place; initial weights must be final."""
    parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))  # type: ignore[arg-type]


def power_iteration(network: nn.Module) -> None:
    """Make one power iteration in each normalised layer of a network."""
    for layer in network.modules():
        if parametrize.is_parametrized(layer, "weight"):
            weight: Any = layer.parametrizations["weight"]  # type: ignore[index]
            weight[0].iterate(weight.original)
