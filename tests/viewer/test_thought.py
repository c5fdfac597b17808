"""What an agent computes for one observation; saliency against finite differences."""

from typing import Any

import numpy as np
import pytest
import torch
from small_runs import CARTPOLE, INVADERS
from stage import new_agent

import q2pi
from q2pi.types import Array
from q2pi.viewer.thought import histogram, think

SMALL = {name: CARTPOLE[name] for name in ("env_id", "device", "total_timesteps")}


def finite_differences(value: Any, observation: Array, step: float) -> Array:
    """Return the absolute central difference of `value` with respect to each element, in float64."""
    result = np.zeros(observation.size)
    for index in range(observation.size):
        for sign in (1, -1):
            moved = observation.astype(np.float64).reshape(-1).copy()
            moved[index] += sign * step
            result[index] += sign * value(moved.reshape(observation.shape)) / (2 * step)
    return np.abs(result).reshape(observation.shape)


def test_saliency_of_a_q_network_is_the_gradient_of_its_largest_q_value() -> None:
    agent, observation = new_agent("dqn", CARTPOLE | {"num_envs": 1})
    network = agent.networks()["online"].double()

    def value(row: Array) -> float:
        with torch.no_grad():
            torso = network.torso.layers(torch.from_numpy(row)[None])
            return float((torso @ network.head.weight.T + network.head.bias).max())

    expected = finite_differences(value, observation, 1e-5)
    network.float()
    thought = think(agent, observation)
    assert thought.kind == "Q(s, a)"
    np.testing.assert_allclose(thought.saliency, expected, rtol=1e-3, atol=1e-5)
    assert thought.value == pytest.approx(thought.numbers.max(), rel=1e-5)


def test_saliency_of_an_actor_critic_is_the_gradient_of_v() -> None:
    agent, observation = new_agent("ppo", SMALL | {"num_envs": 1})
    thought = think(agent, observation)
    assert thought.kind == "pi(a|s)"
    assert thought.numbers.sum() == pytest.approx(1, abs=1e-5)
    assert thought.value == pytest.approx(float(agent.values(observation[None])[0]), rel=1e-5)  # type: ignore[attr-defined]
    step = np.float32(1e-2)
    moved = [agent.values((observation + np.eye(4, dtype=np.float32)[0] * s)[None])[0] for s in (step, -step)]  # type: ignore[attr-defined]
    assert thought.saliency is not None
    assert thought.saliency[0] == pytest.approx(abs(float(moved[0] - moved[1])) / (2 * step), rel=0.05)


def test_saliency_of_images_has_their_shape_and_leaves_the_observation_as_it_is() -> None:
    agent, observation = new_agent("dqn", INVADERS | {"num_envs": 1, "buffer_size": 200})
    before = observation.copy()
    thought = think(agent, observation)
    np.testing.assert_array_equal(observation, before)
    assert thought.saliency is not None
    assert thought.saliency.shape == observation.shape == (4, 36, 36)
    assert thought.saliency.max() > 0


@pytest.mark.parametrize("with_saliency", [True, False])
@pytest.mark.parametrize(
    ("algorithm", "options"),
    [("dqn", CARTPOLE), ("dqn", INVADERS | {"buffer_size": 200}), ("rainbow", CARTPOLE | {"noisy": True})],
)
def test_the_shown_q_values_are_those_that_choose_the_action(
    algorithm: str, options: dict[str, Any], with_saliency: bool
) -> None:
    agent, observation = new_agent(algorithm, options | {"num_envs": 1})
    agent.act(observation[None], step=1)  # draws the noise of noisy layers, which are shown without
    q = think(agent, observation, with_saliency).q
    assert q is not None
    np.testing.assert_array_equal(q, agent.q_values(observation[None])[0])  # type: ignore[attr-defined]
    assert len(np.unique(q)) > 1


def test_masked_actions_have_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, observation = new_agent("dqn", CARTPOLE | {"num_envs": 1})
    lowest = np.finfo(np.float32).min
    monkeypatch.setattr(
        agent, "q_of", lambda inputs: torch.stack([inputs[:, 0], torch.full_like(inputs[:, 0], lowest)], 1)
    )
    thought = think(agent, observation)
    assert thought.q is not None
    assert thought.q.tolist() == [observation[0], lowest]
    assert np.isnan(thought.numbers).tolist() == [False, True]
    assert thought.value == observation[0]


def test_an_agent_without_value_network_has_no_saliency() -> None:
    agent, observation = new_agent("reinforce", SMALL | {"num_envs": 1, "baseline": "none"})
    thought = think(agent, observation)
    assert (thought.value, thought.saliency) == (None, None)
    assert thought.kind == "pi(a|s)"


def test_without_saliency_the_value_is_the_same() -> None:
    agent, observation = new_agent("dqn", CARTPOLE | {"num_envs": 1})
    assert think(agent, observation, with_saliency=False).saliency is None
    assert think(agent, observation, with_saliency=False).value == think(agent, observation).value


def test_a_table_has_values_and_no_saliency() -> None:
    agent = q2pi.train("q_learning", env_id="q2pi/AliasedVacuumCells-v0", total_timesteps=50, evaluation_episodes=0)
    thought = think(agent, np.array([2]))
    assert (thought.kind, thought.saliency) == ("Q(s, a)", None)
    assert thought.value == thought.numbers.max()


def test_a_histogram_sums_the_probabilities_of_each_bin() -> None:
    values = np.array([[0.0, 1.0, 2.0, 4.0], [0.0, 0.0, 4.0, 4.0]])
    probabilities = np.array([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])
    shown = histogram(values, probabilities)
    assert (shown.low, shown.high) == (0.0, 4.0)
    np.testing.assert_allclose(shown.probabilities, [[0.1, 0.2, 0.3, 0.4], [0.5, 0, 0, 0.5]])
    assert histogram(np.ones((2, 3)), np.full((2, 3), 1 / 3)).low == 0.5


@pytest.mark.parametrize("kind", ["categorical", "quantile", "implicit"])
def test_the_mean_of_the_distribution_is_the_q_value(kind: str) -> None:
    agent, observation = new_agent("rainbow", CARTPOLE | {"num_envs": 1, "distribution": kind})
    distributional: Any = agent
    values, probabilities = distributional.return_distribution(observation[None])
    thought = think(agent, observation)
    np.testing.assert_allclose(probabilities.sum(axis=2), 1, rtol=1e-5)
    np.testing.assert_allclose((values * probabilities).sum(axis=2)[0], thought.numbers, atol=1e-4)
    assert thought.distribution is not None
    np.testing.assert_allclose(thought.distribution.probabilities.sum(axis=1), 1, rtol=1e-4)
    assert thought.saliency is not None


def test_without_a_distribution_none_is_shown() -> None:
    agent, observation = new_agent("rainbow", CARTPOLE | {"num_envs": 1, "distribution": "none"})
    assert think(agent, observation).distribution is None
