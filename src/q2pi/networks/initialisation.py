"""Initial weights: networks built from a named random stream of the run, and orthogonal initialisation."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from q2pi.rng import derive

Module = TypeVar("Module", bound=nn.Module)


def seeded(build: Callable[[], Module], seed: int, name: str) -> Module:
    """Return `build()`, a network on the CPU whose initial weights depend only on `seed` and `name`.

    The global generator of torch is not changed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, f"init/{name}"))
        return build()


def orthogonal(network: nn.Module, gain: float) -> None:
    """Make the weights of linear and convolutional layers orthogonal matrices times `gain`, and their biases 0.

    Source: Saxe et al. 2014.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            # orthogonal_ views a weight as a matrix, which fails for channels-last memory: initialise a copy.
            weight = nn.init.orthogonal_(torch.empty(layer.weight.shape), gain)
            with torch.no_grad():
                layer.weight.copy_(weight)
                assert layer.bias is not None
                layer.bias.zero_()
