"""Real environments: every Atari game and every environment of Gymnasium, MiniGrid, MinAtar and highway-env.

    pytest -m real_envs

Packages that are not installed are skipped.
"""

import importlib
from contextlib import closing
from typing import Any

import gymnasium
import numpy as np
import pytest

from q2pi.algorithms import registry
from q2pi.config import override, resolve
from q2pi.envs.make import make_envs
from q2pi.envs.names import atari_roms
from q2pi.envs.spec import EnvSpec
from q2pi.errors import UserError
from q2pi.training.events import Checkpoint
from q2pi.training.loop import run

pytestmark = pytest.mark.real_envs
PACKAGES = ("minigrid", "minatar", "highway_env", "gymnasium_robotics")
STEPS = 12
SHORT: dict[str, Any] = {"total_timesteps": 24, "num_envs": 2, "threads": 1, "evaluation_episodes": 0, "num_steps": 4}


def registered_ids() -> list[str]:
    """Return the newest version of each registered environment, but those of other backends and Atari's."""
    for package in PACKAGES:
        try:
            module = importlib.import_module(package)
        except ImportError:
            continue
        if hasattr(module, "register_envs"):
            gymnasium.register_envs(module)
            module.register_envs()
    newest: dict[str, str] = {}
    for name, spec in gymnasium.registry.items():
        base, _, version = name.rpartition("-v")
        is_other = "/" in name and name.split("/")[0] in {"ALE", "phys2d", "tabular", "GymV21Environment"}
        if is_other or str(spec.entry_point).startswith(("ale_py", "shimmy")) or name.startswith("GymV"):
            continue
        if base not in newest or int(version) > int(newest[base].rpartition("-v")[2]):
            newest[base] = name
    return sorted(newest.values())


def stepped(envs: Any) -> None:
    with closing(envs):
        first = envs.reset()
        assert first.shape == (envs.num_envs, *envs.observation_shape)
        envs.action_space.seed(0)
        for _ in range(STEPS):
            envs.send(np.array([envs.action_space.sample() for _ in range(envs.num_envs)]))
            step = envs.recv()
            assert np.isfinite(step.reward).all()
            assert step.observation.dtype == envs.frame_dtype


@pytest.mark.parametrize("game", sorted(atari_roms()))
def test_every_atari_game_is_reset_and_stepped(game: str) -> None:
    stepped(make_envs(EnvSpec(game), 2, 1))
    stepped(make_envs(EnvSpec(game, obs_type="ram"), 1, 1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("env_id", registered_ids())
def test_every_installed_environment_trains_and_resumes_or_is_refused(env_id: str) -> None:
    options = SHORT | {"env_id": env_id, "num_minibatches": 2, "update_epochs": 1}
    calls = iter(range(100))
    events, refused = [], ""
    try:
        config = resolve(override(registry.default_config("ppo"), options))
        events = list(run(config, stop=lambda: next(calls) >= 5))
    except UserError as problem:
        refused = str(problem)
    if refused:
        assert len(refused.splitlines()) == 1
        pytest.skip(refused)
    state = next(event.state for event in events if isinstance(event, Checkpoint))
    assert list(run(config, state))[-1].step == 24
