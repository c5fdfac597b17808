"""What an environment does wrong is named as the environment's, before anything learns from it."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from own_envs import Small, registered

from q2pi.envs.errors import EnvError
from q2pi.envs.make import make_envs
from q2pi.envs.spec import EnvSpec
from q2pi.envs.vector import VectorEnv
from q2pi.types import Array


def stepped(kind: Any, steps: int = 25, num_envs: int = 2) -> VectorEnv:
    """Step environments of a class."""
    with registered(kind) as env_id:
        envs = make_envs(EnvSpec(env_id), num_envs, 1)
        envs.reset()
        for step in range(steps):
            envs.send(np.full(num_envs, step % 2))
            envs.recv()
        return envs


def problem_of(kind: Any) -> str:
    with pytest.raises(EnvError) as raised:
        stepped(kind)
    return str(raised.value)


def paying(reward: Any) -> type[Small]:
    """Return an environment whose third step has a reward of its own."""

    class Paying(Small):
        def step(self, action: Any) -> Any:
            observation, paid, *rest = super().step(action)
            return observation, reward if self.t == 3 else paid, *rest

    return Paying


@pytest.mark.parametrize(
    ("reward", "found"),
    [
        (float("nan"), "the reward nan: a reward must be finite"),
        (np.float32("inf"), "the reward inf: a reward must be finite"),
        (-float("inf"), "the reward -inf"),
        (10**400, "an integer as reward that is too large"),
        (None, "the reward None: a reward must be one number"),
        ("1.0", "the reward '1.0': a reward must be one number"),
        (np.array([1.0]), r"the reward an array of shape \(1,\)"),
        ([1.0], "the reward a list of 1 values"),
        (1j, "the reward 1j"),
    ],
)
def test_a_reward_that_is_not_a_finite_number(reward: Any, found: str) -> None:
    with pytest.raises(EnvError, match=found) as raised:
        stepped(paying(reward))
    assert str(raised.value).startswith("--env-id q2pi-test/Small-v0: step returned ")
    assert str(raised.value).endswith("(environment 0, episode 0, step 3)")
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("reward", [2, True, np.float64(0.1), np.int8(-3), np.bool_(True), np.array(0.5)])
def test_every_kind_of_number_is_a_reward(reward: Any) -> None:
    assert stepped(paying(reward), steps=9).state()["returns"].tolist() == [8.0 + float(reward)] * 2


def test_returns_are_float64_sums_of_rewards_as_paid() -> None:
    """In float32, 10 * 0.1 is 1.0000000149, and 16777217 is 16777216."""

    class Small01(Small):
        def step(self, action: Any) -> Any:
            observation, _, *rest = super().step(action)
            return observation, 16777217.0 if self.t == 1 else 0.1, *rest

    with registered(Small01) as env_id:
        envs = make_envs(EnvSpec(env_id), 1, 1)
        envs.reset()
        episodes = []
        while not episodes:
            envs.send(np.zeros(1, np.int64))
            step = envs.recv()
            episodes += step.episodes
            assert (step.reward.dtype, step.learning_reward.dtype) == (np.float64, np.float32)
        expected = 16777217.0
        for _ in range(9):
            expected += 0.1
        assert episodes[0].episode_return == expected != float(np.float32(expected))


@pytest.mark.parametrize("flag", ["terminated", "truncated"])
@pytest.mark.parametrize("value", [None, 1, "yes", np.array([True]), np.array(False)])
def test_an_end_that_is_not_a_boolean(flag: str, value: Any) -> None:
    class Ending(Small):
        def step(self, action: Any) -> Any:
            observation, reward, terminated, truncated, info = super().step(action)
            ends = {"terminated": terminated, "truncated": truncated} | {flag: value}
            return observation, reward, ends["terminated"], ends["truncated"], info

    assert f"step returned {flag} = " in problem_of(Ending)
    assert "it must be True or False (environment 0, episode 0, step 1)" in problem_of(Ending)


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 4])
def test_an_observation_that_is_not_finite(number: float, at: int) -> None:
    class Noisy(Small):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)

        def observe(self) -> Any:
            return np.where(np.arange(3) == 1, number if self.t == at else 0.0, 0.5)

    place = f"step {at}" if at else "reset"
    method = "step" if at else "reset"
    assert problem_of(Noisy) == (
        f"--env-id q2pi-test/Small-v0: {method} returned an observation with NaN or infinite numbers; "
        f"replace them in the environment or in a wrapper (--wrappers) (environment 0, episode 0, {place})"
    )


class FourValues(Small):
    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated or truncated, info


class NoOptions(Small):
    def reset(self, seed: int | None = None) -> Any:  # type: ignore[override]
        return super().reset(seed=seed)


class NoSeed(Small):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


class OnlyObservation(Small):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0]


class ObservationOfTwo(Small):
    """An observation of two numbers unpacks into a pair."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32)


class WrongShape(Small):
    def observe(self) -> Any:
        return np.zeros(4, np.float32)


class Nothing(Small):
    def step(self, action: Any) -> Any:
        return None


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (FourValues, "step returned another number of values than five: it must return (observation, reward, "),
        (NoOptions, "'options': give reset the signature reset(self, *, seed=None, options=None)"),
        (NoSeed, "give reset the signature reset(self, *, seed=None, options=None)"),
        (OnlyObservation, "reset returned only the observation: it must return the pair (observation, info)"),
        (ObservationOfTwo, "reset returned only the observation: it must return the pair (observation, info)"),
        (WrongShape, "reset returned the observation an array of shape (4,): its space is Box(-1.0, 1.0, (3,)"),
        (Nothing, "step returned another number of values than five"),
    ],
)
def test_old_interfaces_are_named(kind: Any, found: str) -> None:
    problem = problem_of(kind)
    assert found in problem
    assert problem.startswith("--env-id q2pi-test/Small-v0: ")
    assert "(environment 0, episode 0, " in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    "info",
    [None, {"a": None, "b": [1, "x"], 3: object()}, {"final_observation": np.zeros(5)}, {"_a": 1, "a": {"b": {}}}],
)
def test_infos_are_ignored(info: Any) -> None:
    class Odd(Small):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return super().reset(seed=seed)[0], info

        def step(self, action: Any) -> Any:
            *rest, _ = super().step(action)
            return *rest, info if self.t % 2 else {"a": np.zeros((self.t, 2)), "b": self}

    assert stepped(Odd).state()["episode_index"].tolist() == [2, 2]


class Explosive(Small):
    """Its environment 1 raises in the fifth step of its second episode, or in the reset before its third."""

    made = 0
    where = "step"

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.index, self.episodes = Explosive.made, -1
        Explosive.made += 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.episodes += 1
        if self.where == "reset" and self.index == 1 and self.episodes == 2:
            raise ZeroDivisionError("division by zero\nsecond line")
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        if self.where == "step" and self.index == 1 and (self.episodes, self.t) == (1, 4):
            raise ZeroDivisionError("division by zero\nsecond line")
        return super().step(action)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    def text(value: Any) -> str:
        return repr(value.tolist() if isinstance(value, np.ndarray) else value)

    actions = [{name: text(value) for name, value in state["actions"].items()} for state in (one, other)]
    rest = [{name: text(value) for name, value in state.items() if name != "actions"} for state in (one, other)]
    return actions[0] == actions[1] and rest[0] == rest[1]


@pytest.mark.parametrize(("where", "completed", "place"), [("step", 14, "episode 1, step 5"), ("reset", 19, "reset")])
def test_an_exception_is_the_environments_and_loses_no_complete_step(
    where: str, completed: int, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Explosive, "where", where)
    with registered(Explosive) as env_id:
        monkeypatch.setattr(Explosive, "made", -1)  # `resolve` makes one to look at its observations
        envs = make_envs(EnvSpec(env_id), 2, 1)
        envs.reset()
        states: list[dict[str, Any]] = []

        def run() -> None:
            for step in range(25):
                envs.send(np.full(2, step % 2))
                envs.recv()
                states.append(envs.state())

        with pytest.raises(EnvError) as raised:
            run()
    assert len(states) == completed
    assert same(envs.state(), states[-1])
    assert str(raised.value) == (
        f"--env-id {env_id}: {where} raised ZeroDivisionError: division by zero (environment 1, "
        f"{place if where == 'step' else 'episode 2, reset'})"
    )
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    with registered(Small) as env_id:
        restored = make_envs(EnvSpec(env_id), 2, 1)
        restored.load(envs.state())
        np.testing.assert_array_equal(restored.observation, envs.observation)


def test_an_environment_that_changes_its_action_does_not_change_the_stored_episode() -> None:
    class Changing(Small):
        action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

        def step(self, action: Any) -> Any:
            action += 5
            return super().step(action)

    with registered(Changing) as env_id:
        envs = make_envs(EnvSpec(env_id), 1, 1)
        envs.reset()
        sent: Array = np.full((1, 2), 0.5, np.float32)
        envs.send(sent)
        envs.recv()
        assert envs.state()["actions"]["0"].tolist() == sent.tolist() == [[0.5, 0.5]]


def test_an_environment_that_cannot_be_made() -> None:
    class Unmade(Small):
        def __init__(self, render_mode: str | None = None) -> None:
            raise RuntimeError("the port is in use")

    assert problem_of(Unmade) == "--env-id q2pi-test/Small-v0: it cannot be made: RuntimeError: the port is in use"


def test_environments_are_closed_if_a_later_one_cannot_be_made() -> None:
    class Two(Small):
        alive = 0

        def __init__(self, render_mode: str | None = None) -> None:
            super().__init__(render_mode)
            if Two.alive == 2:
                raise RuntimeError("no licence")
            Two.alive += 1

        def close(self) -> None:
            Two.alive -= 1

    with registered(Two) as env_id:
        with pytest.raises(EnvError, match="no licence; 2 exist already: if no more can, use --num-envs 2"):
            make_envs(EnvSpec(env_id), 3, 1)
        assert Two.alive == 0
