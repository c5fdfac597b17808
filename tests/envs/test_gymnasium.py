import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from q2pi.envs import gymnasium as gym
from q2pi.envs.gymnasium import GymnasiumEngine, make
from q2pi.envs.make import make_envs
from q2pi.envs.spec import EnvSpec, resolve
from q2pi.errors import UserError


class Random(gymnasium.Env[Any, Any]):
    """An endless environment whose observations are samples of a given space."""

    def __init__(self, space: Any) -> None:
        self.observation_space = space
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 1.5, False, False, {}


def engine_with(space: Any) -> GymnasiumEngine:
    gymnasium.register("q2pi-test/Random-v0", entry_point=lambda **_: Random(space))
    try:
        return GymnasiumEngine(resolve(EnvSpec("q2pi-test/Random-v0")), 2)
    finally:
        del gymnasium.registry["q2pi-test/Random-v0"]


def first_frame(engine: GymnasiumEngine) -> Any:
    return engine.reset(np.ones(2, np.bool_), np.array([3, 4])).frame


def sample(space: Any, seed: int) -> Any:
    space.seed(seed)
    return space.sample()


def test_vectors_are_flattened_to_float32() -> None:
    space = spaces.Box(-1.0, 1.0, (2, 3), np.float64)
    engine = engine_with(space)
    frame = first_frame(engine)
    assert (frame.dtype, frame.shape, engine.frame_space.shape) == (np.float32, (2, 6), (6,))
    np.testing.assert_array_equal(frame[1], sample(space, 4).reshape(-1).astype(np.float32))


def test_images_are_channels_first() -> None:
    space = spaces.Box(0, 255, (5, 4, 3), np.uint8)
    engine = engine_with(space)
    frame = first_frame(engine)
    assert (frame.dtype, frame.shape, engine.frame_space.shape) == (np.uint8, (2, 3, 5, 4), (3, 5, 4))
    np.testing.assert_array_equal(frame[0, 2], sample(space, 3)[:, :, 2])


def test_discrete_observations_count_from_zero() -> None:
    space = spaces.Discrete(6, start=10)
    engine = engine_with(space)
    frame = first_frame(engine)
    assert (frame.dtype, frame.shape, engine.frame_space.high.tolist()) == (np.int64, (2, 1), [5])
    assert frame[:, 0].tolist() == [sample(space, 3) - 10, sample(space, 4) - 10]


@pytest.mark.filterwarnings("ignore:.*out of date")
@pytest.mark.parametrize(("env_id", "count"), [("Taxi-v3", 500), ("FrozenLake", 16), ("CliffWalking", 48)])
def test_numbers_of_states_of_toy_environments(env_id: str, count: int) -> None:
    engine = GymnasiumEngine(resolve(EnvSpec(env_id)), 2)
    assert first_frame(engine).shape == (2, 1)
    assert engine.frame_space.high.tolist() == [count - 1]


def test_blackjack_has_three_components() -> None:
    engine = GymnasiumEngine(resolve(EnvSpec("Blackjack-v1")), 2)
    assert (first_frame(engine).shape, engine.frame_space.high.tolist()) == ((2, 3), [31, 10, 1])


def test_images_are_stacked_by_default() -> None:
    image = spaces.Box(0, 255, (5, 4, 3), np.uint8)
    gymnasium.register("q2pi-test/Random-v0", entry_point=lambda **_: Random(image))
    try:
        assert resolve(EnvSpec("q2pi-test/Random-v0")).stack == 4
    finally:
        del gymnasium.registry["q2pi-test/Random-v0"]


def test_box_actions_are_unchanged() -> None:
    engine = GymnasiumEngine(resolve(EnvSpec("Pendulum-v1")), 2)
    assert engine.action_space == spaces.Box(-2.0, 2.0, (1,), np.float32)
    first = first_frame(engine)
    engine.send(np.array([[2.0], [-2.0]], np.float32))
    frames = engine.recv()
    assert frames.reward.dtype == np.float64
    alone = gymnasium.make("Pendulum-v1")
    observation, _ = alone.reset(seed=4)
    np.testing.assert_array_equal(first[1], observation)
    observation, reward, *_ = alone.step(np.array([-2.0], np.float32))
    np.testing.assert_array_equal(frames.frame[1], observation)
    assert frames.reward[1] == reward
    assert first[1].tolist() != frames.frame[1].tolist()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(UserError) as raised:
        resolve(EnvSpec("LunarLander-v3"))
    assert str(raised.value) == "--env-id LunarLander-v3 needs more packages: pip install 'q2pi[box2d]'"


def test_env_options_reach_the_environment() -> None:
    spec = resolve(EnvSpec("q2pi/AliasedVacuumCells-v0", env_options=("length=9", "dust=6")))
    env = make(spec).unwrapped
    assert (env.length, env.dust) == (9, 6)
    assert GymnasiumEngine(spec, 1).frame_space.high.tolist() == [9]


def test_env_options_are_read_as_toml_or_as_text() -> None:
    spec = EnvSpec("CartPole-v1", env_options=("a=1", "b=0.5", "c=true", "d=west", 'e="7"', "f=[1, 2]", "g=x=y"))
    assert spec.keywords() == {"a": 1, "b": 0.5, "c": True, "d": "west", "e": "7", "f": [1, 2], "g": "x=y"}


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("q2pi/AliasedVacuum-v0", ("length=3",), "--env-options length=3: .* length 3 is less than 4"),
        ("q2pi/AliasedVacuum-v0", ("colour=red",), "rejects them: .*colour"),
        ("q2pi/AliasedVacuum-v0", ("length",), "--env-options length: it must be NAME=VALUE"),
        ("q2pi/AliasedVacuum-v0", ("length=5", "length=6"), "each name once"),
        ("SpaceInvaders", ("difficulty=1",), "--env-options difficulty=1 applies to Gymnasium environments"),
    ],
)
def test_bad_env_options(env_id: str, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(EnvSpec(env_id, env_options=options))


def test_an_environment_without_a_time_limit_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym, "DEFAULT_TIME_LIMIT", 3)
    engine = engine_with(spaces.Discrete(4))
    engine.reset(np.ones(2, np.bool_), np.array([3, 4]))
    cut = []
    for _ in range(3):
        engine.send(np.zeros(2, np.int64))
        cut.append(engine.recv().truncated.tolist())
    assert cut == [[False, False], [False, False], [True, True]]


def test_an_existing_time_limit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym, "DEFAULT_TIME_LIMIT", 3)
    assert make(resolve(EnvSpec("CartPole-v1"))).spec.max_episode_steps == 500
    limited = EnvSpec("CliffWalking-v1", env_options=("max_episode_steps=7",))
    assert make(resolve(limited)).spec.max_episode_steps == 7


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1"])
def test_observations_rewards_and_ends_are_gymnasiums(env_id: str) -> None:
    """Step by step, negative numbers included."""
    envs, plain = make_envs(EnvSpec(env_id), 1, 7), gymnasium.make(env_id)
    plain.action_space.seed(1)
    found = envs.reset()
    expected, _ = plain.reset(seed=envs.seed_of(0, 0))
    seen, episodes = [], 0
    for _ in range(250):
        np.testing.assert_array_equal(found[0], expected)
        action = plain.action_space.sample()
        envs.send(np.array([action]))
        step = envs.recv()
        expected, reward, terminated, truncated, _ = plain.step(action)
        np.testing.assert_array_equal(step.next_observation[0], expected)
        assert step.reward[0] == reward
        assert (step.terminated[0], step.truncated[0]) == (terminated, truncated)
        seen.append(expected)
        if terminated or truncated:
            episodes += 1
            expected, _ = plain.reset(seed=envs.seed_of(0, episodes))
        found = step.observation
    assert np.min(seen) < -0.1
    envs.close()


@pytest.mark.parametrize(
    "space",
    [spaces.Box(0, 255, (5, 4, 3), np.uint8), spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(99)],
    ids=["image", "vector", "table"],
)
def test_frames_are_not_written_again(space: Any) -> None:
    engine = engine_with(space)
    frame = first_frame(engine)
    before = frame.copy()
    engine.send(np.zeros(2, np.int64))
    assert not np.array_equal(engine.recv().frame, before)
    np.testing.assert_array_equal(frame, before)
