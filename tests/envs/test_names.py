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
        (
            "no_such_package:Garden-v0",
            "--env-id no_such_package:Garden-v0 cannot be imported: ModuleNotFoundError",
        ),
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


@pytest.mark.parametrize("env_id", ["Tetris-v0", "Tetris", "pong-v4"])
def test_a_registered_id_beats_the_spelling_of_an_atari_game(env_id: str) -> None:
    assert is_atari(env_id)
    gymnasium.register(env_id, entry_point="gymnasium.envs.classic_control:CartPoleEnv")
    try:
        assert canonical(env_id) == env_id
        assert not is_atari(env_id)
        assert is_atari("ALE/Tetris-v5"), "another spelling is still the game"
    finally:
        del gymnasium.registry[env_id]
    assert is_atari(env_id)


REGISTERING = """
import gymnasium
{line}
for name in ("Cave-v2", "Cave-v10", "Cave-variant"):
    gymnasium.register(name, entry_point="gymnasium.envs.classic_control:CartPoleEnv")
"""
CANONICAL = "import sys; sys.path.remove(''); from q2pi.envs.names import canonical; print(canonical({!r}))"


def canonical_in(folder: Path, env_id: str) -> str:
    """Return the canonical id in a process whose path, as an installed script's, lacks the current folder."""
    code = CANONICAL.format(env_id)
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_a_module_of_the_current_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "caves.py").write_text(REGISTERING.format(line="import beside_caves"))
    (tmp_path / "beside_caves.py").touch()
    assert canonical_in(tmp_path, "caves:Cave-v2") == "caves:Cave-v2\n"
    assert canonical_in(tmp_path, "caves:Cave") == "caves:Cave-v10\n"


@pytest.mark.parametrize(
    ("line", "env_id", "message"),
    [
        ("1 / 0", "caves_0:Cave-v2", "cannot be imported: ZeroDivisionError: division by zero"),
        ("import nothing_like_it", "caves_1:Cave-v2", "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("", "caves_2:Cove-v2", "caves_2 registers no environment Cove-v2 (did you mean 'Cave-v2'?)"),
    ],
)
def test_a_module_that_does_not_serve_is_named(
    line: str, env_id: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{env_id.partition(':')[0]}.py").write_text(REGISTERING.format(line=line))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        with pytest.raises(UserError) as raised:
            canonical(env_id)
    finally:
        for name in ("Cave-v2", "Cave-v10", "Cave-variant"):
            gymnasium.registry.pop(name, None)
    assert str(raised.value).startswith(f"--env-id {env_id} cannot be imported: ")
    assert str(raised.value).endswith(message)
