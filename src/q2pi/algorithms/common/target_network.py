"""The target network: a copy of the online network that is fixed between its updates."""

import copy
from typing import Any

from torch import Tensor, nn

from q2pi.acceleration.precision import Bf16Copy
from q2pi.networks.optimizer import polyak_update


class TargetNetwork:
    """Called as the online network is, without gradient.

    Args:
        online: the network that is trained.
        precision: fp32 or bf16; with bf16 the weights are cast once per update, not in every forward pass.
    """

    def __init__(self, online: nn.Module, precision: str) -> None:
        self.network = copy.deepcopy(online).requires_grad_(False)
        self._copy = Bf16Copy(self.network, precision)

    def __call__(self, *inputs: Tensor) -> Tensor:
        output: Tensor = self._copy.network(*inputs)
        return output

    @property
    def called(self) -> Any:
        """The network that a call evaluates: `network`, or its bf16 copy."""
        return self._copy.network

    def update(self, online: nn.Module, tau: float) -> None:
        """Move towards the online network by the share `tau`; 1 copies it."""
        polyak_update(self.network, online, tau)
        self._copy.refresh()

    def refresh(self) -> None:
        """Follow `network` after its weights were loaded."""
        self._copy.refresh()
