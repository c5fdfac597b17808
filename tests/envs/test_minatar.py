"""MinAtar's games: channel-last boolean images, exact resume, and the message without the package."""

import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from small_runs import QUIET, digests

from q2pi.config import override, resolve
from q2pi.envs.make import make_envs
from q2pi.envs.spec import EnvSpec
from q2pi.envs.spec import resolve as resolve_env
from q2pi.errors import UserError
from q2pi.runs import checkpoint
from q2pi.training.presets import configure

GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")


@pytest.mark.parametrize("game", GAMES)
def test_frames_are_the_games_channels_first(game: str) -> None:
    spec = resolve_env(EnvSpec(f"MinAtar/{game}-v1", stack=1))
    envs = make_envs(spec, 1, seed=3)
    plain = gymnasium.make(f"MinAtar/{game}-v1", disable_env_checker=True)
    assert envs.action_space == plain.action_space
    observation = envs.reset()
    channels = plain.observation_space.shape[2]  # type: ignore[index]
    assert observation.shape == (1, channels, 10, 10)
    assert observation.dtype == np.uint8
    for step in range(20):
        assert set(np.unique(observation)) <= {0, 255}
        state = plain_state(envs)
        np.testing.assert_array_equal(observation[0] == 255, np.moveaxis(state, -1, 0), err_msg=f"step {step}")
        envs.send(np.array([step % plain.action_space.n]))  # type: ignore[attr-defined]
        observation = envs.recv().observation
    envs.close()


def plain_state(envs: object) -> np.ndarray:
    """Return the state [10, 10, C] of the first environment's own game."""
    engine = envs.engine  # type: ignore[attr-defined]
    inner = engine._envs
    first = inner.envs[0] if hasattr(inner, "envs") else inner[0]
    return np.asarray(first.unwrapped.game.state())


def test_the_preset_has_the_small_network() -> None:
    for game in GAMES:
        config, preset = configure("rainbow", f"MinAtar/{game}-v1")
        assert preset == "MinAtar"
        assert (config.env.env_id, config.env.stack, config.hyper.network) == (f"MinAtar/{game}-v1", 1, "minatar")
    assert configure("rainbow", "MinAtar/Breakout-v1", "iqn")[0].hyper.network == "minatar"


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    options = {"total_timesteps": 300, "learning_starts": 100, "checkpoint_frequency": 100, "buffer_size": 500}
    config = override(configure("rainbow", "MinAtar/Breakout-v1")[0], QUIET | options)
    whole = digests(config, keep=(200, tmp_path))
    _, state, _, _ = checkpoint.load_newest(tmp_path)
    assert digests(config, state) == {300: whole[300]}


def test_the_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minatar", None)
    monkeypatch.setitem(sys.modules, "minatar.gym", None)
    config, _ = configure("rainbow", "MinAtar/Breakout-v1")
    monkeypatch.delitem(sys.modules, "q2pi.envs.minatar", raising=False)
    with pytest.raises(UserError, match=r"needs more packages: pip install 'q2pi\[minatar\]'"):
        make_envs(resolve(config).env, 1, seed=1)
