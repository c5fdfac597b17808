from dataclasses import replace
from typing import Any

import pytest

from q2pi.envs.spec import SPACE_INVADERS_CROP, EnvSpec, resolve
from q2pi.errors import UserError

_MACHADO = EnvSpec(
    env_id="SpaceInvaders",
    protocol="machado",
    repeat_action_probability=0.25,
    noop_max=0,
    fire_on_reset=False,
    life_loss_discount=False,
    clip_rewards=True,
    grayscale=True,
    crop=None,
    resize=(84, 84),
    frame_skip=4,
    max_pool=True,
    stack=4,
    max_frames_per_episode=108_000,
    full_action_space=False,
    obs_type="image",
)


def test_machado_is_the_default() -> None:
    assert resolve(EnvSpec("ALE/SpaceInvaders-v5")) == _MACHADO


def test_nature() -> None:
    expected = replace(
        _MACHADO,
        protocol="nature",
        repeat_action_probability=0.0,
        noop_max=30,
        fire_on_reset=True,
        life_loss_discount=True,
    )
    assert resolve(EnvSpec(protocol="nature")) == expected


def test_an_explicit_option_overrides_the_protocol() -> None:
    spec = resolve(EnvSpec(protocol="nature", noop_max=0, fire_on_reset=False, frame_skip=3, crop=SPACE_INVADERS_CROP))
    assert (spec.noop_max, spec.fire_on_reset, spec.frame_skip, spec.crop) == (0, False, 3, (22, 15, 0, 0))
    assert (spec.repeat_action_probability, spec.life_loss_discount) == (0.0, True)


def test_vectors_are_not_stacked_and_not_clipped() -> None:
    assert resolve(EnvSpec("CartPole-v1")) == EnvSpec(
        "CartPole-v1", stack=1, clip_rewards=False, life_loss_discount=False
    )


@pytest.mark.parametrize("spec", [EnvSpec(), EnvSpec("Pong", protocol="nature"), EnvSpec("CartPole-v1", stack=2)])
def test_resolve_is_idempotent(spec: EnvSpec) -> None:
    assert resolve(resolve(spec)) == resolve(spec)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame_skip": 2}, "--frame-skip 2 applies to Atari games, not to CartPole-v1"),
        ({"protocol": "nature"}, "--protocol nature applies to Atari games, not to CartPole-v1"),
        ({"crop": (1, 2, 3, 4)}, "--crop 1 2 3 4 applies to Atari games, not to CartPole-v1"),
        ({"grayscale": False}, "--no-grayscale applies to Atari games, not to CartPole-v1"),
        ({"life_loss_discount": True}, "--life-loss-discount applies to Atari games, not to CartPole-v1"),
        ({"max_frames_per_episode": 9}, "--max-frames-per-episode 9 applies to Atari games, not to CartPole-v1"),
        ({"stack": 0}, "--stack 0 is less than 1"),
    ],
)
def test_atari_options_are_for_atari(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        resolve(EnvSpec("CartPole-v1", **options))
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "atari"}, "--protocol atari is not one of nature, machado"),
        ({"repeat_action_probability": 1.0}, "--repeat-action-probability 1.0 is outside [0, 1)"),
        ({"repeat_action_probability": -0.1}, "--repeat-action-probability -0.1 is outside [0, 1)"),
        ({"noop_max": -1}, "--noop-max -1 is less than 0"),
        ({"frame_skip": 0}, "--frame-skip 0 is less than 1"),
        ({"stack": 0}, "--stack 0 is less than 1"),
        ({"max_frames_per_episode": 0}, "--max-frames-per-episode 0 is less than 1"),
        ({"resize": (84, 0)}, "--resize 84 0 must be a height and a width, each at least 1 pixel"),
        (
            {"crop": (-1, 0, 0, 0)},
            "--crop -1 0 0 0 must be four pixel counts (top, bottom, left, right), each at least 0",
        ),
        ({"crop": (200, 10, 0, 0)}, "--crop 200 10 0 0 removes the whole 210 x 160 screen of SpaceInvaders"),
        ({"crop": (0, 0, 80, 80)}, "--crop 0 0 80 80 removes the whole 210 x 160 screen of SpaceInvaders"),
    ],
)
def test_bounds(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        resolve(EnvSpec(**options))
    assert str(raised.value) == message


def test_a_crop_that_leaves_one_row_is_allowed() -> None:
    assert resolve(EnvSpec(crop=(200, 9, 0, 0))).crop == (200, 9, 0, 0)


def test_tall_screens_are_known() -> None:
    assert resolve(EnvSpec("Carnival", crop=(200, 10, 0, 0))).crop == (200, 10, 0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": 7}, "--mode 7 of Pong is not one of 0, 1"),
        ({"difficulty": 9}, "--difficulty 9 of Pong is not one of 0, 1, 2, 3"),
        ({"obs_type": "ram", "grayscale": True}, "--grayscale applies to images, not to --obs-type ram"),
        ({"obs_type": "ram", "resize": (84, 84)}, "--resize 84 84 applies to images, not to --obs-type ram"),
        ({"wrappers": ("a:B",)}, "--wrappers a:B applies to Gymnasium environments, not to Atari games"),
    ],
)
def test_settings_of_an_atari_game_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        resolve(EnvSpec("Pong", **options))
    assert str(raised.value) == message


@pytest.mark.parametrize("name", ["mode", "difficulty", "obs_type"])
def test_settings_of_atari_games_are_refused_for_others(name: str) -> None:
    value: Any = "ram" if name == "obs_type" else 0
    with pytest.raises(UserError, match=r"--\S+ \w+ applies to Atari games, not to CartPole-v1"):
        resolve(EnvSpec("CartPole-v1", **{name: value}))


def test_memory_has_its_own_defaults() -> None:
    spec = resolve(EnvSpec("Pong", obs_type="ram"))
    assert (spec.stack, spec.resize, spec.grayscale, spec.crop, spec.frame_skip) == (1, None, None, None, 4)
    assert resolve(spec) == spec
