"""The last layer of a network, in fp32 whatever the precision of the others.

With 8 significant bits, as bf16 has, Q-values of 3 are 0.016 apart: actions whose values differ by less tie, and the
greedy action is the one of lowest index.
"""

import torch
from torch import Tensor, nn


class OutputLayer(nn.Linear):
    """A linear layer that computes in fp32, also under autocast and in a bf16 copy of its network."""

    def forward(self, features: Tensor) -> Tensor:
        kind = features.device.type
        if not torch.is_autocast_enabled(kind):
            return super().forward(features)
        with torch.autocast(kind, enabled=False):
            return super().forward(features.float())
