"""Presets: all are valid, the default depends on the environment, and mistakes are errors of one line."""

from dataclasses import replace
from pathlib import Path

import pytest

from q2pi.acceleration import precision
from q2pi.algorithms import registry
from q2pi.algorithms.registry import default_config
from q2pi.config import override, resolve
from q2pi.errors import UserError
from q2pi.training.presets import configure, names

ALL = [(algorithm, preset) for algorithm in registry.names() for preset in names(algorithm)]


@pytest.mark.parametrize(("algorithm", "preset"), ALL)
def test_every_preset_is_valid(algorithm: str, preset: str) -> None:
    config, used = configure(algorithm, "CartPole-v1" if preset == "classic" else None, preset)
    assert used == preset
    assert resolve(config).algorithm == algorithm
    assert config != default_config(algorithm)


@pytest.mark.parametrize(
    ("env_id", "expected"),
    [
        (None, "quick"),
        ("SpaceInvaders", "quick"),
        ("ALE/Pong-v5", "quick"),
        ("CartPole", "CartPole-v1"),
        ("Acrobot", "classic"),
    ],
)
def test_the_default_depends_on_the_environment(env_id: str | None, expected: str) -> None:
    assert configure("dqn", env_id)[1] == expected


def test_a_preset_of_the_environment_has_priority() -> None:
    (pong, own), (general, name) = (configure("pqn_laptop", env_id) for env_id in ("Pong", "Breakout"))
    assert (own, name) == ("Pong", "quick")
    assert (pong.env.env_id, general.env.env_id) == ("Pong", "Breakout")
    assert pong.hyper.gamma < general.hyper.gamma
    assert configure("dqn", "CartPole-v1", "short")[1] == "CartPole-v1-short"


def test_the_quick_preset_agrees_with_the_readme() -> None:
    config, _ = configure("dqn", "space_invaders")
    assert config.env.env_id == "SpaceInvaders"
    assert (config.total_timesteps, config.hyper.buffer_size, config.precision) == (200_000, 100_000, "auto")


def test_an_explicit_environment_has_priority(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('seed = 7\n[env]\nenv_id = "Pong"\n[hyper]\nbatch_size = 16\n')
    config, used = configure("dqn", None, str(path))
    assert (config.seed, config.env.env_id, config.hyper.batch_size, used) == (7, "Pong", 16, str(path))
    assert configure("dqn", "Breakout", str(path))[0].env.env_id == "Breakout"


@pytest.mark.parametrize(
    ("preset", "fragment"),
    [
        ("natur", "nature, quick (did you mean 'nature'?)"),
        ("missing.toml", "nature, quick; or give the path of a .toml file"),
    ],
)
def test_unknown_presets(preset: str, fragment: str) -> None:
    with pytest.raises(UserError) as caught:
        configure("dqn", None, preset)
    assert str(caught.value).startswith(f"--preset {preset}: dqn has ")
    assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"seed = ", "is not valid TOML"),
        (b"\xff\xfe\x00", "is not valid TOML"),
        (b'algorithm = "ppo"', "is for ppo, not for dqn"),
        (b"sed = 1", "unknown option 'sed' (did you mean 'seed'?)"),
        (b'seed = "one"', "seed = 'one': it must be of type int"),
    ],
    ids=["torn", "binary", "another algorithm", "unknown option", "wrong type"],
)
def test_files_that_are_not_presets(tmp_path: Path, content: bytes, fragment: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        configure("dqn", None, str(path))
    assert fragment in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("env_id", "options", "fast", "found"),
    [
        ("Pong", {}, {"nature"}, "bf16"),
        ("Pong", {}, {"nips"}, "fp32"),
        ("Pong", {"network": "nips"}, {"nips"}, "bf16"),
        ("CartPole-v1", {}, {"nature", "nips"}, "fp32"),
    ],
)
def test_auto_precision_is_resolved_before_the_run(
    monkeypatch: pytest.MonkeyPatch, env_id: str, options: dict[str, str], fast: set[str], found: str
) -> None:
    monkeypatch.setattr(
        precision, "faster_precision", lambda network, device, threads: "bf16" if network in fast else "fp32"
    )
    config, _ = configure("dqn", env_id)
    config = resolve(override(replace(config, precision="auto"), options))
    assert config.precision == found
    assert resolve(config) == config
