"""Output layers in fp32: what bf16 did to networks whose values are as large as trained ones."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from q2pi.acceleration.precision import Bf16Copy
from q2pi.algorithms.common.epsilon_greedy import greedy_actions
from q2pi.networks.initialisation import seeded
from q2pi.networks.output import OutputLayer
from q2pi.networks.policy import ActorCritic
from q2pi.networks.value import QNetwork

BF16 = torch.autocast("cpu", torch.bfloat16)


def trained(seed: int) -> tuple[QNetwork, Tensor]:
    """Return a Q-network whose values are 3 on average, the two greatest some 0.01 apart, and 1024 observations."""
    network = seeded(lambda: QNetwork((4, 84, 84), 6, (1,)), seed, "network")
    generator = torch.Generator().manual_seed(seed)
    observation = (torch.rand(1024, 4, 84, 84, generator=generator) ** 6 * 255).to(torch.uint8)
    with torch.no_grad():
        network.head.weight.mul_(0.02 / network(observation).std(dim=0).mean())
        network.head.bias.add_(3 - network(observation).mean(dim=0))
    return network, observation


def ties(q: Tensor) -> float:
    """Return the share of states in which two or more actions have the greatest value."""
    return ((q == q.amax(dim=1, keepdim=True)).sum(dim=1) > 1).float().mean().item()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_bf16_ties_no_actions_and_keeps_the_greedy_one(seed: int) -> None:
    network, observation = trained(seed)
    copy = Bf16Copy(network, "bf16").network
    with torch.no_grad():
        expected = network(observation)
        with BF16:
            under_autocast, copied = network(observation), copy(observation)
            rounded = nn.functional.linear(network.torso(observation), network.head.weight, network.head.bias).float()
    assert under_autocast.dtype == copied.dtype == torch.float32
    assert torch.equal(under_autocast, copied)
    assert ties(under_autocast) < 0.001
    agrees = (under_autocast.argmax(dim=1) == expected.argmax(dim=1)).float().mean().item()
    assert agrees > 0.99
    assert ties(rounded) > 0.25, "a head under autocast ties actions in a third of the states"
    assert (rounded.argmax(dim=1) == expected.argmax(dim=1)).float().mean().item() < 0.8


def test_every_output_layer_is_one() -> None:
    """Q, V, logits and means: the only other linear layers are those of torsos."""
    for space in (Discrete(3), Box(-1, 1, (2,), np.float32)):
        for shape in ((4,), (1, 36, 36)):
            network = ActorCritic(shape, space, (8,), log_std=0.0, squash=False)
            others = [name for name, layer in network.named_modules() if type(layer) is nn.Linear]
            assert all("torso" in name for name in others)
            assert sum(isinstance(layer, OutputLayer) for layer in network.modules()) == 2


def test_policies_and_values_are_fp32_numbers_under_autocast() -> None:
    network = seeded(lambda: ActorCritic((1, 36, 36), Discrete(3), (8,), log_std=0.0, squash=False), 1, "network")
    observation = torch.randint(256, (2, 1, 36, 36), dtype=torch.uint8)
    with torch.no_grad(), BF16:
        policy, value = network(observation)
    assert policy.logits.dtype == value.dtype == torch.float32
    assert not torch.equal(policy.logits, policy.logits.bfloat16().float()), "more digits than bf16 has"


def test_ties_are_broken_by_the_stream() -> None:
    q = np.array([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0], [5.0, 1.0, 2.0]])
    assert greedy_actions(q, None).tolist() == [1, 0, 0]
    drawn = np.array([greedy_actions(q, np.random.default_rng(seed)) for seed in range(300)])
    assert set(drawn[:, 0]) == {1, 2}
    assert set(drawn[:, 1]) == {0, 1, 2}
    assert set(drawn[:, 2]) == {0}
    np.testing.assert_allclose(np.bincount(drawn[:, 1]) / 300, 1 / 3, atol=0.08)


def test_no_number_is_drawn_without_a_tie() -> None:
    noise, untouched = np.random.default_rng(1), np.random.default_rng(1)
    greedy_actions(np.array([[1.0, 2.0], [3.0, 0.0]]), noise)
    assert noise.random() == untouched.random()
