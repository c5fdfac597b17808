"""Policy gradients on every action space they claim: members of the space are sent, and the best ones are learned."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from own_envs import Small, registered

import q2pi
from q2pi.envs.make import make_envs
from q2pi.errors import UserError
from q2pi.evaluation.evaluate import evaluate

TARGETS = [
    (spaces.MultiDiscrete([3, 2, 4], start=[5, 0, -2]), [7, 0, 1]),
    (spaces.MultiDiscrete([[3], [2]]), [[2], [1]]),
    (spaces.MultiBinary(3), [1, 0, 1]),
    (spaces.MultiBinary((2, 2)), [[1, 0], [0, 0]]),
    (spaces.Box(-3, 2, (2,), np.int16), [1, -2]),
    (spaces.Discrete(4, start=-2), 1),
]


def bandit(space: Any, target: Any) -> type[Small]:
    """Return an environment that pays for each component of the target, and fails on an action outside its space."""

    class Bandit(Small):
        action_space = space

        def step(self, action: Any) -> Any:
            assert space.contains(action), f"{action!r} is outside {space}"
            self.t += 1
            distance = np.abs(np.asarray(action, np.float64) - np.asarray(target)).clip(0, 1).mean()
            return self.observe(), 1.0 - float(distance), self.t >= 10, False, {}

    return Bandit


def options(algorithm: str, steps: int) -> dict[str, Any]:
    shared: dict[str, Any] = {"total_timesteps": steps, "num_envs": 4, "threads": 1, "evaluation_episodes": 0}
    if algorithm == "reinforce":
        return shared | {"learning_rate": 0.03, "episodes_per_update": 4}
    return shared | {"learning_rate": 0.01, "num_steps": 32}


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "reinforce"])
@pytest.mark.parametrize(("space", "target"), TARGETS, ids=str)
def test_every_action_is_a_member_of_the_space(algorithm: str, space: Any, target: Any) -> None:
    with registered(bandit(space, target)) as env_id:
        agent = q2pi.train(algorithm, env_id=env_id, **options(algorithm, 128))
        scores = evaluate(agent, agent.spec.env, step=128, episodes=2, seed=1).scores
        assert all(0 <= score <= 10 for score in scores)
        envs = make_envs(agent.spec.env, 3, 1)
        observation = envs.reset()
        for deterministic in (True, False):
            actions, _ = agent.predict(observation, deterministic=deterministic)
            assert all(space.contains(action) for action in actions)
            assert space.contains(agent.predict(observation[0], deterministic=deterministic)[0])


@pytest.mark.parametrize(("space", "target"), [TARGETS[0], TARGETS[3]], ids=str)
def test_the_best_components_are_learned(space: Any, target: Any) -> None:
    with registered(bandit(space, target)) as env_id:
        agent = q2pi.train("ppo", env_id=env_id, **options("ppo", 1_536) | {"learning_rate": 0.03, "hidden": (16,)})
        actions, _ = agent.predict(np.zeros((1, 3), np.float32))
    assert actions[0].tolist() == target


@pytest.mark.parametrize(
    "space", [spaces.Dict({"a": spaces.Discrete(2)}), spaces.Tuple([spaces.Discrete(2)]), spaces.Text(4)], ids=str
)
def test_other_action_spaces_are_refused_in_one_line(space: Any) -> None:
    with registered(bandit(space, None)) as env_id, pytest.raises(UserError) as raised:
        q2pi.train("ppo", env_id=env_id, **options("ppo", 128))
    assert str(raised.value) == (
        f"--env-id {env_id} has actions {space}: ppo needs Discrete, MultiDiscrete, MultiBinary or Box actions"
    )


def test_tables_count_actions_from_the_start_of_their_space() -> None:
    class Table(bandit(spaces.Discrete(3, start=-2), -1)):  # type: ignore[misc]
        observation_space = spaces.Discrete(4)

        def observe(self) -> Any:
            return self.t % 4

    with registered(Table) as env_id:
        options = {"learning_rate": 0.5, "gamma": 0.0, "num_envs": 2, "evaluation_episodes": 0}
        agent = q2pi.train("q_learning", env_id=env_id, total_timesteps=1_000, **options)
        assert evaluate(agent, agent.spec.env, step=400, episodes=2, seed=1).scores == [10.0, 10.0]
    assert agent.predict(np.zeros((1, 1), np.int64))[0].tolist() == [-1]


@pytest.mark.parametrize("algorithm", ["dqn", "pqn", "pqn_laptop"])
def test_values_of_actions_need_a_discrete_space(algorithm: str) -> None:
    space = spaces.MultiDiscrete([2, 2])
    with registered(bandit(space, [0, 0])) as env_id, pytest.raises(UserError, match="needs a Discrete action space"):
        q2pi.train(algorithm, env_id=env_id, evaluation_episodes=0)
