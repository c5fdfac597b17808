"""Rainbow's network: dueling and noisy streams, distributions, embeddings, spectral normalisation, IMPALA's torso."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from q2pi.acceleration.precision import Bf16Copy
from q2pi.networks.noisy import NoisyLinear, clear_noise, draw_noise, factorised, noisy_layers
from q2pi.networks.output import OutputLayer
from q2pi.networks.rainbow import Architecture, RainbowNetwork
from q2pi.networks.spectral import normalise_spectrally, power_iteration
from q2pi.networks.torsos import ImageTorso, Residual, convolution_layers
from q2pi.networks.value_distributions import (
    Categorical,
    CosineEmbedding,
    Distribution,
    Expectation,
    Implicit,
    Quantile,
)

KINDS: dict[str, Any] = {
    "none": lambda: Expectation("mse"),
    "categorical": lambda: Categorical(5, -1.0, 1.0),
    "quantile": lambda: Quantile(5, 1.0),
    "implicit": lambda: Implicit(4, 1.0),
}


def network(kind: str = "none", shape: tuple[int, ...] = (3,), actions: int = 2, **options: Any) -> RainbowNetwork:
    distribution: Distribution = KINDS[kind]()
    torch.manual_seed(0)
    return RainbowNetwork(shape, actions, Architecture(**{"hidden": (8, 6)} | options), distribution)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---- heads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize(("kind", "numbers"), [("none", None), ("categorical", 5), ("quantile", 5), ("implicit", 4)])
def test_outputs_have_the_shape_of_their_distribution(kind: str, numbers: int | None, dueling: bool) -> None:
    model = network(kind, dueling=dueling)
    observation = torch.randn(7, 3)
    assert model(observation).shape == ((7, 2) if numbers is None else (7, 2, numbers))
    assert model.q_values(observation).shape == (7, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_streams_are_combined_as_in_the_paper(kind: str) -> None:
    """V + A - mean of A, computed number by number from the streams' own outputs."""
    model = network(kind, dueling=True, actions=3)
    observation = torch.randn(4, 3)
    features = model.encoder(observation)
    if model.embedding is not None:
        fractions = torch.rand(4, 2)
        output = model(observation, fractions)  # [B, A, N]
        features = features.unsqueeze(1) * model.embedding(fractions)
        value, advantage = model.value(features), model.advantage(features)  # [B, N, 1], [B, N, A]
        for b, a, n in np.ndindex(4, 3, 2):
            expected = value[b, n, 0] + advantage[b, n, a] - advantage[b, n].mean()
            assert output[b, a, n].item() == pytest.approx(expected.item(), abs=1e-6)
        return
    output = model(observation).reshape(4, 3, -1)
    value, advantage = model.value(features), model.advantage(features).reshape(4, 3, -1)
    for b, a, z in np.ndindex(*output.shape):
        expected = value[b, z] + advantage[b, a, z] - advantage[b, :, z].mean()
        assert output[b, a, z].item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_dueling_network_has_two_streams() -> None:
    assert network(dueling=False).value is None
    assert network(dueling=True).value is not None


def test_q_is_the_mean_of_the_distribution() -> None:
    observation = torch.randn(5, 3)
    categorical, quantile = network("categorical"), network("quantile")
    logits = categorical(observation)
    chances = torch.softmax(logits, dim=2)
    expected = sum(chances[:, :, i] * (-1 + 0.5 * i) for i in range(5))
    torch.testing.assert_close(categorical.q_values(observation), expected)
    torch.testing.assert_close(quantile.q_values(observation), quantile(observation).sum(dim=2) / 5)


def test_an_implicit_network_acts_on_the_midpoints() -> None:
    model = network("implicit")
    observation = torch.randn(5, 3)
    midpoints = torch.tensor([1 / 8, 3 / 8, 5 / 8, 7 / 8]).expand(5, 4)
    torch.testing.assert_close(model.q_values(observation), model(observation, midpoints).mean(dim=2))
    other = model(observation, midpoints * 0.5).mean(dim=2)
    assert not torch.allclose(model.q_values(observation), other), "the fraction matters"


def test_the_embedding_by_hand() -> None:
    """cos(pi i tau) at tau 1/3: 1, 1/2, -1/2."""
    embedding = CosineEmbedding(3, 3)
    with torch.no_grad():
        embedding.linear.weight.copy_(torch.eye(3))
        embedding.linear.bias.zero_()
    torch.testing.assert_close(embedding(torch.tensor([[1 / 3]])), torch.tensor([[[1.0, 0.5, 0.0]]]))


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_in_fp32_under_autocast(kind: str) -> None:
    for sigma in (None, 0.5):
        model = network(kind, dueling=True, sigma=sigma)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(torch.randn(4, 3))
        assert output.dtype == torch.float32


# ---- noise -----------------------------------------------------------------------------------------------------------


def composed(layer: NoisyLinear, x: Tensor, row: int) -> Tensor:
    """Return the paper's formula with the noisy weights of one row written out."""
    noise = torch.outer(layer.noise_out[row], layer.noise_in[row])
    weight = layer.weight + layer.weight_sigma * noise
    return weight @ x + layer.bias + layer.bias_sigma * layer.noise_out[row]


def test_a_noisy_layer_is_the_papers_formula() -> None:
    layer = NoisyLinear(4, 3, 0.5)
    draw_noise(layer, rng(), is_shared=True)
    x = torch.randn(6, 4)
    for b in range(6):
        torch.testing.assert_close(layer(x)[b], composed(layer, x[b], 0))
    assert not torch.allclose(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_noise_is_factorised_and_scaled_by_its_root() -> None:
    np.testing.assert_allclose(factorised(np.array([4.0, -9.0, 0.0])), [2.0, -3.0, 0.0])
    layer = NoisyLinear(300, 200, 0.5)
    draw_noise(layer, rng(), is_shared=True)
    normal = layer.noise_in[0].square() * layer.noise_in[0].sign()
    assert abs(float(normal.mean())) < 0.2
    assert float(normal.std()) == pytest.approx(1.0, abs=0.15)


def test_initial_values_of_a_noisy_layer() -> None:
    layer = NoisyLinear(16, 100, 0.5)
    assert layer.weight_sigma.unique().tolist() == [0.125]
    assert layer.bias_sigma.unique().tolist() == [0.125]
    for parameter in (layer.weight, layer.bias):
        assert 0.2 < float(parameter.abs().max()) <= 0.25


def test_each_environment_has_noise_of_its_own_when_acting() -> None:
    """And an update has one noise for the whole batch, also if the batch is as large as the number of environments."""
    model = network(sigma=0.5, noise_rows=4, dueling=True)
    observation = torch.randn(1, 3).expand(4, 3)
    draw_noise(model, rng(), is_shared=False)
    assert len({tuple(row) for row in model(observation).tolist()}) == 4
    draw_noise(model, rng(), is_shared=True)
    outputs = model(observation)
    torch.testing.assert_close(outputs, outputs[:1].expand(4, -1))
    torch.testing.assert_close(model(observation[:2])[0], outputs[0])


@pytest.mark.parametrize("kind", ["none", "implicit"])
def test_each_row_has_its_own_noise_behind_an_embedding_too(kind: str) -> None:
    model = network(kind, sigma=0.5, noise_rows=4)
    draw_noise(model, rng(), is_shared=False)
    together = model(torch.arange(12.0).reshape(4, 3))
    for layer in noisy_layers(model):
        layer.noise_in.copy_(layer.noise_in[2].expand_as(layer.noise_in))
        layer.noise_out.copy_(layer.noise_out[2].expand_as(layer.noise_out))
    torch.testing.assert_close(model(torch.arange(12.0).reshape(4, 3))[2], together[2])


def test_without_noise_the_mean_weights_compute() -> None:
    model = network(sigma=0.5)
    observation = torch.randn(4, 3)
    before = model(observation)
    draw_noise(model, rng(), is_shared=True)
    assert not torch.equal(model(observation), before)
    clear_noise(model)
    assert torch.equal(model(observation), before)


def test_noise_depends_on_its_generator_alone_and_belongs_to_no_state() -> None:
    first, second = network(sigma=0.5), network(sigma=0.5)
    draw_noise(first, rng(1), is_shared=True)
    draw_noise(second, rng(2), is_shared=True)
    draw_noise(second, rng(1), is_shared=True)
    for mine, other in zip(noisy_layers(first), noisy_layers(second), strict=True):
        assert torch.equal(mine.noise_in, other.noise_in)
    assert not [name for name in first.state_dict() if "noise" in name]


def test_every_layer_has_other_noise() -> None:
    model = network(sigma=0.5, dueling=True)
    draw_noise(model, rng(), is_shared=True)
    layers = list(noisy_layers(model))
    assert len(layers) == 4
    assert len({float(layer.noise_in[0, 0]) for layer in layers}) == 4


def test_the_gradient_reaches_the_size_of_the_noise() -> None:
    layer = NoisyLinear(2, 1, 0.5)
    draw_noise(layer, rng(3), is_shared=True)
    layer(torch.ones(1, 2)).sum().backward()
    assert layer.weight_sigma.grad is not None
    torch.testing.assert_close(layer.weight_sigma.grad, torch.outer(layer.noise_out[0], layer.noise_in[0]))


# ---- spectral normalisation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.Conv2d(3, 5, 3)], ids=["linear", "convolution"])
def test_the_largest_singular_value_becomes_one(layer: nn.Module) -> None:
    original = layer.weight.detach().clone()  # type: ignore[operator]
    normalise_spectrally(layer)
    for _ in range(200):
        power_iteration(layer)
    weight = layer.weight.detach().flatten(1)  # type: ignore[operator]
    assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(1.0, rel=1e-4)
    torch.testing.assert_close(weight / weight.norm(), original.flatten(1) / original.norm())


def test_a_forward_pass_changes_nothing() -> None:
    model = network(spectral_norm=True)
    before = copy.deepcopy(model.state_dict())
    model(torch.randn(3, 3))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    power_iteration(model)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed
    assert all(name.endswith(".u") for name in changed)


def test_the_gradient_is_that_of_the_normalised_weight() -> None:
    """Miyato et al., equation 9: the gradient is orthogonal to W, because scaling W changes nothing."""
    layer = nn.Linear(4, 3)
    normalise_spectrally(layer)
    for _ in range(300):
        power_iteration(layer)
    layer(torch.randn(5, 4)).square().sum().backward()
    original: Any = layer.parametrizations["weight"].original  # type: ignore[index]
    assert abs(float((original * original.grad).sum())) < 1e-4 * float(original.grad.norm())


def test_the_residual_blocks_of_impala_are_normalised() -> None:
    model = network(shape=(4, 21, 21), network="impala", spectral_norm=True)
    names = [name.partition(".parametrizations")[0] for name in model.state_dict() if name.endswith(".u")]
    convolutions = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    residual = [
        f"{name}.{inner}"
        for name, block in model.named_modules()
        if isinstance(block, Residual)
        for inner, layer in block.named_modules()
        if isinstance(layer, nn.Conv2d)
    ]
    assert sorted(names) == sorted(residual)
    assert len(names) == 12
    assert len(convolutions) == 15


def test_a_bf16_copy_keeps_normalised_layers_in_fp32() -> None:
    model = network(shape=(4, 36, 36), spectral_norm=True, dueling=True, sigma=0.5)
    rounded = Bf16Copy(model, "bf16").network
    images = torch.randint(256, (2, 4, 36, 36), dtype=torch.uint8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rounded(images), model(images))


# ---- image networks --------------------------------------------------------------------------------------------------


def test_impalas_network_has_its_published_size() -> None:
    """Espeholt et al. 2018 (deep): three stages of 16, 32, 32 channels, two blocks each, 256 units; 11 x 11 pixels."""
    layers = nn.Sequential(*convolution_layers(4, "impala", layer_norm=False))
    assert layers(torch.zeros(1, 4, 84, 84)).shape == (1, 32, 11, 11)

    def stage(inputs: int, size: int) -> int:
        return 9 * inputs * size + size + 4 * (9 * size * size + size)

    torso = ImageTorso(4, 84, 84, network="impala")
    expected = stage(4, 16) + stage(16, 32) + stage(32, 32) + 32 * 11 * 11 * 256 + 256
    assert sum(parameter.numel() for parameter in torso.parameters()) == expected


def test_a_residual_block_adds_its_input() -> None:
    block = Residual(2, layer_norm=False)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
    image = torch.randn(1, 2, 5, 5)
    assert torch.equal(block(image), image)


def test_width_multiplies_channels_and_units_and_pooling_fixes_the_features() -> None:
    model = network(shape=(4, 84, 84), network="impala", width=2, pool=6)
    assert model.encoder.features == 64 * 6 * 6
    assert model.advantage[0].out_features == 512  # type: ignore[index, union-attr]
    small = network(shape=(4, 42, 42), network="impala", width=2, pool=6)
    assert small.encoder.features == model.encoder.features


def test_the_small_networks() -> None:
    assert ImageTorso(4, 10, 10, network="minatar").features == 128
    assert nn.Sequential(*convolution_layers(4, "minatar", layer_norm=False))(torch.zeros(1, 4, 10, 10)).shape[1] == 16
    der = nn.Sequential(*convolution_layers(4, "data_efficient", layer_norm=False))
    assert der(torch.zeros(1, 4, 84, 84)).shape == (1, 64, 3, 3)


def test_layer_norm_reaches_the_streams() -> None:
    model = network(layer_norm=True, dueling=True)
    assert sum(isinstance(layer, nn.LayerNorm) for layer in model.modules()) == 3


def test_initial_weights_reach_plain_layers_only() -> None:
    plain = network(initial_weights="variance_scaling")
    bounds = [math.sqrt(math.sqrt(3) / 3), math.sqrt(math.sqrt(3) / 8)]
    layers = [layer for layer in plain.modules() if isinstance(layer, nn.Linear)]
    for layer, bound in zip(layers, bounds, strict=False):
        assert 0.8 * bound < float(layer.weight.abs().max()) <= bound
        assert float(layer.bias.abs().max()) == 0
    noisy = network(initial_weights="variance_scaling", sigma=0.5)
    assert float(next(noisy_layers(noisy)).weight.abs().max()) <= 1 / math.sqrt(8)
    assert isinstance(network().advantage[-1], OutputLayer)  # type: ignore[index]
