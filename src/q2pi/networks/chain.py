"""Layers called one after another; plain ones as functions, since calling a module costs more than a small layer."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

FUNCTIONS: dict[type, Callable[[Tensor], Tensor]] = {nn.ReLU: torch.relu, nn.Tanh: torch.tanh}
NO_HOOKS: Mapping[int, Any] = {}


class Chain:
    """The outputs of `layers`, each called with the output of the one before: those of `nn.Sequential`, bit for bit.

    Without autocast a linear layer, also an output layer, is called as a function of its weights, and ReLU and tanh as
    functions. A layer with hooks or with a parametrized weight, and any other layer, is called as it is.
    """

    def __init__(self, *layers: Callable[[Tensor], Tensor]) -> None:
        self._layers = layers
        self._steps = [
            (
                FUNCTIONS.get(type(layer), layer),
                layer,
                layer._forward_hooks if isinstance(layer, nn.Module) else NO_HOOKS,
                layer._parameters if isinstance(layer, nn.Linear) else None,
            )
            for layer in layers
        ]

    def __call__(self, inputs: Tensor) -> Tensor:
        if torch.is_autocast_enabled(inputs.device.type):
            for layer in self._layers:
                inputs = layer(inputs)
            return inputs
        for function, layer, hooks, own in self._steps:
            if hooks:
                inputs = layer(inputs)
            elif own is None or "weight" not in own:
                inputs = function(inputs)
            else:
                inputs = nn.functional.linear(inputs, own["weight"], own["bias"])  # type: ignore[arg-type]
        return inputs
