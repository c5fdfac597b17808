"""Returns against values by hand and slow oracles, with a negative control for each rule."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from q2pi.equations.returns import (
    discounted_returns,
    generalized_advantages,
    lambda_returns,
    n_step_returns,
    watkins_lambdas,
)


@dataclass(frozen=True)
class Rollout:
    """A rollout with every kind of ending, float64."""

    reward: Tensor
    discount: Tensor
    value: Tensor
    next_value: Tensor
    ended: Tensor

    @property
    def stream(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.reward, self.discount, self.next_value, self.ended


def random_rollout(seed: int, length: int = 23, envs: int = 6) -> Rollout:
    """Return random rewards and values with terminations, truncations and lives lost (discount 0, not ended)."""
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(length, envs, generator=generator, dtype=torch.float64)

    event = torch.randint(8, (length, envs), generator=generator)
    terminated, truncated, life_lost = event == 0, event == 1, event == 2
    discount = torch.where(terminated | life_lost, 0.0, 0.9).to(torch.float64)
    value, final_value = normal(), normal()
    ended = terminated | truncated
    # Within an episode the next observation is that of the next row; elsewhere it has a separate value.
    next_value = torch.where(ended, final_value, torch.cat([value[1:], final_value[-1:]]))
    return Rollout(normal(), discount, value, next_value, ended)


def slow_n_step(rollout: Rollout, t: int, env_index: int, n: int) -> float:
    """Return the n-step return of one step, forwards, one reward at a time."""
    total, weight = 0.0, 1.0
    for step in range(t, min(t + n, len(rollout.reward))):
        total += weight * rollout.reward[step, env_index].item()
        weight *= rollout.discount[step, env_index].item()
        if rollout.ended[step, env_index]:
            break
    return total + weight * rollout.next_value[step, env_index].item()


def slow_lambda(rollout: Rollout, t: int, env_index: int, lambda_: float) -> float:
    """Return the lambda-return of one step as the weighted mean of its n-step returns (Sutton and Barto 2018, 12.3)."""
    end = t
    while end < len(rollout.reward) - 1 and not rollout.ended[end, env_index]:
        end += 1
    longest = end - t + 1
    mixed = sum((1 - lambda_) * lambda_ ** (n - 1) * slow_n_step(rollout, t, env_index, n) for n in range(1, longest))
    return mixed + lambda_ ** (longest - 1) * slow_n_step(rollout, t, env_index, longest)


def slow_advantage(rollout: Rollout, t: int, env_index: int, lambda_: float) -> float:
    """Return the sum of discounted one-step errors, forwards, up to the end of the episode or of the rollout."""
    total, weight = 0.0, 1.0
    for step in range(t, len(rollout.reward)):
        reward, discount = rollout.reward[step, env_index].item(), rollout.discount[step, env_index].item()
        total += weight * (
            reward + discount * rollout.next_value[step, env_index].item() - rollout.value[step, env_index].item()
        )
        weight *= discount * lambda_
        if rollout.ended[step, env_index]:
            break
    return total


def table(rollout: Rollout, oracle: object, argument: float) -> Tensor:
    """Return an oracle's values [T, N]."""
    length, envs = rollout.reward.shape
    assert callable(oracle)
    rows = [[oracle(rollout, t, env_index, argument) for env_index in range(envs)] for t in range(length)]
    return torch.tensor(rows, dtype=torch.float64)


SEEDS = [0, 1, 2]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_rollouts_contain_every_ending(seed: int) -> None:
    rollout = random_rollout(seed)
    assert (rollout.ended & (rollout.discount == 0)).any()
    assert (rollout.ended & (rollout.discount > 0)).any()
    assert (~rollout.ended & (rollout.discount == 0)).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_discounted_returns_against_the_slow_oracle(seed: int) -> None:
    rollout = random_rollout(seed)
    torch.testing.assert_close(discounted_returns(*rollout.stream), table(rollout, slow_n_step, 10**6))


@pytest.mark.parametrize("n", [1, 2, 3, 22, 23, 24, 500])
@pytest.mark.parametrize("seed", SEEDS)
def test_n_step_returns_against_the_slow_oracle(seed: int, n: int) -> None:
    rollout = random_rollout(seed)
    torch.testing.assert_close(n_step_returns(*rollout.stream, n=n), table(rollout, slow_n_step, n))


@pytest.mark.parametrize("lambda_", [0.0, 0.3, 0.65, 0.95, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_lambda_returns_against_the_slow_oracle(seed: int, lambda_: float) -> None:
    rollout = random_rollout(seed)
    torch.testing.assert_close(lambda_returns(*rollout.stream, lambda_=lambda_), table(rollout, slow_lambda, lambda_))


def slow_watkins(rollout: Rollout, greedy: Tensor, t: int, env_index: int, lambda_: float) -> float:
    """Return Watkins's target as the weighted mean of the n-step returns up to the first exploring step."""
    longest = 1
    last = len(greedy) - 1
    while t + longest <= last and greedy[t + longest, env_index] and not rollout.ended[t + longest - 1, env_index]:
        longest += 1
    mixed = sum((1 - lambda_) * lambda_ ** (n - 1) * slow_n_step(rollout, t, env_index, n) for n in range(1, longest))
    return mixed + lambda_ ** (longest - 1) * slow_n_step(rollout, t, env_index, longest)


@pytest.mark.parametrize("lambda_", [0.0, 0.65, 0.95, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_watkins_returns_against_the_slow_oracle(seed: int, lambda_: float) -> None:
    rollout = random_rollout(seed)
    greedy = torch.rand(rollout.reward.shape, generator=torch.Generator().manual_seed(seed)) < 0.7
    lambdas = watkins_lambdas(greedy, lambda_).double()
    expected = table(rollout, lambda *at: slow_watkins(at[0], greedy, *at[1:]), lambda_)
    torch.testing.assert_close(lambda_returns(*rollout.stream, lambdas), expected, rtol=1e-6, atol=1e-6)


def test_watkins_lambda_is_zero_before_an_exploring_action_only() -> None:
    greedy = torch.tensor([[False, True], [True, False], [True, True]])
    assert watkins_lambdas(greedy, 0.5).tolist() == [[0.5, 0], [0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize("lambda_", [0.0, 0.3, 0.65, 0.95, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_advantages_against_the_slow_oracle(seed: int, lambda_: float) -> None:
    rollout = random_rollout(seed)
    reward, discount, next_value, ended = rollout.stream
    advantages = generalized_advantages(reward, discount, rollout.value, next_value, ended, lambda_)
    torch.testing.assert_close(advantages, table(rollout, slow_advantage, lambda_))


@pytest.mark.parametrize("lambda_", [0.0, 0.65, 1.0])
def test_an_advantage_is_the_lambda_return_minus_the_value(lambda_: float) -> None:
    """Holds because next_value is value_{t+1} inside an episode; the two functions share no line."""
    rollout = random_rollout(7)
    reward, discount, next_value, ended = rollout.stream
    advantages = generalized_advantages(reward, discount, rollout.value, next_value, ended, lambda_)
    torch.testing.assert_close(advantages, lambda_returns(*rollout.stream, lambda_=lambda_) - rollout.value)


def column(*numbers: float) -> Tensor:
    """Return [T, 1] float64."""
    return torch.tensor(numbers, dtype=torch.float64).unsqueeze(1)


def flags(*numbers: int) -> Tensor:
    """Return [T, 1] bool."""
    return torch.tensor(numbers, dtype=torch.bool).unsqueeze(1)


NOISE = column(91, 98, 99, 97)


def test_digits_of_a_terminated_episode() -> None:
    """With gamma 0.1 each reward is one digit; no value may enter, since the last one is multiplied by 0."""
    returns = discounted_returns(column(5, 6, 7, 8), column(0.1, 0.1, 0.1, 0), NOISE, flags(0, 0, 0, 1))
    torch.testing.assert_close(returns, column(5.678, 6.78, 7.8, 8))


def test_digits_of_a_truncated_episode() -> None:
    """The final observation's value, 9, is the next digit."""
    returns = discounted_returns(
        column(5, 6, 7, 8), column(0.1, 0.1, 0.1, 0.1), column(91, 98, 99, 9), flags(0, 0, 0, 1)
    )
    torch.testing.assert_close(returns, column(5.6789, 6.789, 7.89, 8.9))


def test_digits_of_two_episodes_do_not_mix() -> None:
    """Truncated after 6 with final value 3; the next episode terminates after 8."""
    returns = discounted_returns(column(5, 6, 7, 8), column(0.1, 0.1, 0.1, 0), column(91, 3, 99, 97), flags(0, 1, 0, 1))
    torch.testing.assert_close(returns, column(5.63, 6.3, 7.8, 8))


def test_digits_of_two_steps() -> None:
    """n = 2: two rewards, then the next value; the last row has one reward, then the next value."""
    returns = n_step_returns(column(5, 6, 7, 8), column(0.1, 0.1, 0.1, 0.1), column(1, 2, 3, 4), flags(0, 0, 0, 0), n=2)
    torch.testing.assert_close(returns, column(5.62, 6.73, 7.84, 8.4))


def test_a_lost_life_ends_the_sum_although_the_episode_continues() -> None:
    returns = discounted_returns(column(5, 6, 7, 8), column(0.1, 0, 0.1, 0), NOISE, flags(0, 0, 0, 1))
    torch.testing.assert_close(returns, column(5.6, 6, 7.8, 8))


def test_last_steps_of_a_rollout_are_not_off_by_one() -> None:
    """Rows T-1 and T-2 by hand, lambda 0.5, gamma 0.5, while the episode continues beyond the rollout.

    Row T-1 has next_value 16 and no later row: 4 + 0.5 * 16 = 12, not 4 + 0.5 * (0.5 * 16) = 8.
    Row T-2 mixes next_value 2 and the return 12: 1 + 0.5 * (0.5 * 2 + 0.5 * 12) = 4.5.
    """
    reward, half, next_value, open_end = column(1, 4), column(0.5, 0.5), column(2, 16), flags(0, 0)
    torch.testing.assert_close(lambda_returns(reward, half, next_value, open_end, 0.5), column(4.5, 12))
    torch.testing.assert_close(discounted_returns(reward, half, next_value, open_end), column(7, 12))
    torch.testing.assert_close(n_step_returns(reward, half, next_value, open_end, n=2), column(7, 12))
    # delta = (1 + 0.5 * 2 - 3, 4 + 0.5 * 16 - 2) = (-1, 10); A = (-1 + 0.25 * 10, 10)
    advantages = generalized_advantages(reward, half, column(3, 2), next_value, open_end, 0.5)
    torch.testing.assert_close(advantages, column(1.5, 10))


GAMMA = 0.9
TRUE_VALUE = 10.0
"""A reward of 1 forever is worth 1 / (1 - 0.9)."""


def learned_value(*, truncation_bootstraps: bool, true_final_observation: bool = True, lambda_: float = 0.8) -> float:
    """Return the learned value of an endless task with reward 1, truncated into episodes of 5 steps.

    There are two kinds of observation: the first of an episode has value 0, all others have the learned value, so a
    bootstrap from the wrong row changes the result.
    """
    length = 40
    ended = (torch.arange(length) % 5 == 4).unsqueeze(1)
    first = torch.roll(ended, 1, dims=0)
    keeps = ~ended if not truncation_bootstraps else torch.ones_like(ended)
    value = 0.0
    for _ in range(400):
        values = torch.where(first, 0.0, value).to(torch.float64)
        next_values = torch.full_like(values, value) if true_final_observation else torch.roll(values, -1, dims=0)
        targets = lambda_returns(torch.ones_like(values), GAMMA * keeps, next_values, ended, lambda_)
        value = targets[~first].mean().item()
    return value


def test_endless_reward_of_one_has_its_true_value() -> None:
    assert learned_value(truncation_bootstraps=True) == pytest.approx(TRUE_VALUE)


def test_control_truncation_as_termination_underestimates() -> None:
    assert learned_value(truncation_bootstraps=False) < 0.5 * TRUE_VALUE


def test_control_bootstrap_from_the_next_episode_is_wrong() -> None:
    assert learned_value(truncation_bootstraps=True, true_final_observation=False) < 0.7 * TRUE_VALUE


def test_control_a_sum_not_cut_at_truncation_joins_two_episodes() -> None:
    """Rewards of 100 in the next episode must not enter the returns of a truncated episode."""
    reward, discount = column(1, 1, 100, 100), torch.full((4, 1), GAMMA, dtype=torch.float64)
    next_value = column(10, 10, 1000, 1000)
    cut = discounted_returns(reward, discount, next_value, flags(0, 1, 0, 0))
    torch.testing.assert_close(cut, column(10, 10, 1000, 1000))
    assert discounted_returns(reward, discount, next_value, flags(0, 0, 0, 0))[1].item() == pytest.approx(901)


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 1.0])
def test_true_values_have_no_advantage(lambda_: float) -> None:
    ended = flags(0, 0, 1, 0, 0)
    ones = torch.ones_like(ended, dtype=torch.float64)
    constant = TRUE_VALUE * ones
    advantages = generalized_advantages(ones, GAMMA * ones, constant, constant, ended, lambda_)
    torch.testing.assert_close(advantages, torch.zeros_like(ones), atol=1e-12, rtol=0)
    terminated = generalized_advantages(ones, GAMMA * ~ended, constant, constant, ended, lambda_)
    assert terminated[2].item() == pytest.approx(-9)  # negative control: truncation treated as termination


def test_no_gradient_flows_through_targets() -> None:
    rollout = random_rollout(0)
    value = rollout.value.clone().requires_grad_()
    following = rollout.next_value.clone().requires_grad_()
    reward, discount, _, ended = rollout.stream
    assert not lambda_returns(reward, discount, following, ended, 0.5).requires_grad
    assert not n_step_returns(reward, discount, following, ended, 3).requires_grad
    assert not generalized_advantages(reward, discount, value, following, ended, 0.5).requires_grad


def test_float32_stays_float32() -> None:
    rollout = random_rollout(0)
    reward, discount, next_value, ended = (tensor.float() for tensor in rollout.stream)
    assert lambda_returns(reward, discount, next_value, ended.bool(), 0.5).dtype == torch.float32
    value = rollout.value.float()
    assert generalized_advantages(reward, discount, value, next_value, ended.bool(), 0.5).dtype == torch.float32


def test_a_vector_among_matrices_is_rejected() -> None:
    """A next value [N] would be broadcast over time: wrong in every row but the last."""
    rollout = random_rollout(0)
    reward, discount, next_value, ended = rollout.stream
    for function in (discounted_returns, lambda x, d, v, e: n_step_returns(x, d, v, e, 2)):
        with pytest.raises(ValueError, match="next_value has shape"):
            function(reward, discount, next_value[-1], ended)
    with pytest.raises(ValueError, match="value has shape"):
        generalized_advantages(reward, discount, rollout.value[0], next_value, ended, 0.5)


def test_n_below_one_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        n_step_returns(*random_rollout(0).stream, n=0)


def test_an_infinite_value_after_a_termination_is_not_seen() -> None:
    reward, discount = torch.ones(2, 1), torch.tensor([[0.5], [0.0]])
    next_value, ended = torch.tensor([[2.0], [float("inf")]]), torch.tensor([[False], [True]])
    assert lambda_returns(reward, discount, next_value, ended, 1.0).flatten().tolist() == [1.5, 1.0]
