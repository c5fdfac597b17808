import numpy as np
import pytest

from q2pi.equations.tabular import Target, epsilon_greedy, tabular_target

# 4 is the value of the next action, 99 of the greedy action, 7 of the action that the other table selects.
Q_NEXT = np.array([4.0, 99.0, 7.0])
Q_SELECTOR = np.array([1.0, 2.0, 3.0])


def test_epsilon_greedy_by_hand() -> None:
    np.testing.assert_allclose(epsilon_greedy([1.0, 5.0, 3.0, 2.0], 0.2), [0.05, 0.85, 0.05, 0.05])


def test_ties_share_the_greedy_probability() -> None:
    np.testing.assert_allclose(epsilon_greedy([[5.0, 5.0], [1.0, 5.0]], 0.5), [[0.5, 0.5], [0.25, 0.75]])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("q_learning", 1 + 0.1 * 99),
        ("sarsa", 1 + 0.1 * 4),
        ("expected_sarsa", 1 + 0.1 * (0.1 * 4 + 0.8 * 99 + 0.1 * 7)),
    ],
)
def test_targets_by_hand(target: Target, expected: float) -> None:
    assert tabular_target(target, 1.0, 0.1, Q_NEXT, next_action=0, epsilon=0.3) == pytest.approx(expected)


def test_double_selects_with_one_table_and_evaluates_with_the_other() -> None:
    assert tabular_target("double_q", 1.0, 0.1, Q_NEXT, q_selector=Q_SELECTOR) == pytest.approx(1 + 0.1 * 7)


def test_sarsa_without_a_next_action_is_expected_sarsa() -> None:
    value = tabular_target("sarsa", 1.0, 0.1, Q_NEXT, next_action=None, epsilon=0.3)
    assert value == pytest.approx(1 + 0.1 * (0.1 * 4 + 0.8 * 99 + 0.1 * 7))


@pytest.mark.parametrize("target", ["q_learning", "sarsa", "expected_sarsa"])
def test_no_bootstrap_after_termination(target: Target) -> None:
    assert tabular_target(target, 5.0, 0.0, Q_NEXT, next_action=1, epsilon=0.3) == 5.0


def test_double_removes_the_bias_of_the_maximum() -> None:
    """All true values are 0: the maximum of a noisy estimate is positive, another estimate at its place is not."""
    first, second = np.random.default_rng(0).normal(size=(2, 5_000, 4))
    double = [tabular_target("double_q", 0, 1, b, q_selector=a) for a, b in zip(first, second, strict=True)]
    single = [tabular_target("q_learning", 0, 1, a) for a in first]
    assert abs(np.mean(double)) < 0.06  # four standard errors
    # The expected maximum of four standard normals is 1.0294 (order statistics).
    assert np.mean(single) == pytest.approx(1.0294, abs=0.04)


@pytest.mark.parametrize(
    ("target", "selector"), [("double_q", None), ("q_learning", Q_SELECTOR), ("sarsa", Q_SELECTOR)]
)
def test_q_selector_is_for_double_q_only(target: Target, selector: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match=f"target is {target}"):
        tabular_target(target, 0.0, 1.0, Q_NEXT, q_selector=selector)
