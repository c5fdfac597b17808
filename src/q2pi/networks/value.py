"""Q-networks and state-value networks.

Initial weights of Q-networks are torch's defaults (Kaiming-uniform, as in CleanRL); those of state-value networks are
orthogonal (Huang et al. 2022, "The 37 Implementation Details of PPO", no. 2).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from q2pi.networks.initialisation import orthogonal
from q2pi.networks.options import Network
from q2pi.networks.output import OutputLayer
from q2pi.networks.torsos import Observation, allowed_actions, chain_of, layout_of, torso_for

LOWEST = torch.finfo(torch.float32).min
"""Q of a masked action."""


class QNetwork(nn.Module):
    """Observations [B, ...] -> Q [B, A], float32 also under autocast; masked actions have the lowest number, LOWEST."""

    def __init__(
        self,
        observation: Observation,
        actions: int,
        hidden: tuple[int, ...],
        *,
        network: Network = "auto",
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.observation = observation
        self.torso = torso_for(observation, hidden, network=network, layer_norm=layer_norm)
        self.head = OutputLayer(self.torso.features, actions)
        self.chain = chain_of(self.torso, self.head)
        self.has_masks = layout_of(observation).mask_size > 0

    def forward(self, observation: Tensor) -> Tensor:
        q = self.chain(observation)
        return masked(q, observation, self.observation) if self.has_masks else q

    def q_values(self, observation: Tensor) -> Tensor:
        """Return Q [B, A] for acting; override it if `forward` returns something else, such as quantiles."""
        q: Tensor = self(observation)
        return q


class MirroredQNetwork(QNetwork):
    """Acts by the mean of Q of an image [B, C, H, W] and Q of its mirror image, whose actions are mirrored, too.

    So it acts in a mirror image as in the image, mirrored. It is trained without the mean, on images and mirror images.

    Args:
        mirrored_action: mirror image of each of the A actions.
        options: of `QNetwork`.
    """

    def __init__(self, *arguments: Any, mirrored_action: Sequence[int], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.mirrored_action = list(mirrored_action)

    def q_values(self, observation: Tensor) -> Tensor:
        q: Tensor = self(torch.cat([observation, observation.flip(-1)]))
        of_image, of_mirror_image = q.chunk(2)
        return (of_image + of_mirror_image[:, self.mirrored_action]) / 2


def masked(q: Tensor, observation: Tensor, observed: Observation) -> Tensor:
    """Return Q [B, A] with LOWEST for the actions that the masks of observations [B, ...] do not allow.

    So no argmax selects them and no maximum is theirs, in acting, in targets and in the selector of Double DQN. The
    number is finite: 0 * -inf would be NaN.
    """
    allowed = allowed_actions(observation, observed)
    return q if allowed is None else q.masked_fill(~allowed, LOWEST)


class ValueNetwork(nn.Module):
    """Observations [B, ...] -> V [B], float32, through its own torso (tanh for vectors)."""

    def __init__(self, observation: Observation, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.torso = torso_for(observation, hidden, nn.Tanh)
        orthogonal(self.torso, math.sqrt(2))
        self.head = OutputLayer(self.torso.features, 1)
        orthogonal(self.head, 1.0)
        self.chain = chain_of(self.torso, self.head)

    def forward(self, observation: Tensor) -> Tensor:
        return self.chain(observation).squeeze(1)
