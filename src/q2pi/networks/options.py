"""What hyperparameters say of a network, and the sizes that follow; no torch or numpy, to read configurations fast."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from q2pi.envs.layout import Layout

LARGEST_ONE_HOT = 100_000
"""Most values that the indices of an observation may have together: each is one input of the network."""

Network = Literal["auto", "nature", "dopamine", "nips", "minatar", "data_efficient", "impala"]
"""Names of convolutions for images; auto selects by size, see `torso_of`."""
InitialWeights = Literal["torch", "xavier_uniform", "variance_scaling"]
"""Distributions of initial weights, see `networks.initialisation.initialise`."""
Kind = Literal["none", "categorical", "quantile", "implicit"]
"""Kinds of value distributions, see `networks.value_distributions`."""


@dataclass(frozen=True)
class Convolutions:
    """Sizes of an image network: (channels, kernel, stride) of each convolution, and units of the linear layer."""

    layers: tuple[tuple[int, int, int], ...]
    features: int
    is_residual: bool = False
    """Whether each convolution is a stage of `residual_stage`."""
    is_padded: bool = False
    """Whether each convolution is a `PaddedConvolution`."""


CONVOLUTIONS = {
    "nature": Convolutions(((32, 8, 4), (64, 4, 2), (64, 3, 1)), 512),
    "dopamine": Convolutions(((32, 8, 4), (64, 4, 2), (64, 3, 1)), 512, is_padded=True),
    "nips": Convolutions(((16, 8, 4), (32, 4, 2)), 256),
    "minatar": Convolutions(((16, 3, 1),), 128),
    "data_efficient": Convolutions(((32, 5, 5), (64, 5, 5)), 256),
    "impala": Convolutions(((16, 3, 1), (32, 3, 1), (32, 3, 1)), 256, is_residual=True),
}
"""nature: Mnih et al. 2015. dopamine: the same with padding, as in Dopamine (Castro et al. 2018). nips: Mnih et al.
2013 (NIPS workshop), with a third of the arithmetic. minatar: Young and Tian 2019, for images of 10 x 10.
data_efficient: van Hasselt et al. 2019. impala: Espeholt et al. 2018."""


def smallest_side(network: Network) -> int:
    """Return the least height and width, in pixels, of an image that the convolutions of a network fit into."""
    if CONVOLUTIONS[network].is_residual or CONVOLUTIONS[network].is_padded:
        return 1
    side = 1
    for _, kernel, stride in reversed(CONVOLUTIONS[network].layers):
        side = (side - 1) * stride + kernel
    return side


def torso_of(network: Network, height: int, width: int) -> Network:
    """Return the torso for an image: `network`, or for auto nature if it fits (from 36 pixels on), else minatar."""
    if network != "auto":
        return network
    return "nature" if min(height, width) >= smallest_side("nature") else "minatar"


def misfit(layout: "Layout", network: Network) -> str | None:
    """Return why no torso can read a layout, in words that follow the name of the environment, or None."""
    for part in layout.images:
        _, height, width = part.shape
        chosen = torso_of(network, height, width)
        if min(height, width) < (side := smallest_side(chosen)):
            return (
                f"images of {height} x {width} pixels: --network {chosen} needs at least {side} x {side} "
                "(--network auto selects by size, --resize 84 84 enlarges)"
            )
    values = layout.stack * sum(part.width for part in layout.parts if part.kind == "one-hot")
    if values > LARGEST_ONE_HOT:
        return f"{values} values of Discrete observations, at most {LARGEST_ONE_HOT} fit a network: use q_learning"
    return None
