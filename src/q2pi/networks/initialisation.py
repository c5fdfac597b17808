"""Torsos that turn observations into features, and heads that turn features into what an algorithm learns.

Parameters are initialised by torch's defaults (Kaiming-uniform, as in CleanRL and re-implementations of the Nature
network) under a generator of the run's own, so that a network is a pure function of the seed. Those of policies and
state values are initialised orthogonally (Huang et al. 2022, "The 37 Implementation Details of PPO", no. 2).
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from q2pi.rng import derive

Module = TypeVar("Module", bound=nn.Module)


def seeded(build: Callable[[], Module], seed: int, name: str) -> Module:
    """Return `build()` with its initial parameters drawn from the run's stream `name`, on the CPU.

    The global generator of torch is left as it was.
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
            # Channels-last weights cannot be viewed as matrices: draw in the plain layout, then copy.
            weight = nn.init.orthogonal_(torch.empty(layer.weight.shape), gain)
            with torch.no_grad():
                layer.weight.copy_(weight)
                assert layer.bias is not None
                layer.bias.zero_()
