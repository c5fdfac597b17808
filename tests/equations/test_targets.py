import pytest
import torch

from q2pi.equations.targets import q_target

REWARD = torch.tensor([1.0, 2.0, 3.0])
DISCOUNT = torch.tensor([0.5, 0.1, 0.0])
# 99, 98 and 91 are the target network's largest values, which Double DQN must not use.
Q_TARGET = torch.tensor([[4.0, 99.0, 7.0], [98.0, 6.0, 5.0], [3.0, 2.0, 91.0]])
Q_ONLINE = torch.tensor([[8.0, 0.0, 1.0], [0.0, 1.0, 9.0], [5.0, 77.0, 5.0]])


def test_dqn_takes_the_largest_value_of_the_target_network() -> None:
    expected = torch.tensor([1 + 0.5 * 99, 2 + 0.1 * 98, 3.0])
    torch.testing.assert_close(q_target(REWARD, DISCOUNT, Q_TARGET, None), expected)


def test_double_dqn_selects_online_and_evaluates_with_the_target_network() -> None:
    expected = torch.tensor([1 + 0.5 * 4, 2 + 0.1 * 5, 3.0])
    torch.testing.assert_close(q_target(REWARD, DISCOUNT, Q_TARGET, Q_ONLINE), expected)


def test_double_dqn_removes_the_bias_of_the_maximum() -> None:
    """All true values are 0: noise makes the maximum of one estimate positive, and leaves the double one at 0."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 20_000, 4, generator=generator)
    zero, one = torch.zeros(20_000), torch.ones(20_000)
    assert abs(q_target(zero, one, first, second).mean().item()) < 0.03  # four standard errors
    # The expected maximum of four standard normals is 1.0294 (order statistics).
    assert q_target(zero, one, first, None).mean().item() == pytest.approx(1.0294, abs=0.03)


@pytest.mark.parametrize("online", [None, Q_ONLINE])
def test_no_bootstrap_after_termination(online: torch.Tensor | None) -> None:
    target = q_target(REWARD, torch.zeros(3), Q_TARGET, online)
    assert target.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("online", [None, Q_ONLINE])
def test_no_gradient_flows_through_the_target(online: torch.Tensor | None) -> None:
    assert not q_target(REWARD, DISCOUNT, Q_TARGET.clone().requires_grad_(), online).requires_grad


def test_a_column_of_rewards_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"reward has shape \(3, 1\), expected \(3,\)"):
        q_target(REWARD.unsqueeze(1), DISCOUNT, Q_TARGET, None)
    broadcast = REWARD.unsqueeze(1) + DISCOUNT * Q_TARGET.amax(dim=1)
    assert broadcast.shape == (3, 3)  # the wrong targets without the check


def test_networks_with_other_actions_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"q_next_online has shape \(3, 2\), expected \(3, 3\)"):
        q_target(REWARD, DISCOUNT, Q_TARGET, Q_ONLINE[:, :2])


def test_an_infinite_value_after_a_termination_is_not_seen() -> None:
    reward, discount = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.5])
    values = torch.tensor([[float("inf"), 0.0], [2.0, 4.0]])
    assert q_target(reward, discount, values).tolist() == [1.0, 3.0]
