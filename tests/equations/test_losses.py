from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from q2pi.equations.losses import (
    clipped_surrogate,
    huber,
    policy_gradient_loss,
    squared,
    td_errors,
    value_loss,
    weighted_mean,
)


def gradient(output: Tensor, parameter: Tensor) -> Tensor:
    return torch.autograd.grad(output.sum(), parameter, retain_graph=True)[0]


def test_td_error_depends_only_on_the_action_taken() -> None:
    q = torch.tensor([[99.0, 3.0, 98.0], [5.0, 97.0, 91.0]])
    errors = td_errors(q, torch.tensor([1, 0]), torch.tensor([1.0, 9.0]))
    assert errors.tolist() == [-2.0, 4.0]


def test_td_error_has_gradient_only_for_the_action_taken() -> None:
    q = torch.zeros(2, 3, requires_grad=True)
    errors = td_errors(q, torch.tensor([1, 0]), torch.zeros(2))
    assert gradient(errors, q).tolist() == [[0, -1, 0], [-1, 0, 0]]


def test_td_error_rejects_a_column_of_targets() -> None:
    with pytest.raises(ValueError, match=r"target has shape \(2, 1\), expected \(2,\)"):
        td_errors(torch.zeros(2, 3), torch.tensor([0, 1]), torch.zeros(2, 1))


def test_squared_has_no_factor_of_one_half() -> None:
    assert squared(torch.tensor([-3.0, 0.5])).tolist() == [9.0, 0.25]


def test_huber_by_hand() -> None:
    errors = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    assert huber(errors).tolist() == [2.5, 0.5, 0.125, 0.0, 0.125, 0.5, 2.5]
    assert huber(torch.tensor([-6.0, 1.0]), delta=2.0).tolist() == [10.0, 0.5]


def test_gradient_of_huber_is_the_clipped_error() -> None:
    errors = torch.tensor([-3.0, -0.5, 0.0, 0.25, 7.0], requires_grad=True)
    assert gradient(huber(errors), errors).tolist() == [-1.0, -0.5, 0.0, 0.25, 1.0]


@pytest.mark.parametrize(
    ("loss", "expected"), [(squared, (4 * 0.5 + 1 * 0.25) / 2), (huber, (1.5 * 0.5 + 0.5 * 0.25) / 2)]
)
def test_weights_apply_to_every_loss(loss: Callable[[Tensor], Tensor], expected: float) -> None:
    weights = torch.tensor([0.5, 0.25])
    assert weighted_mean(loss(torch.tensor([2.0, -1.0])), weights).item() == expected


@pytest.mark.parametrize("loss", [squared, huber])
def test_weights_scale_the_gradient_of_each_error(loss: Callable[[Tensor], Tensor]) -> None:
    errors = torch.tensor([5.0, -0.5], requires_grad=True)
    plain = gradient(weighted_mean(loss(errors), None), errors)
    weighted = gradient(weighted_mean(loss(errors), torch.tensor([0.25, 1.0])), errors)
    assert weighted.tolist() == [0.25 * plain[0].item(), plain[1].item()]


def test_without_weights_it_is_the_mean() -> None:
    assert weighted_mean(torch.tensor([1.0, 2.0, 6.0]), None).item() == 3.0


def test_weights_of_another_shape_are_rejected() -> None:
    with pytest.raises(ValueError, match="weights has shape"):
        weighted_mean(torch.zeros(3), torch.ones(3, 1))


def test_policy_gradient_loss_by_hand() -> None:
    log_prob = torch.tensor([-1.0, -2.0], requires_grad=True)
    advantage = torch.tensor([3.0, -0.5], requires_grad=True)
    loss = policy_gradient_loss(log_prob, advantage)
    assert loss.tolist() == [3.0, -1.0]
    assert gradient(loss, log_prob).tolist() == [-3.0, 0.5]
    assert torch.autograd.grad(loss.sum(), advantage, allow_unused=True)[0] is None


def surrogate_gradient(ratio: float, advantage: float, clip: float = 0.2) -> tuple[float, float]:
    """Return (loss, gradient by log_prob) of one action whose old probability was 1/8."""
    old = torch.tensor([0.125], dtype=torch.float64).log()
    new = (old + torch.tensor([ratio], dtype=torch.float64).log()).requires_grad_()
    loss = clipped_surrogate(new, old, torch.tensor([advantage], dtype=torch.float64), clip)
    return loss.item(), gradient(loss, new).item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.0, -2.0, 2.0, 2.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.4, 0.0),  # beyond the upper clip: no gradient
        (0.5, 2.0, -1.0, -1.0),  # a good action that became less likely: gradient
        (1.5, -2.0, 3.0, 3.0),  # a bad action that became more likely: gradient
        (0.5, -2.0, 1.6, 0.0),  # beyond the lower clip: no gradient
    ],
)
def test_clipped_surrogate_by_hand(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    assert surrogate_gradient(ratio, advantage) == pytest.approx((loss, gradient))


def test_ratio_is_exactly_one_at_the_old_policy() -> None:
    log_prob = torch.tensor([-0.1, -1.7, -33.3])
    advantage = torch.tensor([0.3, -0.7, 11.0])
    assert torch.equal(clipped_surrogate(log_prob, log_prob, advantage, 0.2), -advantage)


def test_without_clipping_any_ratio_lowers_the_loss() -> None:
    assert surrogate_gradient(1.5, 2.0, clip=0.2)[1] == 0.0
    assert surrogate_gradient(1.5, 2.0, clip=1e9)[1] == pytest.approx(-3.0)


def test_at_the_old_policy_the_surrogates_gradient_is_the_policy_gradient() -> None:
    advantage = torch.tensor([3.0, -0.5])
    log_prob = torch.tensor([-1.0, -2.0], requires_grad=True)
    surrogate = clipped_surrogate(log_prob, log_prob.detach(), advantage, 0.2)
    assert torch.equal(gradient(surrogate, log_prob), gradient(policy_gradient_loss(log_prob, advantage), log_prob))


def test_no_gradient_reaches_the_old_policy() -> None:
    new, old = torch.tensor([-1.0], requires_grad=True), torch.tensor([-1.0], requires_grad=True)
    loss = clipped_surrogate(new, old, torch.ones(1), 0.2)
    assert gradient(loss, new).item() == -1.0
    assert torch.autograd.grad(loss.sum(), old, allow_unused=True)[0] is None


def test_value_loss_is_the_squared_error() -> None:
    assert value_loss(torch.tensor([1.0, 5.0]), torch.tensor([4.0, 3.0])).tolist() == [9.0, 4.0]


def test_clipped_value_loss_by_hand() -> None:
    value = torch.tensor([3.0, 1.25, 3.0], requires_grad=True)
    target, old = torch.tensor([4.0, 4.0, 0.0]), torch.tensor([1.0, 1.0, 1.0])
    loss = value_loss(value, target, old, clip=0.5)
    # 3 is clipped to 1.5: (1.5 - 4)^2 = 6.25 > 1; 1.25 is not clipped: 2.75^2; 3 with target 0: 9 > 1.5^2.
    assert loss.tolist() == [6.25, 7.5625, 9.0]
    assert gradient(loss, value).tolist() == [0.0, -5.5, 6.0]


def test_value_loss_needs_old_value_and_clip_together() -> None:
    with pytest.raises(ValueError, match="go together"):
        value_loss(torch.zeros(1), torch.zeros(1), clip=0.2)
    with pytest.raises(ValueError, match="go together"):
        value_loss(torch.zeros(1), torch.zeros(1), old_value=torch.zeros(1))
