"""When epsilon falls: over a share of the budget, or over a number of agent steps that the budget does not change."""

import pytest
from small_dqn import make_agent


def test_a_share_of_the_budget() -> None:
    agent = make_agent(total_timesteps=1_000, start_e=1.0, end_e=0.2, exploration_fraction=0.4)
    assert [agent.epsilon(step) for step in (0, 200, 400, 1_000)] == pytest.approx([1.0, 0.6, 0.2, 0.2])


@pytest.mark.parametrize("budget", [1_000, 1_000_000])
def test_a_number_of_steps_after_a_delay_whatever_the_budget(budget: int) -> None:
    """As Dopamine's `linearly_decaying_epsilon`: 1 during the warm-up, then a line over the decay period."""
    agent = make_agent(total_timesteps=budget, start_e=1.0, end_e=0.2, exploration_steps=400, exploration_delay=100)
    expected = [1.0, 1.0, 0.6, 0.2, 0.2]
    assert [agent.epsilon(step) for step in (0, 100, 300, 500, 900)] == pytest.approx(expected)
