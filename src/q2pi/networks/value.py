"""Q-networks and state-value networks.

Initial weights of Q-networks are torch's defaults (Kaiming-uniform, as in CleanRL); those of state-value networks are
orthogonal (Huang et al. 2022, "The 37 Implementation Details of PPO", no. 2).
"""

import math

from torch import Tensor, nn

from q2pi.networks.initialisation import orthogonal
from q2pi.networks.output import OutputLayer
from q2pi.networks.torsos import Network, torso_for


class QNetwork(nn.Module):
    """Observations [B, ...] -> Q [B, A], float32 also under autocast."""

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        actions: int,
        hidden: tuple[int, ...],
        *,
        network: Network = "nature",
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.torso = torso_for(observation_shape, hidden, network=network, layer_norm=layer_norm)
        self.head = OutputLayer(self.torso.features, actions)

    def forward(self, observation: Tensor) -> Tensor:
        q: Tensor = self.head(self.torso(observation))
        return q

    def q_values(self, observation: Tensor) -> Tensor:
        """Return Q [B, A] for acting; override it if `forward` returns something else, such as quantiles."""
        q: Tensor = self(observation)
        return q


class ValueNetwork(nn.Module):
    """Observations [B, ...] -> V [B], float32, through its own torso (tanh for vectors)."""

    def __init__(self, observation_shape: tuple[int, ...], hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.torso = torso_for(observation_shape, hidden, nn.Tanh)
        orthogonal(self.torso, math.sqrt(2))
        self.head = OutputLayer(self.torso.features, 1)
        orthogonal(self.head, 1.0)

    def forward(self, observation: Tensor) -> Tensor:
        value: Tensor = self.head(self.torso(observation))
        return value.squeeze(1)
