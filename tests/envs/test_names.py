import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest

from q2pi.envs.names import canonical, is_atari
from q2pi.errors import UserError


@pytest.mark.parametrize(
    ("env_id", "name"),
    [
        ("SpaceInvaders", "SpaceInvaders"),
        ("ALE/SpaceInvaders-v5", "SpaceInvaders"),
        ("SpaceInvadersNoFrameskip-v4", "SpaceInvaders"),
        ("SpaceInvadersDeterministic-v0", "SpaceInvaders"),
        ("SpaceInvaders-v4", "SpaceInvaders"),
        ("space_invaders", "SpaceInvaders"),
        ("spaceinvaders", "SpaceInvaders"),
        ("tic_tac_toe_3d", "TicTacToe3D"),
        ("up_n_down", "UpNDown"),
    ],
)
def test_atari_ids_have_one_canonical_name(env_id: str, name: str) -> None:
    assert canonical(env_id) == name
    assert canonical(name) == name
    assert is_atari(env_id)


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "CartPole-v0", "FrozenLake8x8-v1", "Blackjack-v1", "q2pi/AliasedVacuum-v0", "Taxi-v3"]
)
def test_gymnasium_ids_are_unchanged(env_id: str) -> None:
    assert canonical(env_id) == env_id
    assert not is_atari(env_id)


def test_an_id_without_version_is_the_newest_version() -> None:
    assert canonical("CartPole") == "CartPole-v1"


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("SpaceInvadr", "--env-id SpaceInvadr is unknown (did you mean 'SpaceInvaders' or 'SpaceWar'?)"),
        ("Breakout-v3", "--env-id Breakout-v3 is unknown (did you mean 'Breakout'?)"),
        ("zzzzz", "--env-id zzzzz is unknown; no Atari game or Gymnasium id has a similar name"),
        ("combat", "--env-id combat is unknown; no Atari game or Gymnasium id has a similar name"),
        ("no_such_package:Garden-v0", "--env-id no_such_package:Garden-v0 cannot be imported"),
    ],
)
def test_an_unknown_name_is_an_error_with_similar_names(env_id: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        canonical(env_id)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_specifications_are_light_to_import() -> None:
    script = "import sys, q2pi.envs.spec, q2pi.envs.vector; print({'ale_py', 'gymnasium', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_an_environment_of_a_package_that_is_not_imported_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package_of_envs.py").write_text(
        "import gymnasium\ngymnasium.register('Garden-v3', entry_point='gymnasium.envs.classic_control:CartPoleEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert canonical("package_of_envs:Garden-v3") == "package_of_envs:Garden-v3"
        with pytest.raises(UserError, match="--env-id package_of_envs:Desert-v1 cannot be imported"):
            canonical("package_of_envs:Desert-v1")
    finally:
        gymnasium.registry.pop("Garden-v3", None)
