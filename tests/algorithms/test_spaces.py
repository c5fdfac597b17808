"""Every algorithm trains, resumes exactly, is evaluated and predicts on every observation space that it claims."""

import warnings
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from small_envs import Forbidden, Sampled, nested, registered
from small_runs import QUIET, digests

from q2pi.algorithms.build import build_agent
from q2pi.algorithms.registry import default_config
from q2pi.config import ResolvedConfig, override, resolve
from q2pi.envs.make import make_envs
from q2pi.errors import UserError
from q2pi.evaluation.evaluate import evaluate
from q2pi.training.events import Checkpoint, Started
from q2pi.training.loop import run

SMALL: dict[str, dict[str, Any]] = {
    "dqn": {"learning_starts": 40, "buffer_size": 64, "batch_size": 8, "hidden": (8,)},
    "rainbow": {"learning_starts": 40, "buffer_size": 64, "batch_size": 8, "hidden": (8, 8), "atoms": 5},
    "pqn": {"num_steps": 8, "num_minibatches": 2, "hidden": (8,)},
    "pqn_laptop": {"num_steps": 8, "num_minibatches": 2, "hidden": (8,), "recent_rollouts": 2},
    "ppo": {"num_steps": 8, "num_minibatches": 2, "hidden": (8,)},
    "a2c": {"num_steps": 8, "hidden": (8,)},
    "reinforce": {"episodes_per_update": 4, "hidden": (8,)},
    "q_learning": {},
}
TABLES = {
    "discrete": spaces.Discrete(3, start=-1),
    "multidiscrete": spaces.MultiDiscrete([2, 3], start=[0, 4]),
    "tuple of discrete": spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3, start=1)]),
    "dict of discrete": spaces.Dict({"x": spaces.Discrete(2), "y": spaces.MultiDiscrete([2, 2])}),
}
OTHERS = {
    "vector": spaces.Box(-1, 1, (3,), np.float64),
    "scalar": spaces.Box(-1, 1, (), np.float32),
    "matrix": spaces.Box(-1, 1, (3, 2), np.float32),
    "bytes": spaces.Box(0, 255, (4,), np.uint8),
    "bits": spaces.MultiBinary(4),
    "channels last": spaces.Box(0, 255, (7, 7, 3), np.uint8),
    "channels first": spaces.Box(0, 255, (3, 36, 36), np.uint8),
    "gray": spaces.Box(0, 255, (8, 8), np.uint8),
    "floats": spaces.Box(0, 1, (8, 8, 3), np.float32),
    "planes": spaces.Box(0, 1, (10, 10, 6), bool),
    "nested": nested(),
    "images": spaces.Dict({name: spaces.Box(0, 255, (4, 4, 3), np.uint8) for name in "ab"}),
}
CASES = [(name, space) for name in SMALL for space in (TABLES if name == "q_learning" else {**TABLES, **OTHERS})]


def space_of(kind: str) -> Any:
    return {**TABLES, **OTHERS}[kind]


def config_of(name: str, env_id: str, **changes: Any) -> ResolvedConfig[Any]:
    options = QUIET | {"env_id": env_id, "total_timesteps": 96, "num_envs": 2, "checkpoint_frequency": 48}
    return resolve(override(default_config(name), options | SMALL[name] | changes))


def trained(config: ResolvedConfig[Any]) -> Any:
    agent = None
    for event in run(config):
        agent = event.agent if isinstance(event, Started) else agent
    assert agent is not None
    return agent


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_it_trains_is_evaluated_and_predicts(name: str, kind: str) -> None:
    space = space_of(kind)
    actions = spaces.Discrete(3, start=0 if name == "q_learning" else 2)
    with registered(lambda **_: Sampled(space, actions)) as env_id:
        config = config_of(name, env_id)
        agent = trained(config)
        assert evaluate(agent, config.env, step=96, episodes=2, seed=1).scores == [10, 10]
    space.seed(3)
    values = [space.sample() for _ in range(3)]
    batch = concatenate(space, values, create_empty_array(space, 3))
    assert batch_space(space, 3).contains(batch)
    many, state = agent.predict(batch, episode_start=True)
    assert np.shape(many) == (3,)
    ones = [agent.predict(value, episode_start=True) for value in values]
    assert [one for one, _ in ones] == many.tolist()
    assert all(actions.contains(one) for one, _ in ones)
    assert (state is None) == (config.env.stack == 1)


@pytest.mark.parametrize("name", [name for name in SMALL if name != "q_learning"])
@pytest.mark.parametrize("kind", ["nested", "mask"])
def test_a_resumed_run_is_the_uninterrupted_one(name: str, kind: str) -> None:
    """With a Dict, a stack and a mask, all weights and buffers have the same bytes."""
    stack = {"stack": 2}

    def make(**_: Any) -> Any:
        return Forbidden(length=7) if kind == "mask" else Sampled(nested(), length=7)

    with registered(make) as env_id:
        config = config_of(name, env_id, **stack)
        states = {event.step: event.state for event in run(config) if isinstance(event, Checkpoint)}
        first = next(event.state for event in run(config) if isinstance(event, Checkpoint))
        assert digests(config, first)[96] == digests(config)[96]
        assert sorted(states) == [48, 96]


def test_predictions_of_one_frame_are_those_of_the_stack() -> None:
    """The state carries the earlier frames, as VectorEnv stacks them."""
    space = OTHERS["channels last"]
    with registered(lambda **_: Sampled(space, length=5)) as env_id:
        config = config_of("dqn", env_id, stack=3, eval_epsilon=0.0)
        agent: Any = build_agent(config, make_envs(config.env, 2, 1))
        envs, plain = make_envs(config.env, 1, 1), Sampled(space, length=5)
        stacked, state, starts = envs.reset(), None, True
        observation, _ = plain.reset(seed=envs.seed_of(0, 0))
        for _ in range(4):
            action, state = agent.predict(observation, state, starts)
            np.testing.assert_array_equal(state, stacked)
            assert action == agent.predict(stacked)[0][0] == agent.predict(np.moveaxis(stacked[0], 0, -1))[0]
            envs.send(np.array([action]))
            stacked, starts = envs.recv().observation, False
            observation = plain.step(action)[0]
        with pytest.warns(UserWarning, match="the other 2 frames of the stack are zeros"):
            agent.predict(observation)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            agent.predict(stacked)


def test_tables_are_predicted_in_the_environments_numbering() -> None:
    with registered(lambda **_: Sampled(spaces.Discrete(3, start=5), actions=spaces.Discrete(3))) as env_id:
        config = config_of("q_learning", env_id)
        agent: Any = build_agent(config, make_envs(config.env, 2, 1))
    agent.q[0, [0, 1, 2], [2, 0, 1]] = 1
    assert [agent.predict(state)[0] for state in (5, 6, np.int64(7))] == [2, 0, 1]
    for batch in (np.array([5, 6, 7]), [5, 6, 7], np.array([[5], [6], [7]])):
        assert agent.predict(batch)[0].tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match="the observation 0: its space"):
        agent.predict(0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((5, 5, 3), np.uint8), r"observation of shape \(5, 5, 3\): expected"),
        (np.full((7, 7, 3), 300), "from 300 to 300"),
        ({"camera": 1}, "observation of shape dict: expected"),
    ],
)
def test_other_observations_are_named(value: Any, message: str) -> None:
    with registered(lambda **_: Sampled(OTHERS["channels last"])) as env_id:
        config = config_of("ppo", env_id)
        agent: Any = build_agent(config, make_envs(config.env, 2, 1))
    with pytest.raises(ValueError, match=message):
        agent.predict(value, episode_start=True)


@pytest.mark.parametrize(
    ("network", "size", "message"),
    [
        ("nature", 20, "has images of 20 x 20 pixels: --network nature needs at least 36 x 36"),
        ("nips", 19, "has images of 19 x 19 pixels: --network nips needs at least 20 x 20"),
        ("minatar", 2, "has images of 2 x 2 pixels: --network minatar needs at least 3 x 3"),
    ],
)
def test_a_network_larger_than_the_image_is_refused(network: str, size: int, message: str) -> None:
    with registered(lambda **_: Sampled(spaces.Box(0, 255, (40, 40, 3), np.uint8))) as env_id:
        config = config_of("dqn", env_id, network=network, resize=(size, size))
        with pytest.raises(UserError, match=message):
            next(run(config))
        assert next(run(config_of("dqn", env_id, network=network)))


def test_large_discrete_spaces_are_for_tables() -> None:
    with registered(lambda **_: Sampled(spaces.Discrete(1_000_000))) as env_id:
        assert next(run(config_of("q_learning", env_id)))
        with pytest.raises(
            UserError, match="has 1000000 values of Discrete observations, at most 100000 fit a network"
        ):
            next(run(config_of("ppo", env_id)))


def test_only_vectors_of_a_nested_space_are_normalised() -> None:
    with registered(lambda **_: Sampled(nested())) as env_id:
        config = config_of("ppo", env_id, normalize_observations=True)
        agent = trained(config)
        observation = make_envs(config.env, 2, 1).reset()
    rows = agent.tensor(observation).numpy()
    vector = agent.spec.layout.vector_entries()
    assert vector.sum() == 5
    np.testing.assert_array_equal(rows[:, ~vector], observation[:, ~vector])
    mean, variance = agent.observations.moments.mean, agent.observations.moments.variance
    expected = (observation[:, vector] - mean) / np.sqrt(variance + 1e-8)
    np.testing.assert_allclose(rows[:, vector], expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["channels last", "discrete", "images"])
def test_what_has_no_vector_is_not_normalised(kind: str) -> None:
    with registered(lambda **_: Sampled(space_of(kind))) as env_id, pytest.raises(UserError, match="is for vectors"):
        next(run(config_of("ppo", env_id, normalize_observations=True)))
