"""What is played, and under which rules: the specification of an environment, complete before anything starts.

    EnvSpec("SpaceInvadersNoFrameskip-v4", frame_skip=3) --resolve--> canonical name, every rule filled in and checked

Two protocols give the Atari defaults: `nature` (Mnih et al., "Human-level control through deep reinforcement learning",
2015: up to 30 no-ops, lost lives end the return) and `machado` (Machado et al., "Revisiting the Arcade Learning
Environment", 2018: sticky actions, whole games). Scores are comparable only under one protocol.
"""

import tomllib
from dataclasses import dataclass, replace
from typing import Any, Literal

from q2pi.envs.names import canonical, is_atari
from q2pi.errors import UserError

__all__ = ["SPACE_INVADERS_CROP", "EnvSpec", "is_atari", "keywords", "resolve"]

SPACE_INVADERS_CROP = (22, 15, 0, 0)
"""Rows 22 to 194 of Space Invaders' 210: without the scoreboard above and the ground below, 18% fewer pixels. The
command ship flies across the scoreboard's rows and goes unseen; (8, 15, 0, 0) keeps both in view."""


@dataclass(frozen=True, slots=True)
class EnvSpec:
    """An environment and its rules; None means as the protocol, or the kind of environment, has it."""

    env_id: str = "SpaceInvaders"
    """The game: an Atari name in any spelling (SpaceInvaders, ALE/Pong-v5), or a Gymnasium id (CartPole-v1)."""
    protocol: Literal["nature", "machado"] | None = None
    """Atari's rules: machado (sticky actions, whole games; the default) or nature (no-ops, fire, lost lives)."""
    repeat_action_probability: float | None = None
    """Sticky actions: probability, in each emulator frame, that the last action is repeated. nature 0, machado 0.25."""
    noop_max: int | None = None
    """Up to this many emulator frames, less one, pass without action before an episode begins. nature 30, machado 0."""
    fire_on_reset: bool | None = None
    """Press fire in the first emulator frame of an episode, where the game knows it. nature yes, machado no."""
    life_loss_discount: bool | None = None
    """A lost life sets the discount to 0 for learning; the game goes on. nature yes, machado no."""
    clip_rewards: bool | None = None
    """Learn from the sign of a reward, -1 to 1; scores stay raw. Atari yes, others no."""
    grayscale: bool | None = None
    """One channel of gray in place of three of colour. Default yes."""
    crop: tuple[int, int, int, int] | None = None
    """Raw pixels cut off before resizing: top, bottom, left, right. Default none."""
    resize: tuple[int, int] | None = None
    """Height and width, in pixels, of the frames that the network sees. Default 84 84."""
    frame_skip: int | None = None
    """Emulator frames per agent step, all under one action. Default 4."""
    max_pool: bool | None = None
    """A frame is the brighter of the last two emulator frames, pixel by pixel, against flicker. Default yes; without
    effect at frame skip 1."""
    stack: int | None = None
    """Frames per observation, oldest first. Atari and images 4, vectors 1."""
    max_frames_per_episode: int | None = None
    """Emulator frames after which an episode is truncated. Default 108000: 30 minutes of play, 27000 agent steps."""
    full_action_space: bool | None = None
    """All 18 actions of the joystick in place of those that the game needs. Default no."""
    env_options: tuple[str, ...] = ()
    """Gymnasium's environments: arguments of their own as NAME=VALUE, such as is_slippery=false or length=7."""


_ATARI_DEFAULTS: dict[str, Any] = {
    "clip_rewards": True,
    "grayscale": True,
    "resize": (84, 84),
    "frame_skip": 4,
    "max_pool": True,
    "stack": 4,
    "max_frames_per_episode": 108_000,
    "full_action_space": False,
}
_PROTOCOLS: dict[str, dict[str, Any]] = {
    "nature": {
        "repeat_action_probability": 0.0,
        "noop_max": 30,
        "fire_on_reset": True,
        "life_loss_discount": True,
    },
    "machado": {
        "repeat_action_probability": 0.25,
        "noop_max": 0,
        "fire_on_reset": False,
        "life_loss_discount": False,
    },
}
_GYMNASIUM_DEFAULTS: dict[str, Any] = {"life_loss_discount": False, "clip_rewards": False}
_ATARI_ONLY = {"protocol", "crop", *_PROTOCOLS["machado"], *_ATARI_DEFAULTS} - {*_GYMNASIUM_DEFAULTS, "stack"}
_LEAST = {"noop_max": 0, "frame_skip": 1, "stack": 1, "max_frames_per_episode": 1}


def resolve(spec: EnvSpec) -> EnvSpec:
    """Return the complete specification: canonical name, every rule filled in and checked. Idempotent.

    `crop` stays None where nothing is cut off; Atari's own rules stay None for other environments.

    Raises:
        UserError: unknown environment, a value out of bounds, or an Atari rule for something else.
    """
    spec = replace(spec, env_id=canonical(spec.env_id))
    _check_least(spec)
    keywords(spec)
    return _resolve_atari(spec) if is_atari(spec.env_id) else _resolve_gymnasium(spec)


def keywords(spec: EnvSpec) -> dict[str, Any]:
    """Return `env_options` as keyword arguments: each value as TOML reads it, or else as text.

    Raises:
        UserError: an option that is no NAME=VALUE, or is given twice.
    """
    found: dict[str, Any] = {}
    for option in spec.env_options:
        name, equals, text = option.partition("=")
        if not equals or not name.isidentifier() or name in found:
            raise UserError(f"--env-options {option}: it must be NAME=VALUE, each name once")
        try:
            found[name] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            found[name] = text
    return found


def _resolve_atari(spec: EnvSpec) -> EnvSpec:
    if spec.env_options:
        raise UserError(
            f"{_flag('env_options', spec.env_options)} applies to Gymnasium's environments, not to Atari games"
        )
    protocol = spec.protocol or "machado"
    if protocol not in _PROTOCOLS:
        raise UserError(f"--protocol {protocol} is not one of {', '.join(_PROTOCOLS)}")
    spec = _fill(spec, {"protocol": protocol} | _PROTOCOLS[protocol] | _ATARI_DEFAULTS)
    sticky, resize = spec.repeat_action_probability, spec.resize
    if sticky is None or not 0 <= sticky < 1:
        raise UserError(f"--repeat-action-probability {sticky} is outside [0, 1)")
    if resize is None or len(resize) != 2 or min(resize) < 1:
        raise UserError(f"{_flag('resize', resize)} is not a height and a width of at least 1 pixel")
    if spec.crop is not None:
        _check_crop(spec.env_id, spec.crop)
    return spec


def _resolve_gymnasium(spec: EnvSpec) -> EnvSpec:
    for name in sorted(_ATARI_ONLY):
        if (value := getattr(spec, name)) is not None:
            raise UserError(f"{_flag(name, value)} applies to Atari games, not to {spec.env_id}")
    if spec.life_loss_discount:
        raise UserError(f"{_flag('life_loss_discount', True)} applies to Atari games, not to {spec.env_id}")
    if spec.stack is None:
        from q2pi.envs.gymnasium import shows_images

        spec = replace(spec, stack=4 if shows_images(spec) else 1)
    return _fill(spec, _GYMNASIUM_DEFAULTS)


def _fill(spec: EnvSpec, defaults: dict[str, Any]) -> EnvSpec:
    return replace(spec, **{name: value for name, value in defaults.items() if getattr(spec, name) is None})


def _check_least(spec: EnvSpec) -> None:
    for name, least in _LEAST.items():
        value = getattr(spec, name)
        if value is not None and value < least:
            raise UserError(f"{_flag(name, value)} is less than {least}")


def _check_crop(env_id: str, crop: tuple[int, int, int, int]) -> None:
    from q2pi.envs.atari import raw_screen

    if len(crop) != 4 or min(crop) < 0:
        raise UserError(
            f"{_flag('crop', crop)} is not four numbers of pixels (top, bottom, left, right), each at least 0"
        )
    height, width = raw_screen(env_id)
    top, bottom, left, right = crop
    if top + bottom >= height or left + right >= width:
        raise UserError(f"{_flag('crop', crop)} leaves nothing of {env_id}'s screen of {height} x {width} pixels")


def _flag(name: str, value: Any) -> str:
    """Write an option as the command line has it."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    values = value if isinstance(value, tuple | list) else (value,)
    return " ".join([f"--{option}", *map(str, values)])
