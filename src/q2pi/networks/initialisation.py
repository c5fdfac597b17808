"""Initial weights: networks built from a named random stream of the run, and the distributions of published agents."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from q2pi.networks.options import InitialWeights
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


def initialise(network: nn.Module, weights: InitialWeights) -> None:
    """Draw the weights of linear and convolutional layers anew, from U(-a, a), and set their biases to 0.

        torch               left as torch draws them: Kaiming-uniform, a = 1 / sqrt(fan_in), biases too (CleanRL)
        xavier_uniform      a = sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010; Dopamine's DQN)
        variance_scaling    a = sqrt(3 * s / fan_in) with s = 1 / sqrt(3) (Dopamine's Rainbow, QR-DQN and IQN)

    Args:
        network: its layers are changed in place, in the order of `modules()`.
        weights: name of the distribution.
    """
    if weights == "torch":
        return
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(layer.weight)
            bound = (6 / (fan_in + fan_out)) ** 0.5 if weights == "xavier_uniform" else (3**0.5 / fan_in) ** 0.5
            # Channels-last weights are filled in memory order: draw in the plain layout, so that layouts agree.
            drawn = torch.empty(layer.weight.shape).uniform_(-bound, bound)
            with torch.no_grad():
                layer.weight.copy_(drawn)
                assert layer.bias is not None
                layer.bias.zero_()
