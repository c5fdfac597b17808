"""Distributional targets, projections and losses: numbers worked out by hand, and slow oracles."""

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from q2pi.equations.distributional import (
    bootstrap_target,
    categorical_loss,
    categorical_projection,
    midpoints,
    munchausen_reward,
    of_action,
    quantile_loss,
    support,
)
from q2pi.equations.targets import q_target


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values)


def close(result: Tensor, *expected: Any) -> None:
    np.testing.assert_allclose(result.numpy(), np.array(expected), rtol=1e-5, atol=1e-6)


# ---- greedy targets --------------------------------------------------------------------------------------------------


def test_a_greedy_target_by_hand() -> None:
    """The selector prefers action 1: r + discount * z(s', 1) = 1 + 0.5 * (4, 8). Distractors stand at action 0."""
    values = tensor([[99.0, 98.0], [4.0, 8.0]])
    target, probabilities = bootstrap_target(tensor(1.0), tensor(0.5), values, tensor([0.0, 1.0]))
    close(target, [3.0, 5.0])
    assert probabilities is None


def test_the_probabilities_are_those_of_the_selected_action() -> None:
    values = tensor([[1.0, 2.0], [1.0, 2.0]])
    chances = tensor([[0.9, 0.1], [0.25, 0.75]])
    _, probabilities = bootstrap_target(tensor(0.0), tensor(1.0), values, tensor([0.0, 1.0]), chances)
    assert probabilities is not None
    close(probabilities, [0.25, 0.75])


@pytest.mark.parametrize("is_soft", [False, True])
def test_nothing_follows_termination(is_soft: bool) -> None:
    """A discount of 0 leaves the reward, even if the next values are infinite."""
    values = torch.full((1, 2, 2), math.inf)
    target, _ = bootstrap_target(
        tensor(7.0), tensor(0.0), values, tensor([0.0, 1.0]), temperature=0.03 if is_soft else 0.0
    )
    close(target, [7.0, 7.0])


@pytest.mark.parametrize("double", [False, True])
def test_one_value_is_the_target_of_dqn(double: bool) -> None:
    torch.manual_seed(0)
    reward, discount = torch.randn(16), torch.rand(16) * (torch.rand(16) < 0.7)
    q_target_net, q_online = torch.randn(16, 3), torch.randn(16, 3)
    selector = q_online if double else q_target_net
    expected = q_target(reward, discount, q_target_net, q_online if double else None)
    target, _ = bootstrap_target(reward, discount, q_target_net.unsqueeze(2), selector)
    assert torch.equal(target.squeeze(1), expected), "bit for bit"


def test_no_gradient_flows_through_targets() -> None:
    values = torch.randn(2, 3, 4, requires_grad=True)
    chances = torch.full((2, 3, 4), 0.25, requires_grad=True)
    for temperature in (0.0, 0.1):
        for probabilities in (None, chances):
            target, out = bootstrap_target(
                torch.zeros(2), torch.ones(2), values, values.mean(dim=2), probabilities, temperature
            )
            assert not target.requires_grad
            assert out is None or not out.requires_grad


# ---- soft targets ----------------------------------------------------------------------------------------------------


def test_a_soft_target_by_hand() -> None:
    """Q (0, tau log 3): the policy is (1/4, 3/4). With r 1, discount 0.5, tau 2, values (8) and (4):
    1 + 0.5 * (1/4 (8 + 2 log 4) + 3/4 (4 + 2 log 4/3))."""
    values = tensor([[8.0], [4.0]])
    selector = tensor([0.0, 2 * math.log(3)])
    target, _ = bootstrap_target(tensor(1.0), tensor(0.5), values, selector, temperature=2.0)
    expected = 1 + 0.5 * (0.25 * (8 + 2 * math.log(4)) + 0.75 * (4 + 2 * math.log(4 / 3)))
    close(target, [expected])


def test_a_soft_categorical_target_is_the_mixture_of_the_actions() -> None:
    values = tensor([[1.0, 2.0], [1.0, 2.0]])
    chances = tensor([[0.5, 0.5], [0.9, 0.1]])
    selector = tensor([0.0, 2 * math.log(3)])
    target, probabilities = bootstrap_target(tensor(1.0), tensor(0.5), values, selector, chances, temperature=2.0)
    assert probabilities is not None
    bonus = (2 * math.log(4), 2 * math.log(4 / 3))
    close(target, [1 + 0.5 * (z + bonus[a]) for a, z in product((0, 1), (1, 2))])
    close(probabilities, [0.125, 0.125, 0.675, 0.075])


def oracle(
    reward: Any, discount: Any, values: Any, selector: Any, chances: Any, temperature: float
) -> tuple[list[Any], list[Any]]:
    """Return the target distribution (values, probabilities) of one transition, number by number."""
    actions, count = values.shape
    if temperature == 0:
        best = max(range(actions), key=lambda a: selector[a])
        policy = [1.0 if a == best else 0.0 for a in range(actions)]
        bonus = [0.0] * actions
    else:
        total = sum(math.exp(selector[a] / temperature) for a in range(actions))
        policy = [math.exp(selector[a] / temperature) / total for a in range(actions)]
        bonus = [-temperature * math.log(p) for p in policy]
    if chances is None:
        mixed = [sum(policy[a] * (values[a, j] + bonus[a]) for a in range(actions)) for j in range(count)]
        return [reward + discount * z for z in mixed], [1 / count] * count
    pairs = [(a, j) for a in range(actions) for j in range(count)]
    return (
        [reward + discount * (values[a, j] + bonus[a]) for a, j in pairs],
        [policy[a] * chances[a, j] for a, j in pairs],
    )


@pytest.mark.parametrize("temperature", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["none", "quantile", "categorical"])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("n_step", [1, 3])
def test_every_path_agrees_with_a_slow_oracle(temperature: float, kind: str, double: bool, n_step: int) -> None:
    rng = np.random.default_rng(0)
    batch, actions, count = 8, 3, 1 if kind == "none" else 5
    values = rng.normal(size=(batch, actions, count))
    chances = rng.dirichlet(np.ones(count), size=(batch, actions)) if kind == "categorical" else None
    q = values.mean(axis=2) if chances is None else (values * chances).sum(axis=2)
    selector = rng.normal(size=(batch, actions)) if double else q
    rewards = rng.normal(size=(batch, n_step))
    reward = (rewards * 0.9 ** np.arange(n_step)).sum(axis=1)
    discount = 0.9**n_step * (rng.random(batch) < 0.7)
    target, probabilities = bootstrap_target(
        *(torch.as_tensor(each) for each in (reward, discount, values, selector)),
        None if chances is None else torch.as_tensor(chances),
        temperature,
    )
    for b in range(batch):
        expected, weight = oracle(
            reward[b], discount[b], values[b], selector[b], None if chances is None else chances[b], temperature
        )
        if probabilities is None:
            close(target[b], *expected)
        else:
            # As distributions: their expectations of a few functions agree.
            for moment in (1, 2, 3):
                mine = (probabilities[b] * target[b] ** moment).sum().item()
                assert mine == pytest.approx(sum(p * z**moment for p, z in zip(weight, expected, strict=True)))


def test_munchausens_reward_by_hand() -> None:
    """Policy (1/4, 3/4): alpha tau log pi = 0.9 * 2 * log(1/4) for action 0."""
    q = tensor([0.0, 2 * math.log(3)])
    close(munchausen_reward(q, tensor(0), 0.9, 2.0, -10.0), 1.8 * math.log(1 / 4))
    close(munchausen_reward(q, tensor(1), 0.9, 2.0, -10.0), 1.8 * math.log(3 / 4))
    close(munchausen_reward(q, tensor(0), 0.9, 2.0, -1.0), -0.9)


def test_munchausens_log_policy_does_not_overflow() -> None:
    q = tensor([0.0, 500.0])
    close(munchausen_reward(q, tensor(0), 0.9, 0.03, -1.0), -0.9)
    close(munchausen_reward(q, tensor(1), 0.9, 0.03, -1.0), 0.0)
    target, _ = bootstrap_target(tensor(0.0), tensor(1.0), q.unsqueeze(2), q, temperature=0.03)
    close(target, [500.0])


# ---- categorical -----------------------------------------------------------------------------------------------------


def test_a_projection_by_hand() -> None:
    """Atoms 0, 1, 2: 0.25 gives 3/4 and 1/4, the atom 1 keeps its mass, 5 and -3 are clipped."""
    atoms = support(3, 0.0, 2.0)
    one = torch.ones(1, 1)
    close(categorical_projection(tensor([0.25]), one, atoms), [0.75, 0.25, 0.0])
    close(categorical_projection(tensor([1.0]), one, atoms), [0.0, 1.0, 0.0])
    close(categorical_projection(tensor([5.0]), one, atoms), [0.0, 0.0, 1.0])
    close(categorical_projection(tensor([-3.0]), one, atoms), [1.0, 0.0, 0.0])
    close(categorical_projection(tensor([0.25, 1.5]), tensor([0.5, 0.5]), atoms), [0.375, 0.375, 0.25])


def projected(values: Any, chances: Any, atoms: Any) -> list[float]:
    """Return Bellemare et al.'s algorithm 1, with its floor and ceiling, for one distribution."""
    spacing = atoms[1] - atoms[0]
    result = [0.0] * len(atoms)
    for z, p in zip(values, chances, strict=True):
        place = (min(max(z, atoms[0]), atoms[-1]) - atoms[0]) / spacing
        low, high = math.floor(place), math.ceil(place)
        if low == high:
            result[low] += p
        else:
            result[low] += p * (high - place)
            result[high] += p * (place - low)
    return result


def test_projections_agree_with_a_slow_oracle_and_keep_mass_and_mean() -> None:
    rng = np.random.default_rng(1)
    atoms = support(11, -2.0, 3.0).double()
    values, chances = rng.normal(size=(32, 7)) * 2, rng.dirichlet(np.ones(7), size=32)
    values[0] = np.linspace(-2, 3, 7)
    result = categorical_projection(torch.as_tensor(values), torch.as_tensor(chances), atoms)
    for b in range(32):
        np.testing.assert_allclose(result[b], projected(values[b], chances[b], atoms.tolist()), atol=1e-9)
    np.testing.assert_allclose(result.sum(dim=1), 1.0)
    inside = values.clip(-2, 3)
    np.testing.assert_allclose(result @ atoms, (chances * inside).sum(axis=1))


def test_a_projection_is_not_rounded_to_bf16() -> None:
    """Under autocast a matrix product would be; the projected probabilities would then sum to 1 within 0.4 %."""
    generator = torch.Generator().manual_seed(1)
    values, chances = torch.randn(32, 7, generator=generator), torch.rand(32, 7, generator=generator).softmax(dim=1)
    expected = categorical_projection(values, chances, support(11, -2.0, 3.0))
    with torch.autocast("cpu", torch.bfloat16):
        result = categorical_projection(values, chances, support(11, -2.0, 3.0))
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)


def test_the_loss_is_the_cross_entropy() -> None:
    """Target (1/2, 1/2), prediction (1/4, 3/4): 0.5 log 4 + 0.5 log 4/3; an equal target leaves its entropy."""
    logits = tensor([math.log(1.0), math.log(3.0)])
    close(categorical_loss(logits, tensor([0.5, 0.5])), 0.5 * math.log(4) + 0.5 * math.log(4 / 3))
    close(categorical_loss(logits, tensor([0.25, 0.75])), 0.25 * math.log(4) + 0.75 * math.log(4 / 3))
    close(categorical_loss(logits, tensor([0.0, 1.0])), math.log(4 / 3))


def test_the_gradient_is_that_of_the_divergence() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(4, 5, requires_grad=True), torch.softmax(torch.randn(4, 5), dim=1)
    (gradient,) = torch.autograd.grad(categorical_loss(logits, target).sum(), logits)
    np.testing.assert_allclose(gradient, (torch.softmax(logits, dim=1) - target).detach(), atol=1e-6)


# ---- quantiles -------------------------------------------------------------------------------------------------------


def test_midpoints() -> None:
    close(midpoints(4), 0.125, 0.375, 0.625, 0.875)


def test_the_quantile_loss_by_hand() -> None:
    """Fractions 1/4 and 3/4, quantiles 0 and 1, target values 3 and -0.5; errors 3, -0.5 and 2, -1.5:
    1/2 (1/4 * 2.5 + 3/4 * 0.125) + 1/2 (3/4 * 1.5 + 1/4 * 1)."""
    quantiles, target, fractions = tensor([0.0, 1.0]), tensor([3.0, -0.5]), torch.tensor([0.25, 0.75])
    expected = 0.5 * (0.25 * 2.5 + 0.75 * 0.125) + 0.5 * (0.75 * 1.5 + 0.25 * 1.0)
    close(quantile_loss(quantiles, fractions, target), expected)
    close(quantile_loss(quantiles, fractions.unsqueeze(0), target), expected)
    plain = 0.5 * (0.25 * 3 + 0.75 * 0.5) + 0.5 * (0.75 * 2 + 0.25 * 1.5)
    close(quantile_loss(quantiles, fractions, target, kappa=0.0), plain)


def pairwise_quantile_loss(quantiles: Tensor, fractions: Tensor, target: Tensor, kappa: float) -> Tensor:
    """The equation as it stands, over all pairs."""
    error = target.unsqueeze(1) - quantiles.unsqueeze(2)  # [B, N, M]
    size = torch.where(error.abs() <= kappa, error.square() / 2, kappa * (error.abs() - kappa / 2)) / max(kappa, 1e-9)
    weight = torch.where(error < 0, 1 - fractions.unsqueeze(-1), fractions.unsqueeze(-1))
    return (weight * (error.abs() if kappa == 0 else size)).mean(dim=2).sum(dim=1)


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0, 50.0])
def test_the_quantile_loss_and_its_gradient_agree_with_a_slow_oracle(kappa: float) -> None:
    draws = torch.Generator().manual_seed(2)
    fractions, target = torch.rand(6, 4, generator=draws), 10 + 3 * torch.randn(6, 5, generator=draws)
    quantiles = (10 + 3 * torch.randn(6, 4, generator=draws)).requires_grad_()
    fast = quantile_loss(quantiles, fractions, target, kappa)
    slow = pairwise_quantile_loss(quantiles.double(), fractions.double(), target.double(), kappa)
    assert fast.dtype == torch.float32
    np.testing.assert_allclose(fast.detach(), slow.detach(), rtol=1e-6)
    gradients = [torch.autograd.grad(loss.sum(), quantiles)[0] for loss in (fast, slow)]
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)


def test_small_losses_of_large_values() -> None:
    """One quantile of 1e8, target values 16 below and 32 above: 1/2 (3/4 * 15.5 + 1/4 * 31.5) = 9.75.

    The square of 1e8 has 16 digits before the point: a difference of such squares would be lost."""
    target = 1e8 + tensor([-16.0, 32.0])
    close(quantile_loss(tensor([1e8]), torch.tensor([0.25]), target), 9.75)


def test_equal_values_and_quantiles_cost_nothing_and_nan_is_seen() -> None:
    same = torch.full((2, 3), 5.0, requires_grad=True)
    loss = quantile_loss(same, midpoints(3), same.detach())
    close(loss.detach(), 0.0, 0.0)
    close(torch.autograd.grad(loss.sum(), same)[0], [0.0] * 3, [0.0] * 3)
    assert quantile_loss(torch.zeros(1, 2), midpoints(2), tensor([0.0, float("nan")])).isnan().all()


def test_minimising_the_quantile_loss_gives_the_quantiles() -> None:
    """Of 0, 1, ..., 99 with a small threshold: the quartiles' midpoints. The mirrored weights give them in reverse."""
    target = torch.arange(100.0).unsqueeze(0)
    quantiles = torch.full((1, 4), 50.0, requires_grad=True)
    optimizer = torch.optim.Adam([quantiles], lr=0.5)
    for _ in range(600):
        optimizer.zero_grad()
        quantile_loss(quantiles, midpoints(4), target, kappa=0.1).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(quantiles.detach()[0], [12.0, 37.0, 62.0, 87.0], atol=1.5)


def test_the_values_of_an_action() -> None:
    values = torch.arange(12.0).reshape(2, 3, 2)
    close(of_action(values, torch.tensor([2, 0])), [4.0, 5.0], [6.0, 7.0])


def test_wrong_shapes_are_refused() -> None:
    two, three = torch.zeros(2), torch.zeros(3)
    with pytest.raises(ValueError, match="discount"):
        bootstrap_target(two, three, torch.zeros(2, 3, 1), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="selector"):
        bootstrap_target(two, two, torch.zeros(2, 3, 1), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="probabilities"):
        categorical_projection(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(5))
    with pytest.raises(ValueError, match="fractions"):
        quantile_loss(torch.zeros(2, 3), two, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="action"):
        munchausen_reward(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), 0.9, 0.03, -1.0)
    with pytest.raises(ValueError, match="target"):
        categorical_loss(torch.zeros(2, 3), torch.zeros(2, 4))
