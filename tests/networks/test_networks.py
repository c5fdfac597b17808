"""Networks: sizes, the division by 255, precision, memory layout, and seeds."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from q2pi.acceleration.precision import Bf16Copy
from q2pi.envs.layout import Layout, Part
from q2pi.networks.initialisation import initialise, seeded
from q2pi.networks.options import Network, smallest_side, torso_of
from q2pi.networks.policy import ActorCritic, PolicyNetwork
from q2pi.networks.torsos import (
    ChannelNorm,
    ImageTorso,
    JointTorso,
    MLPTorso,
    scaled_pixels,
    torso_for,
)
from q2pi.networks.value import QNetwork, ValueNetwork


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("actions", [4, 6, 18])
def test_the_nature_network_has_its_published_size(actions: int) -> None:
    """32 * (4 * 64 + 1) + 64 * (32 * 16 + 1) + 64 * (64 * 9 + 1) + 512 * (3136 + 1), then 513 for each action."""
    torso = 32 * 257 + 64 * 513 + 64 * 577 + 512 * 3137
    assert torso == 1_684_128
    assert parameters(ImageTorso(4, 84, 84)) == torso
    assert parameters(QNetwork((4, 84, 84), actions, (1,))) == torso + 513 * actions


@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_network_of_2013_has_its_published_size(layer_norm: bool) -> None:
    """16 filters of 8 x 8 x 4, 32 of 4 x 4 x 16, 256 units over 9 x 9 x 32, then 257 numbers for each action."""
    torso = 16 * 257 + 32 * 257 + 256 * (9 * 9 * 32 + 1)
    assert torso == 676_144
    norms = 2 * (16 + 32 + 256) if layer_norm else 0
    network = QNetwork((4, 84, 84), 6, (1,), network="nips", layer_norm=layer_norm)
    assert parameters(network) == torso + norms + 257 * 6
    strides = [layer.stride for layer in network.torso.modules() if isinstance(layer, nn.Conv2d)]
    assert strides == [(4, 4), (2, 2)]


@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_network_of_minatar_has_its_published_size(layer_norm: bool) -> None:
    """16 filters of 3 x 3 x 4, 128 units over 8 x 8 x 16, then 129 numbers for each action."""
    torso = 16 * 37 + 128 * (8 * 8 * 16 + 1)
    network = QNetwork((4, 10, 10), 6, (1,), layer_norm=layer_norm)
    assert parameters(network) == torso + (2 * (16 + 128) if layer_norm else 0) + 129 * 6


@pytest.mark.parametrize(("network", "side"), [("nature", 36), ("dopamine", 1), ("nips", 20), ("minatar", 3)])
def test_the_smallest_image_of_each_network(network: Network, side: int) -> None:
    assert smallest_side(network) == side
    ImageTorso(1, side, side, network=network)
    if side > 1:
        with pytest.raises(RuntimeError):
            ImageTorso(1, side - 1, side, network=network)


@pytest.mark.parametrize(("size", "network"), [((36, 36), "nature"), ((35, 84), "minatar"), ((7, 7), "minatar")])
def test_the_torso_follows_from_the_size(size: tuple[int, int], network: Network) -> None:
    assert torso_of("auto", *size) == network
    assert torso_of("nips", *size) == "nips"


@pytest.mark.parametrize(("dtype", "scale"), [(torch.uint8, 10.0), (torch.float32, 1.0), (torch.float32, 255.0)])
def test_pixels_are_divided_by_their_scale(dtype: torch.dtype, scale: float) -> None:
    torso = seeded(lambda: ImageTorso(3, 5, 5, scale=scale), 1, "main")
    bytes_torso = seeded(lambda: ImageTorso(3, 5, 5), 1, "main")
    image = torch.randint(0, 2, (2, 3, 5, 5), generator=torch.Generator().manual_seed(0))
    observation = (image * scale).to(dtype)
    before = observation.clone()
    torch.testing.assert_close(torso(observation), bytes_torso((image * 255).to(torch.uint8)))
    assert torch.equal(observation, before), "the batch is not changed"


LAYOUT = Layout(
    (
        Part("a", "image", (2, 4, 5), scale=7.0),
        Part("b", "vector", (2,)),
        Part("c", "one-hot", (2,), (3, 4)),
        Part("d", "image", (1, 3, 3)),
        Part("mask", "mask", (3,)),
    ),
    stack=2,
)


def packed(seed: int) -> tuple[Any, Any]:
    """Return (parts by name [2, ...] of two frames, their packed observation [1, 2 * F])."""
    rng = np.random.default_rng(seed)
    parts = {
        "a": rng.integers(0, 8, (2, 2, 4, 5)),
        "b": rng.normal(size=(2, 2)),
        "c": rng.integers(0, 3, (2, 2)),
        "d": rng.integers(0, 256, (2, 1, 3, 3)),
        "mask": np.ones((2, 3)),
    }
    frames = np.concatenate([part.reshape(2, -1) for part in parts.values()], axis=1)
    return parts, torch.from_numpy(frames.reshape(1, -1).astype(np.float32))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_are_channels_last_whatever_the_layout_of_the_batch(channels: int, dtype: torch.dtype) -> None:
    batch = torch.randint(0, 256, (2, channels + 1, 5, 6)).to(dtype)
    for images in (batch, batch[:, 1:], batch[:1], batch.contiguous(memory_format=torch.channels_last)):
        pixels = scaled_pixels(images)
        assert pixels.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(pixels, images.float() * (1 / 255))


def test_a_joint_torso_reads_each_part_by_hand() -> None:
    torso: Any = seeded(lambda: torso_for(LAYOUT, (6,)), 1, "main")
    assert isinstance(torso, JointTorso)
    parts, observation = packed(0)
    inputs = []
    for name, images in (("a", torso.images[0]), ("d", torso.images[1])):
        # Frames are stacked along the channels, oldest first.
        stacked = np.concatenate(list(parts[name]))[None]
        inputs.append(images(torch.from_numpy(stacked.astype(np.float32))))
    vector = torch.from_numpy(parts["b"].reshape(1, -1).astype(np.float32))
    first, second = (np.eye(3)[parts["c"][:, 0]], np.eye(4)[parts["c"][:, 1]])
    hot = torch.from_numpy(np.concatenate([first.reshape(-1), second.reshape(-1)])[None].astype(np.float32))
    expected = torso.mlp(torch.cat([inputs[0], vector, hot, inputs[1]], dim=1))
    torch.testing.assert_close(torso(observation), expected)
    assert torso.images[0].scale == 7.0
    assert torso.mlp.layers[0].in_features == 128 + 4 + 2 * 7 + 128


@pytest.mark.parametrize("part", ["a", "b", "c", "d"])
def test_a_joint_torso_depends_on_every_part_and_not_on_the_mask(part: str) -> None:
    torso: Any = seeded(lambda: torso_for(LAYOUT, (6,), nn.Tanh), 1, "main")
    (parts, observation), (others, _) = packed(0), packed(1)
    changed = parts | {part: others[part]}
    frames = np.concatenate([value.reshape(2, -1) for value in changed.values()], axis=1)
    assert not torch.equal(torso(torch.from_numpy(frames.reshape(1, -1).astype(np.float32))), torso(observation))
    masked = observation.clone()
    masked[0, -3:] = 0
    assert torch.equal(torso(masked), torso(observation))


def test_an_image_and_a_number_interact() -> None:
    """The MLP follows the concatenation: the effect of the number depends on the image."""
    torso: Any = seeded(lambda: torso_for(LAYOUT, (16, 16), nn.Tanh), 1, "main")
    head = torch.ones(16)

    def value(image: float, number: float) -> float:
        observation = packed(0)[1]
        observation[0, :40], observation[0, 40] = image, number
        return (torso(observation)[0] @ head).item()

    assert abs(value(7, 1) - value(7, 0) - value(0, 1) + value(0, 0)) > 1e-3


def test_indices_are_one_hot() -> None:
    network = seeded(lambda: QNetwork(Layout((Part("", "one-hot", (2,), (3, 4)),)), 2, (5,)), 1, "main")
    weight, bias = network.torso.mlp.layers[0].weight, network.torso.mlp.layers[0].bias
    features = torch.relu(weight[:, 2] + weight[:, 3 + 1] + bias)
    torch.testing.assert_close(network(torch.tensor([[2, 1]])), network.head(features[None]))


def test_policy_and_value_share_a_torso_only_if_there_are_images() -> None:
    vectors = Layout((Part("b", "vector", (2,)), Part("c", "one-hot", (1,), (3,))))
    options: Any = {"log_std": 0.0, "squash": False}
    assert ActorCritic(vectors, spaces.Discrete(3), (6,), **options).separate
    assert not ActorCritic(LAYOUT, spaces.Discrete(3), (6,), **options).separate


@pytest.mark.parametrize("shape", [(5,), (1, 36, 36)])
def test_the_value_alone_is_that_beside_the_policy(shape: tuple[int, ...]) -> None:
    network = seeded(lambda: ActorCritic(shape, spaces.Discrete(3), (8,), log_std=0.0, squash=False), 1, "network")
    observation = torch.rand((4, *shape), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network.value(observation), network(observation)[1], rtol=0, atol=0)


def test_for_four_actions() -> None:
    assert parameters(QNetwork((4, 84, 84), 4, (1,))) == 1_686_180


def test_an_mlp_has_the_requested_layers() -> None:
    torso = MLPTorso(3, (5, 7))
    assert [tuple(parameter.shape) for parameter in torso.parameters()] == [(5, 3), (5,), (7, 5), (7,)]
    assert torso.features == 7
    assert isinstance(torso_for((3,), (5, 7)), MLPTorso)
    assert isinstance(torso_for((4, 84, 84), (5, 7)), ImageTorso)


@pytest.mark.parametrize("actions", [4, 18])
def test_layer_normalisation_adds_two_numbers_for_each_channel_and_unit(actions: int) -> None:
    norms = 2 * (32 + 64 + 64 + 512)
    assert norms == 1_344
    plain = parameters(QNetwork((4, 84, 84), actions, (1,)))
    assert parameters(QNetwork((4, 84, 84), actions, (1,), layer_norm=True)) == plain + norms
    assert parameters(MLPTorso(3, (5, 7), layer_norm=True)) == parameters(MLPTorso(3, (5, 7))) + 2 * (5 + 7)


def test_layer_normalisation_does_not_change_the_names_of_other_weights() -> None:
    names = list(ImageTorso(4, 84, 84).state_dict())
    layers = [f"convolutions.{number}" for number in (0, 2, 4)] + ["linear"]
    assert names == [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


def images(count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 4, 84, 84), dtype=torch.uint8, generator=generator)


def test_pixels_are_divided_by_255_and_convolved_as_published() -> None:
    """The same numbers from a plain float network, channels first, with strides 4, 2, 1."""
    torso = seeded(lambda: ImageTorso(4, 84, 84), 1, "main")
    x = images().float() / 255
    convolutions = [layer for layer in torso.convolutions if isinstance(layer, nn.Conv2d)]
    for layer, stride in zip(convolutions, (4, 2, 1), strict=True):
        x = torch.relu(nn.functional.conv2d(x, layer.weight.contiguous(), layer.bias, stride=stride))
    expected = torch.relu(x.flatten(1) @ torso.linear.weight.T + torso.linear.bias)
    torch.testing.assert_close(torso(images()), expected, rtol=1e-4, atol=1e-5)


def normal(x: torch.Tensor) -> torch.Tensor:
    """Return x shifted and scaled to mean 0 and variance 1 over its second dimension."""
    centred = x - x.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()


def test_layers_are_normalised_over_channels_before_each_relu() -> None:
    torso = seeded(lambda: ImageTorso(4, 84, 84, layer_norm=True), 1, "main")
    x = images().float() / 255
    convolutions = [layer for layer in torso.convolutions if isinstance(layer, nn.Conv2d)]
    for layer, stride in zip(convolutions, (4, 2, 1), strict=True):
        x = torch.relu(normal(nn.functional.conv2d(x, layer.weight.contiguous(), layer.bias, stride=stride)))
    expected = torch.relu(normal(x.flatten(1) @ torso.linear.weight.T + torso.linear.bias))
    torch.testing.assert_close(torso(images()), expected, rtol=1e-4, atol=1e-4)
    mlp = seeded(lambda: MLPTorso(3, (5,), layer_norm=True), 1, "main")
    row = torch.tensor([[1.0, -2.0, 0.5]])
    linear = mlp.layers[0]
    torch.testing.assert_close(mlp(row), torch.relu(normal(row @ linear.weight.T + linear.bias)))


def test_channel_norm_has_a_scale_and_a_shift_per_channel() -> None:
    norm = ChannelNorm(2)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 10.0]))
        norm.bias.copy_(torch.tensor([0.0, 5.0]))
    image = torch.tensor(
        [[[[3.0, 0.0]], [[1.0, 8.0]]]]
    )  # two pixels: (3, 1) and (0, 8), normalised to (1, -1), (-1, 1)
    torch.testing.assert_close(norm(image), torch.tensor([[[[1.0, -1.0]], [[-5.0, 15.0]]]]), rtol=1e-4, atol=1e-4)


def test_observations_are_not_modified() -> None:
    observation = images()
    ImageTorso(4, 84, 84)(observation)
    assert torch.equal(observation, images())


def test_values_are_float32_under_bf16_and_agree_with_fp32() -> None:
    network = seeded(lambda: QNetwork((4, 84, 84), 6, (1,)), 1, "main")
    plain = network(images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = network(images())
    assert plain.dtype == narrow.dtype == torch.float32
    assert plain.shape == (2, 6)
    assert not torch.equal(plain, narrow)
    torch.testing.assert_close(plain, narrow, rtol=0, atol=0.02)


def weights(seed: int, name: str) -> torch.Tensor:
    return seeded(lambda: QNetwork((4,), 2, (8,)), seed, name).head.weight


def test_a_network_is_a_pure_function_of_seed_and_name() -> None:
    first = weights(1, "main")
    torch.rand(5)
    assert torch.equal(weights(1, "main"), first)
    assert not torch.equal(weights(2, "main"), first)
    assert not torch.equal(weights(1, "other"), first)


def test_the_global_generator_is_unchanged() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    weights(1, "main")
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("shape", [(4, 36, 36), (5,)])
def test_bf16_copies_equal_autocast_bit_for_bit(shape: tuple[int, ...], layer_norm: bool) -> None:
    network = QNetwork(shape, 6, (32, 32), layer_norm=layer_norm)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.rand_like(parameter) / 10)
    observation = torch.randint(0, 256, (8, *shape), dtype=torch.uint8)
    rounded = Bf16Copy(network, "bf16")

    def same() -> bool:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return torch.equal(rounded.network(observation), network(observation))

    assert same()
    with torch.no_grad():
        network.head.weight.mul_(2)
    assert not same(), "negative control: the original has changed since the cast"
    rounded.refresh()
    assert same()


def test_fp32_makes_no_copy() -> None:
    network = QNetwork((5,), 6, (32,))
    assert Bf16Copy(network, "fp32").network is network


@pytest.mark.parametrize(
    ("weights", "bound"),
    [("xavier_uniform", (6 / (20 + 30)) ** 0.5), ("variance_scaling", (3 / 3**0.5 / 20) ** 0.5)],
)
def test_initial_weights_of_published_agents(weights: Any, bound: float) -> None:
    """A layer of 20 inputs and 30 outputs: uniform in (-bound, bound), biases 0."""
    layer = seeded(lambda: torch.nn.Linear(20, 30), 1, "layer")
    torch.manual_seed(1)
    initialise(layer, weights)
    values = layer.weight.detach()
    assert 0.97 * bound < values.abs().max() < bound
    assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.06)
    assert not layer.bias.any()


def test_fans_of_a_convolution_count_its_window() -> None:
    layer = torch.nn.Conv2d(4, 32, 8)
    initialise(layer, "xavier_uniform")
    bound = (6 / (4 * 64 + 32 * 64)) ** 0.5
    assert 0.98 * bound < layer.weight.detach().abs().max() < bound


@pytest.mark.parametrize("shape", [(4, 36, 36), (5,)])
def test_logits_and_means_are_float32_under_bf16(shape: tuple[int, ...]) -> None:
    observation = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    for space in (spaces.Discrete(4), spaces.Box(-1, 1, (2,), np.float32)):
        network = PolicyNetwork(shape, space, (16,), log_std=0.0, squash=False)
        with torch.autocast("cpu", torch.bfloat16):
            policy: Any = network(observation)
        first = policy.logits if isinstance(space, spaces.Discrete) else policy.mean
        assert first.dtype == torch.float32
        exact: Any = network(observation)
        torch.testing.assert_close(policy.entropy(), exact.entropy(), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("shape", [(4, 36, 36), (5,)], ids=["one torso", "two torsos"])
def test_the_value_heads_weights_have_norm_1(shape: tuple[int, ...]) -> None:
    critic = ActorCritic(shape, spaces.Discrete(3), (16,), log_std=0.0, squash=False).critic
    heads: list[Any] = [critic.head if len(shape) == 1 else critic, ValueNetwork(shape, (16,)).head]
    for head in heads:
        assert head.weight.norm().item() == pytest.approx(1)
        assert head.bias.tolist() == [0]


def test_an_mlp_calls_plain_layers_as_functions_and_others_as_modules() -> None:
    """Hooks and parametrisations act, whichever layer they are on."""
    torso, row = MLPTorso(3, (4, 4), layer_norm=True), torch.rand(2, 3)
    expected = torso.layers(row)
    assert torch.equal(torso(row), expected)
    seen: list[str] = []
    for name, layer in torso.layers.named_children():
        layer.register_forward_hook(lambda *_, name=name: seen.append(name))
    assert torch.equal(torso(row), expected)
    assert seen == [name for name, _ in torso.layers.named_children()]
    halved = MLPTorso(3, (4,))
    whole = halved(row)
    torch.nn.utils.parametrize.register_parametrization(halved.layers[0], "weight", Halved())
    assert not torch.equal(halved(row), whole)
    assert torch.equal(halved(row), halved.layers(row))


def test_a_chain_equals_its_torso_and_head() -> None:
    """Also in a copy, which has its own weights, after a parametrisation, and in autocast, where the head is fp32."""
    network, rows = QNetwork((3,), 2, (4, 4)), torch.rand(5, 3, dtype=torch.float64)
    assert torch.equal(network(rows), network.head(network.torso(rows)))
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(2.0)
    assert torch.equal(copied(rows), copied.head(copied.torso(rows)))
    assert not torch.equal(copied(rows), network(rows))
    seen: list[torch.Tensor] = []
    network.torso.layers[1].register_forward_hook(lambda *event: seen.append(event[2]))
    network(rows)
    assert len(seen) == 1
    torch.nn.utils.parametrize.register_parametrization(network.torso.layers[0], "weight", Halved())
    assert torch.equal(network(rows), network.head(network.torso(rows)))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(copied(rows), copied.head(copied.torso(rows)))
        assert copied(rows).dtype == torch.float32


class Halved(torch.nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / 2
