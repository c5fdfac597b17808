"""`--wrappers MODULE:NAME`: applied in order, wherever an environment is made; mistakes are named in one line."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from own_envs import Small, registered

from q2pi.envs.gymnasium import make
from q2pi.envs.make import make_envs
from q2pi.envs.spec import EnvSpec, resolve
from q2pi.errors import UserError

MODULE = """
import gymnasium

class Inner:
    nothing = 3

    class Double(gymnasium.RewardWrapper):
        def reward(self, reward):
            return 2.0 * reward

class AddOne(gymnasium.RewardWrapper):
    def reward(self, reward):
        return reward + 1.0

def limited(env):
    return gymnasium.wrappers.TimeLimit(env, 4)

def broken(env):
    raise RuntimeError("no")

def nothing(env):
    return None

number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with a module of wrappers."""
    (tmp_path / "own_wrappers.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("wrappers", "reward"),
    [
        ((), 1.0),
        (("own_wrappers:AddOne", "own_wrappers:Inner.Double"), 4.0),
        (("own_wrappers:Inner.Double", "own_wrappers:AddOne"), 3.0),
    ],
)
def test_wrappers_are_applied_in_order(wrappers: tuple[str, ...], reward: float) -> None:
    with registered(Small) as env_id:
        envs = make_envs(EnvSpec(env_id, wrappers=wrappers), 2, 1)
        envs.reset()
        envs.send(np.zeros(2, np.int64))
        assert envs.recv().reward.tolist() == [reward, reward]


@pytest.mark.usefixtures("folder")
def test_the_spaces_are_those_of_the_outermost_wrapper() -> None:
    spec = EnvSpec("FrozenLake", wrappers=("gymnasium.wrappers:FlattenObservation",))
    assert make_envs(spec, 1, 1).frame_shape == (16,)


@pytest.mark.usefixtures("folder")
def test_a_time_limit_of_a_wrapper_counts() -> None:
    with registered(Small) as env_id:
        env = make(resolve(EnvSpec(env_id, wrappers=("own_wrappers:limited",))))
    assert isinstance(env, gymnasium.wrappers.TimeLimit)
    assert not isinstance(env.env, gymnasium.wrappers.TimeLimit)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        ("own_wrappers", "--wrappers own_wrappers: it must be MODULE:NAME"),
        ("own_wrappers:", "--wrappers own_wrappers:: it must be MODULE:NAME"),
        ("no_wrappers:A", "--wrappers no_wrappers:A cannot be imported: ModuleNotFoundError"),
        ("own_wrappers:AddTwo", "--wrappers own_wrappers:AddTwo: own_wrappers has no AddTwo (did you mean 'AddOne'?)"),
        ("own_wrappers:number", "--wrappers own_wrappers:number: number cannot be called with an environment"),
        ("own_wrappers:broken", "the wrapper own_wrappers:broken raised RuntimeError: no"),
        ("own_wrappers:nothing", "--wrappers own_wrappers:nothing: it returned None, and must return a Gymnasium env"),
    ],
)
def test_a_mistake_is_named(wrapper: str, message: str) -> None:
    with registered(Small) as env_id, pytest.raises(UserError) as raised:
        make_envs(EnvSpec(env_id, wrappers=(wrapper,)), 1, 1)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
