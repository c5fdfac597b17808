"""Environments that are not reproducible are found by a short check, or when they are restored; others are refused."""

import random
from typing import Any

import gymnasium
import numpy as np
import pytest
from own_envs import Small, registered

from q2pi.envs.make import make_envs
from q2pi.envs.spec import EnvSpec
from q2pi.envs.vector import VectorEnv
from q2pi.errors import UserError


class Dice(Small):
    """Its episodes end at random, without regard to the seed."""

    def step(self, action: Any) -> Any:
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, random.random() < 0.3, truncated, info


class Noise(Small):
    def observe(self) -> Any:
        return np.random.default_rng().uniform(-1, 1, 3).astype(np.float32)


class Paying(Small):
    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, random.random(), *rest


class Curriculum(Small):
    """Each episode is longer than the one before."""

    episodes = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.episodes += 1
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, self.t >= self.episodes, truncated, info


class Late(Small):
    """Its observations are random from step 9 on, which the check of 8 environments does not reach."""

    def observe(self) -> Any:
        return super().observe() if self.t < 9 else np.full(3, random.random(), np.float32)


class Raising(Small):
    def step(self, action: Any) -> Any:
        raise RuntimeError("no")


@pytest.mark.parametrize("num_envs", [1, 8])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [(Small, True), (Dice, False), (Noise, False), (Paying, False), (Curriculum, False), (Raising, True)],
)
def test_a_short_check_finds_most(kind: Any, expected: bool, num_envs: int) -> None:
    with registered(kind) as env_id:
        envs = make_envs(EnvSpec(env_id), num_envs, 1)
        assert envs.check_reproducible() is expected is envs.is_reproducible
        envs.reset()
        assert envs.state()["is_reproducible"] is expected


def test_the_check_is_short_and_changes_no_episode() -> None:
    class Counting(Small):
        steps = 0

        def step(self, action: Any) -> Any:
            Counting.steps += 1
            return super().step(action)

    with registered(Counting) as env_id:
        for num_envs in (1, 3):
            Counting.steps = 0
            envs, unchecked = (make_envs(EnvSpec(env_id), num_envs, 1) for _ in range(2))
            envs.check_reproducible()
            assert 8 <= Counting.steps <= 40
            np.testing.assert_array_equal(envs.reset(), unchecked.reset())


def test_environments_known_to_be_reproducible_are_not_stepped(monkeypatch: pytest.MonkeyPatch) -> None:
    for env_id in ("CartPole-v1", "q2pi/AliasedVacuum-v0", "Pong"):
        envs = make_envs(EnvSpec(env_id), 1, 1)
        assert envs.engine.is_known_reproducible
        monkeypatch.setattr(envs.engine, "send", None)
        assert envs.check_reproducible()
        envs.close()
    with registered(Small) as own:
        wrapped = EnvSpec("CartPole-v1", wrappers=("gymnasium.wrappers:FlattenObservation",))
        for spec in (EnvSpec(own), wrapped):
            assert not make_envs(spec, 1, 1).engine.is_known_reproducible


def in_progress(env_id: str, steps: int = 3, num_envs: int = 2) -> tuple[VectorEnv, dict[str, Any]]:
    envs = make_envs(EnvSpec(env_id), num_envs, 1)
    envs.check_reproducible()
    envs.reset()
    for _ in range(steps):
        envs.send(np.zeros(num_envs, np.int64))
        envs.recv()
    return envs, envs.state()


def test_new_episodes_begin_if_the_state_says_that_episodes_differ() -> None:
    with registered(Curriculum) as env_id:
        _, state = in_progress(env_id)
        restored = make_envs(EnvSpec(env_id), 2, 1)
        assert restored.load(state) is False
        found = restored.state()
    assert found["episode_index"].tolist() == (state["episode_index"] + 1).tolist()
    assert found["returns"].tolist() == [0.0, 0.0]
    assert not found["is_reproducible"]


def test_new_episodes_begin_if_only_the_replay_shows_it() -> None:
    with registered(Late) as env_id:
        _, state = in_progress(env_id, steps=9, num_envs=8)
        assert state["is_reproducible"], "the check missed it"
        restored = make_envs(EnvSpec(env_id), 8, 1)
        assert restored.load(state) is False
        assert restored.state()["episode_index"].tolist() == [1] * 8
        assert not restored.is_reproducible


def test_a_reproducible_environment_continues() -> None:
    with registered(Small) as env_id:
        envs, state = in_progress(env_id)
        restored = make_envs(EnvSpec(env_id), 2, 1)
        assert restored.load(state) is True
        np.testing.assert_array_equal(restored.observation, envs.observation)
        assert restored.state()["episode_index"].tolist() == [0, 0]


def test_a_difference_in_an_environment_of_gymnasium_is_refused() -> None:
    envs, state = in_progress("CartPole-v1")
    state["returns"] = state["returns"] + 1
    with pytest.raises(UserError, match="cannot restore the environments: replaying the stored actions gave other"):
        envs.load(state)


def test_another_number_of_environments_is_refused_for_all() -> None:
    with registered(Dice) as env_id:
        _, state = in_progress(env_id)
        with pytest.raises(UserError, match="--num-envs 1 differs from the checkpoint's 2 environments"):
            make_envs(EnvSpec(env_id), 1, 1).load(state)
    assert env_id not in gymnasium.registry
