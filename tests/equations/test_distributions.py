import math
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import torch
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, kl_divergence

from q2pi.equations.distributions import (
    BELOW_ONE,
    Categorical,
    DiagonalGaussian,
    MultiBernoulli,
    MultiCategorical,
    SquashedGaussian,
)

INF = float("inf")


def noise(*shape: int, seed: int = 0, kind: str = "normal") -> Tensor:
    generator = np.random.default_rng(seed)
    numbers = generator.normal(size=shape) if kind == "normal" else generator.random(shape)
    return torch.from_numpy(numbers)


def gradient(output: Tensor, parameter: Tensor) -> Tensor:
    return torch.autograd.grad(output.sum(), parameter, retain_graph=True)[0]


def logits_of(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


# Categorical


@pytest.mark.parametrize(
    ("uniform", "action"), [(0.0, 0), (0.24, 0), (0.26, 1), (0.74, 1), (0.76, 2), (0.99, 2), (1.0, 2)]
)
def test_categorical_sample_inverts_the_cumulative_probabilities(uniform: float, action: int) -> None:
    policy = Categorical(logits_of(0.25, 0.5, 0.25))
    assert policy.sample(torch.tensor([uniform])).tolist() == [action]


def test_categorical_rows_use_separate_noise() -> None:
    policy = Categorical(logits_of(0.25, 0.5, 0.25).expand(3, 3))
    assert policy.sample(torch.tensor([0.9, 0.1, 0.5])).tolist() == [2, 0, 1]


def test_categorical_frequencies_are_the_probabilities() -> None:
    count = 40_000
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    actions = Categorical(probabilities.log().expand(count, 4)).sample(noise(count, kind="uniform"))
    frequencies = torch.bincount(actions, minlength=4) / count
    torch.testing.assert_close(frequencies.double(), probabilities, atol=0.01, rtol=0)  # four standard errors


@pytest.mark.parametrize("uniform", [0.0, 1e-9, 0.5, 1 - 2**-24, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masked_actions_are_never_sampled(uniform: float, dtype: torch.dtype) -> None:
    logits = torch.randn(1000, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float32).to(dtype)
    logits[:, [0, 3, 6]] = -INF
    actions = Categorical(logits).sample(torch.full((1000,), uniform))
    assert set(actions.tolist()) <= {1, 2, 4, 5}


def test_sampling_keeps_its_precision_under_bfloat16() -> None:
    """1000 equally likely actions: the middle of an action's interval in [0, 1] gives this action."""
    policy = Categorical(torch.zeros(1000, 1000, dtype=torch.bfloat16))
    assert policy.sample((torch.arange(1000) + 0.5) / 1000).tolist() == list(range(1000))


def test_categorical_agrees_with_torch() -> None:
    first, second = noise(5, 4), noise(5, 4, seed=1)
    ours = Categorical(first)
    theirs: Any = TorchCategorical(logits=first)
    action = torch.tensor([0, 3, 1, 2, 2])
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.kl(Categorical(second)), kl_divergence(theirs, TorchCategorical(logits=second)))
    assert torch.equal(ours.mode(), first.argmax(dim=1))


def test_categorical_by_hand() -> None:
    half, quarters = Categorical(logits_of(0.5, 0.5, 0.0, 0.0)), Categorical(logits_of(0.25, 0.25, 0.25, 0.25))
    assert half.log_prob(torch.tensor([1])).item() == pytest.approx(-math.log(2))
    assert half.entropy().item() == pytest.approx(math.log(2))
    assert quarters.entropy().item() == pytest.approx(math.log(4))
    assert half.kl(quarters).item() == pytest.approx(math.log(2))
    assert half.kl(half).item() == 0.0
    assert quarters.kl(half).item() > 1e300  # the exact value is infinite


def test_masked_actions_leave_gradients_finite() -> None:
    logits = torch.tensor([[0.0, 1.0, -INF]], requires_grad=True)
    policy = Categorical(logits)
    for output in (policy.entropy(), policy.log_prob(torch.tensor([0])), policy.kl(Categorical(torch.zeros(1, 3)))):
        assert torch.isfinite(gradient(output, logits)).all()
    log_probs = logits.log_softmax(dim=1)
    literal_entropy = -(log_probs.exp() * log_probs).sum(dim=1)
    assert torch.isnan(gradient(literal_entropy, logits)).any()  # negative control


def test_categorical_gradients() -> None:
    action, other = torch.tensor([0, 2]), noise(2, 3, seed=1)

    def outputs(logits: Tensor) -> tuple[Tensor, ...]:
        policy = Categorical(logits)
        return policy.log_prob(action), policy.entropy(), policy.kl(Categorical(other))

    assert torch.autograd.gradcheck(outputs, noise(2, 3).requires_grad_())


# DiagonalGaussian


def test_gaussian_by_hand() -> None:
    policy = DiagonalGaussian(torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, math.log(2)]]))
    action = policy.sample(torch.tensor([[3.0, -1.0]]))
    assert action.tolist() == [[4.0, -4.0]]
    assert policy.log_prob(action).item() == pytest.approx(-9 / 2 - 1 / 2 - math.log(2) - math.log(2 * math.pi))
    assert policy.entropy().item() == pytest.approx(1 + math.log(2) + math.log(2 * math.pi))
    assert policy.mode().tolist() == [[1.0, -2.0]]


def test_gaussian_agrees_with_torch() -> None:
    mean, log_std, other_mean, other_log_std, action = (noise(6, 3, seed=seed) for seed in range(5))
    ours, other = DiagonalGaussian(mean, log_std), DiagonalGaussian(other_mean, other_log_std)
    theirs: Any = Independent(Normal(mean, log_std.exp()), 1)
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    divergence = kl_divergence(theirs, Independent(Normal(other_mean, other_log_std.exp()), 1))
    torch.testing.assert_close(ours.kl(other), divergence)
    assert ours.kl(ours).tolist() == [0.0] * 6


def test_gaussian_sample_differentiates_by_its_parameters() -> None:
    mean, log_std = torch.tensor([[1.0]], requires_grad=True), torch.tensor([[math.log(2)]], requires_grad=True)
    action = DiagonalGaussian(mean, log_std).sample(torch.tensor([[3.0]]))
    assert gradient(action, mean).item() == 1.0
    assert gradient(action, log_std).item() == pytest.approx(6.0)


def test_gaussian_rejects_a_log_std_that_was_not_expanded() -> None:
    with pytest.raises(ValueError, match=r"log_std has shape \(1, 3\), expected \(6, 3\)"):
        DiagonalGaussian(noise(6, 3), noise(1, 3)).log_prob(noise(6, 3))


# SquashedGaussian


def squashed(mean: float, log_std: float, low: float = -1.0, high: float = 3.0) -> SquashedGaussian:
    numbers = (torch.tensor([number], dtype=torch.float64) for number in (low, high))
    parameters = (torch.tensor([[number]], dtype=torch.float64) for number in (mean, log_std))
    return SquashedGaussian(*parameters, *numbers)


@pytest.mark.parametrize("parameters", [(0.0, 0.0), (0.7, -1.0), (-1.5, 0.3), (0.2, -3.0)])
def test_squashed_density_integrates_to_one(parameters: tuple[float, float]) -> None:
    policy = squashed(*parameters)

    def density(action: float) -> float:
        return math.exp(policy.log_prob(torch.tensor([[action]], dtype=torch.float64)).item())

    peak = policy.mode().item()
    mass, _ = scipy.integrate.quad(density, -1, 3, points=[peak - 0.2, peak, peak + 0.2], limit=200)
    assert mass == pytest.approx(1.0, abs=1e-6)


def test_squashed_density_without_the_slope_does_not_integrate_to_one() -> None:
    policy = squashed(0.7, -1.0)

    def density(action: float) -> float:
        x = math.atanh((action - 1) / 2)
        return math.exp(policy.base.log_prob(torch.tensor([[x]], dtype=torch.float64)).item())

    mass, _ = scipy.integrate.quad(density, -1, 3)
    assert abs(mass - 1.0) > 0.1


def test_squashed_samples_follow_the_density() -> None:
    policy, count = squashed(0.5, -0.5), 40_000
    many = SquashedGaussian(policy.mean.expand(count, 1), policy.log_std.expand(count, 1), policy.low, policy.high)
    below = (many.sample(noise(count, 1)) < 2.0).double().mean().item()
    grid = torch.linspace(-1, 2, 301, dtype=torch.float64)
    densities = torch.stack([policy.log_prob(action.reshape(1, 1)).exp()[0] for action in grid])
    assert below == pytest.approx(torch.trapezoid(densities, grid).item(), abs=0.01)


def test_squashed_by_hand() -> None:
    policy = squashed(0.0, 0.0, low=-2.0, high=2.0)
    action, log_prob = policy.sample_with_log_prob(torch.tensor([[0.5 * math.log(3)]], dtype=torch.float64))
    assert action.item() == pytest.approx(1.0)  # 2 * tanh(log(3) / 2) = 2 * (3 - 1) / (3 + 1)
    slope = 2 * (1 - 0.5**2)
    density = math.exp(-0.5 * (0.5 * math.log(3)) ** 2) / math.sqrt(2 * math.pi)
    assert log_prob.item() == pytest.approx(math.log(density / slope))
    assert squashed(math.log(3) / 2, 5.0).mode().item() == pytest.approx(2.0)  # 1 + 2 * 1/2


def test_log_prob_agrees_with_sample_with_log_prob() -> None:
    low, high = torch.tensor([-1.0, 0.0, 5.0]).double(), torch.tensor([1.0, 10.0, 6.0]).double()
    policy = SquashedGaussian(noise(50, 3), noise(50, 3, seed=1) - 1, low, high)
    action, log_prob = policy.sample_with_log_prob(noise(50, 3, seed=2))
    assert ((action > low) & (action < high)).all()
    torch.testing.assert_close(policy.log_prob(action), log_prob, rtol=1e-6, atol=1e-6)


def test_actions_far_out_stay_within_bounds_and_finite() -> None:
    mean = torch.tensor([[-100.0], [-12.0], [12.0], [100.0]], requires_grad=True)
    policy = SquashedGaussian(mean, torch.zeros(4, 1), torch.tensor([-0.3]), torch.tensor([0.7]))
    action, log_prob = policy.sample_with_log_prob(torch.zeros(4, 1))
    assert ((action >= policy.low) & (action <= policy.high)).all()
    # log density of x at its mean, less log |da/dx| = log(1/2) + log 4 - 2 |x|
    expected = torch.tensor([200.0, 24.0, 24.0, 200.0]) - 0.5 * math.log(2 * math.pi) - math.log(2)
    torch.testing.assert_close(log_prob.detach(), expected)
    assert torch.isfinite(policy.log_prob(action)).all()
    assert torch.isfinite(gradient(log_prob, mean)).all()
    naive = (1 - mean.tanh().square()).log()
    assert torch.isinf(naive).any()  # negative control


def test_rounding_keeps_actions_within_the_bounds() -> None:
    low, high = torch.tensor([-1.6]), torch.tensor([0.3])
    assert (low + high) / 2 + (high - low) / 2 > high  # in float32
    policy = SquashedGaussian(torch.full((1, 1), 50.0), torch.zeros(1, 1), low, high)
    assert policy.sample(torch.zeros(1, 1)) == high


def test_squashed_kl_against_integration_of_the_densities() -> None:
    first, second = squashed(0.3, -0.5), squashed(-0.4, 0.2)

    def integrand(action: float) -> float:
        point = torch.tensor([[action]], dtype=torch.float64)
        log_density = first.log_prob(point).item()
        return math.exp(log_density) * (log_density - second.log_prob(point).item())

    divergence, _ = scipy.integrate.quad(integrand, -1, 3, limit=200)
    assert first.kl(second).item() == pytest.approx(divergence, abs=1e-6)


@pytest.mark.parametrize("parameters", [(0.0, 0.0), (0.7, -1.0), (-1.5, 0.3), (0.2, -3.0), (0.5, math.log(8))])
def test_squashed_entropy_against_integration(parameters: tuple[float, float]) -> None:
    """Integrated over x, where -p log p is smooth even for densities that peak at the bounds."""
    policy, (mean, log_std) = squashed(*parameters), parameters

    def integrand(z: float) -> float:
        normal = torch.tensor([[z]], dtype=torch.float64)
        density = math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return -density * policy.sample_with_log_prob(normal)[1].item()

    entropy, _ = scipy.integrate.quad(integrand, -9, 9, points=[-mean / math.exp(log_std)], limit=400)
    assert policy.entropy().item() == pytest.approx(entropy, abs=1e-5)
    assert abs(policy.base.entropy().item() - entropy) > 0.05  # negative control: without the slope


def test_squashed_entropy_is_the_mean_of_minus_log_prob_of_each_row() -> None:
    low, high = torch.tensor([-1.0, 0.0, 5.0]).double(), torch.tensor([1.0, 10.0, 6.0]).double()
    policy = SquashedGaussian(noise(2, 3), noise(2, 3, seed=1) - 1, low, high)
    log_probs = torch.stack([policy.sample_with_log_prob(normal)[1] for normal in noise(4000, 2, 3, seed=2)])
    standard_error = (log_probs.std(dim=0) / math.sqrt(4000)).max().item()
    torch.testing.assert_close(policy.entropy(), -log_probs.mean(dim=0), atol=4 * standard_error, rtol=0)


def test_nearly_uniform_squashed_gaussian_has_nearly_the_entropy_of_the_bounds() -> None:
    """A std of 0.88 makes the action about uniform on [-1, 3], whose entropy, log 4, no density exceeds."""
    entropy = squashed(0.0, math.log(0.88)).entropy().item()
    assert math.log(4) - 0.03 < entropy < math.log(4)


def test_squashed_gradients() -> None:
    normal, low, high = noise(2, 3, seed=2), torch.zeros(3).double(), torch.ones(3).double()

    def outputs(mean: Tensor, log_std: Tensor) -> tuple[Tensor, ...]:
        policy = SquashedGaussian(mean, log_std, low, high)
        return (
            policy.entropy(),
            *policy.sample_with_log_prob(normal),
            policy.log_prob(torch.full((2, 3), 0.3).double()),
            policy.mode(),
        )

    assert torch.autograd.gradcheck(outputs, (noise(2, 3).requires_grad_(), noise(2, 3, seed=1).requires_grad_()))


# All


def test_the_same_noise_gives_the_same_action() -> None:
    uniform, normal = noise(5, kind="uniform"), noise(5, 2)
    categorical, gaussian = Categorical(noise(5, 4, seed=3)), DiagonalGaussian(noise(5, 2), noise(5, 2))
    first = categorical.sample(uniform), gaussian.sample(normal)
    torch.manual_seed(99)
    assert torch.equal(categorical.sample(uniform), first[0])
    assert torch.equal(gaussian.sample(normal), first[1])


def test_a_policy_with_every_action_masked_is_refused() -> None:
    logits = torch.tensor([[0.0, 0.0], [-torch.inf, -torch.inf]])
    with pytest.raises(FloatingPointError, match="every action masked"):
        Categorical(logits).sample(torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("kind", [Categorical, MultiCategorical, MultiBernoulli])
def test_a_logit_that_is_nan_chooses_no_action(kind: Any) -> None:
    shape = (2, 2, 3) if kind is MultiCategorical else (2, 3)
    uniform = torch.full((2,) if kind is Categorical else shape[:2], 0.5)
    uniform = torch.full(shape, 0.5) if kind is MultiBernoulli else uniform
    logits = torch.zeros(shape)
    assert not kind(logits).mode().any()
    kind(logits).sample(uniform)
    logits[1, ..., 1] = torch.nan
    with pytest.raises(FloatingPointError, match="a logit is NaN"):
        kind(logits).mode()
    with pytest.raises(FloatingPointError, match="NaN"):
        kind(logits).sample(uniform)


def test_multi_categorical_by_hand() -> None:
    """Components (1/2, 1/4, 1/4) and (1/5, 4/5); the second has two actions only."""
    logits = logits_of(0.5, 0.25, 0.25, 0.2, 0.8, 0.0).reshape(2, 3)
    policy = MultiCategorical(torch.stack([logits, logits + 7.0]))
    log_prob = policy.log_prob(torch.tensor([[0, 1], [2, 0]]))
    assert (log_prob).tolist() == pytest.approx([math.log(0.5 * 0.8), math.log(0.25 * 0.2)])
    entropy = 1.5 * math.log(2) - 0.2 * math.log(0.2) - 0.8 * math.log(0.8)
    assert (policy.entropy()).tolist() == pytest.approx([entropy, entropy])
    assert policy.mode().tolist() == [[0, 1], [0, 1]]
    uniform = torch.tensor([[0.49, 0.19], [0.76, 1.0]])
    assert policy.sample(uniform).tolist() == [[0, 0], [2, 1]]
    other = MultiCategorical(torch.zeros(2, 2, 3, dtype=torch.float64).masked_fill(logits.isinf(), -math.inf))
    kl = (0.5 * math.log(1.5) + 0.5 * math.log(0.75)) + (0.2 * math.log(0.4) + 0.8 * math.log(1.6))
    assert (policy.kl(other)).tolist() == pytest.approx([kl, kl])


def test_multi_bernoulli_by_hand() -> None:
    """Probabilities of 1: 3/4, 1/5 and 1/2."""
    policy = MultiBernoulli(torch.tensor([[math.log(3), math.log(0.25), 0.0]]))
    assert (policy.log_prob(torch.tensor([[1, 0, 1]]))).tolist() == pytest.approx([math.log(0.75 * 0.8 * 0.5)])
    assert (policy.log_prob(torch.tensor([[0, 1, 0]]))).tolist() == pytest.approx([math.log(0.25 * 0.2 * 0.5)])
    entropy = sum(-p * math.log(p) - (1 - p) * math.log(1 - p) for p in (0.75, 0.2, 0.5))
    assert (policy.entropy()).tolist() == pytest.approx([entropy])
    assert policy.mode().tolist() == [[1, 0, 0]]
    assert policy.sample(torch.tensor([[0.74, 0.21, 0.49]])).tolist() == [[1, 0, 1]]
    uniform = MultiBernoulli(torch.zeros(1, 3))
    kl = sum(p * math.log(2 * p) + (1 - p) * math.log(2 - 2 * p) for p in (0.75, 0.2, 0.5))
    assert (policy.kl(uniform)).tolist() == pytest.approx([kl])


def test_multi_bernoulli_far_out_is_finite() -> None:
    policy = MultiBernoulli(torch.tensor([[1e4, -1e4]]).requires_grad_())
    outputs = policy.entropy() + policy.log_prob(torch.tensor([[1, 0]])) + policy.kl(policy)
    assert outputs.tolist() == [0.0]
    assert gradient(outputs.sum(), policy.logits).isfinite().all()


def test_independent_components_are_a_distribution_over_their_combinations() -> None:
    """Probabilities sum to 1 and the entropy is -sum p log p over all combinations."""
    multi = MultiCategorical(noise(1, 2, 3))
    binary = MultiBernoulli(noise(1, 3, seed=1))
    for policy, combinations in (
        (multi, [(a, b) for a in range(3) for b in range(3)]),
        (binary, [(a, b, c) for a in range(2) for b in range(2) for c in range(2)]),
    ):
        log_probs = torch.cat([policy.log_prob(torch.tensor([combination])) for combination in combinations])
        assert float(log_probs.exp().sum()) == pytest.approx(1.0)
        torch.testing.assert_close(-(log_probs.exp() * log_probs).sum(), policy.entropy()[0])


def test_the_greatest_uniform_number_times_a_sum_is_below_the_sum() -> None:
    """For every float32 in [1/2, 2), so for every float32: `sample` never passes the last action."""
    sums = torch.arange(0x3F000000, 0x40000000, dtype=torch.int32).view(torch.float32)
    assert (torch.tensor(BELOW_ONE, dtype=torch.float32) * sums < sums).all()
    assert torch.tensor(BELOW_ONE, dtype=torch.float32) < 1
    assert not (torch.tensor(1 - 2**-25, dtype=torch.float32) * sums < sums).all()  # rounds to 1
