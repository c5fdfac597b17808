"""Torsos that turn observations into features, and heads that turn features into what an algorithm learns.

Parameters are initialised by torch's defaults (Kaiming-uniform, as CleanRL's and the Nature network's re-implementations)
under a generator of the run's own, so that a network is a pure function of the seed.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from q2pi.rng import derive

Module = TypeVar("Module", bound=nn.Module)


class NatureTorso(nn.Module):
    """The convolutions of Mnih et al. 2015: 32 8x8/4, 64 4x4/2, 64 3x3/1, then 512 units, ReLU after each.

    Input: uint8 [B, C, H, W], divided by 255 here. Output: float32 [B, 512]. For 4 x 84 x 84: 1,684,128 parameters.
    """

    features = 512

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, channels, height, width)).shape[1]
        self.linear = nn.Linear(flat, self.features)
        self.to(memory_format=torch.channels_last)

    def forward(self, observation: Tensor) -> Tensor:
        kind = observation.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        # Laying out the bytes before widening them moves a quarter of the memory.
        pixels = observation.contiguous(memory_format=torch.channels_last).to(dtype).mul_(1 / 255)
        return torch.relu(self.linear(self.convolutions(pixels)))


class MLPTorso(nn.Module):
    """Fully connected layers with ReLU. Input: float [B, D]. Output: float32 [B, hidden[-1]]."""

    def __init__(self, inputs: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        sizes = (inputs, *hidden)
        self.features = sizes[-1]
        layers: list[nn.Module] = []
        for size_in, size_out in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(size_in, size_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, observation: Tensor) -> Tensor:
        features: Tensor = self.layers(observation.to(torch.float32))
        return features


def torso_for(observation_shape: tuple[int, ...], hidden: tuple[int, ...]) -> NatureTorso | MLPTorso:
    """Return the Nature torso for images [C, H, W] and an MLP of sizes `hidden` for vectors [D]."""
    if len(observation_shape) == 3:
        return NatureTorso(*observation_shape)
    return MLPTorso(observation_shape[0], hidden)


class QNetwork(nn.Module):
    """One value per action: observations [B, ...] -> Q [B, A], float32 whatever the precision inside."""

    def __init__(self, observation_shape: tuple[int, ...], actions: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.torso = torso_for(observation_shape, hidden)
        self.head = nn.Linear(self.torso.features, actions)

    def forward(self, observation: Tensor) -> Tensor:
        q: Tensor = self.head(self.torso(observation))
        return q.float()


def seeded(build: Callable[[], Module], seed: int, name: str) -> Module:
    """Return `build()` with its initial parameters drawn from the run's stream `name`, on the CPU.

    The global generator of torch is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, f"init/{name}"))
        return build()
