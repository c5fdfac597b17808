"""Specification of an environment and its rules, resolved and checked before an environment is made.

    EnvSpec("SpaceInvadersNoFrameskip-v4", frame_skip=3) --resolve--> canonical name, every rule filled in and checked

Two protocols give the Atari defaults: `nature` (Mnih et al., "Human-level control through deep reinforcement learning",
2015: up to 30 no-ops, a lost life stops bootstrapping) and `machado` (Machado et al., "Revisiting the Arcade Learning
Environment", 2018: sticky actions, whole games). Scores of different protocols are not comparable.
"""

import tomllib
from dataclasses import dataclass, replace
from typing import Any, Literal

from q2pi.envs.names import canonical, is_atari
from q2pi.errors import UserError

__all__ = ["SPACE_INVADERS_CROP", "EnvSpec", "inapplicable", "is_atari", "resolve"]

SPACE_INVADERS_CROP = (22, 15, 0, 0)
"""Keeps rows 22 to 194 of Space Invaders' 210: no scoreboard and no ground, 18 % fewer pixels. The command ship flies
in the scoreboard's rows, so it is cut off too; (8, 15, 0, 0) keeps both."""


@dataclass(frozen=True, slots=True)
class EnvSpec:
    """An environment and its rules; None selects the default of the protocol or of the kind of environment."""

    env_id: str = "SpaceInvaders"
    """Atari game in any spelling (SpaceInvaders, ALE/Pong-v5) or Gymnasium id (CartPole-v1)."""
    protocol: Literal["nature", "machado"] | None = None
    """Atari rules: machado (sticky actions, whole games) or nature (no-ops, fire, life loss)."""
    repeat_action_probability: float | None = None
    """Probability per emulator frame that the previous action is repeated (sticky actions). nature 0, machado 0.25."""
    noop_max: int | None = None
    """Bound on the no-op frames before an episode: uniform in 0 .. noop_max - 1. nature 30, machado 0."""
    fire_on_reset: bool | None = None
    """Fire in the first emulator frame of an episode, if the game has this action. nature yes, machado no."""
    life_loss_discount: bool | None = None
    """Discount of 0 for learning when a life is lost; the episode continues. nature yes, machado no."""
    clip_rewards: bool | None = None
    """Learning from the sign of the reward, -1, 0 or 1; scores stay raw."""
    grayscale: bool | None = None
    """One gray channel instead of three colour channels."""
    crop: tuple[int, int, int, int] | None = None
    """Raw pixels to cut off before resizing: top, bottom, left, right. None cuts off nothing."""
    resize: tuple[int, int] | None = None
    """Height and width of the network's input frames, in pixels."""
    frame_skip: int | None = None
    """Emulator frames per agent step, all with the same action."""
    max_pool: bool | None = None
    """Pixel-wise maximum of the last two emulator frames, against flicker; no effect if the frame skip is 1."""
    stack: int | None = None
    """Frames per observation, oldest first."""
    max_frames_per_episode: int | None = None
    """Emulator frames after which an episode is truncated; 108000 frames are 30 minutes."""
    full_action_space: bool | None = None
    """All 18 joystick actions instead of the game's minimal set."""
    obs_type: Literal["image", "ram"] | None = None
    """Atari observations: the screen, or the 128 bytes of the console's memory as a vector of numbers in [0, 1]."""
    mode: int | None = None
    """Mode of the Atari game, a number that its cartridge offers. None is the game's default."""
    difficulty: int | None = None
    """Difficulty switch of the Atari game, a number that its cartridge offers. None is the game's default."""
    env_options: tuple[str, ...] = ()
    """Arguments of a Gymnasium environment as NAME=VALUE, such as is_slippery=false or length=7."""
    wrappers: tuple[str, ...] = ()
    """Wrappers of a Gymnasium environment as MODULE:NAME, applied in this order; each is called with the
    environment."""

    def keywords(self) -> dict[str, Any]:
        """Return `env_options` as keyword arguments: each value parsed as TOML, or taken as text if it is no TOML.

        Raises:
            UserError: an option that is not NAME=VALUE, or a name that occurs twice.
        """
        keywords: dict[str, Any] = {}
        for option in self.env_options:
            name, equals, text = option.partition("=")
            if not equals or not name.isidentifier() or name in keywords:
                raise UserError(f"--env-options {option}: it must be NAME=VALUE, each name once")
            try:
                keywords[name] = tomllib.loads(f"value = {text}")["value"]
            except tomllib.TOMLDecodeError:
                keywords[name] = text
        return keywords


_ATARI_DEFAULTS: dict[str, Any] = {
    "clip_rewards": True,
    "grayscale": True,
    "resize": (84, 84),
    "frame_skip": 4,
    "max_pool": True,
    "stack": 4,
    "max_frames_per_episode": 108_000,
    "full_action_space": False,
    "obs_type": "image",
}
_RAM_DEFAULTS: dict[str, Any] = {
    "clip_rewards": True,
    "frame_skip": 4,
    "stack": 1,
    "max_frames_per_episode": 108_000,
    "full_action_space": False,
}
_IMAGES_ONLY = ("grayscale", "crop", "resize", "max_pool")
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
_ATARI_ONLY = {"protocol", "crop", "mode", "difficulty", *_PROTOCOLS["machado"], *_ATARI_DEFAULTS} - {
    *_GYMNASIUM_DEFAULTS,
    "stack",
}
_GYMNASIUM_ONLY = ("env_options", "wrappers")
_LOWER_BOUNDS = {"noop_max": 0, "frame_skip": 1, "stack": 1, "max_frames_per_episode": 1}


def resolve(spec: EnvSpec) -> EnvSpec:
    """Return the complete specification: canonical name, every rule filled in and checked. Idempotent.

    `crop` stays None if nothing is cut off; Atari rules stay None for other environments.

    Raises:
        UserError: unknown environment, a value out of bounds, or an Atari rule for another kind of environment.
    """
    spec = replace(spec, env_id=canonical(spec.env_id))
    _check_lower_bounds(spec)
    spec.keywords()
    return _resolve_atari(spec) if is_atari(spec.env_id) else _resolve_gymnasium(spec)


def inapplicable(env_id: str) -> frozenset[str]:
    """Return the names of the fields that do not apply to an environment; `resolve` refuses a value of theirs."""
    return frozenset(_GYMNASIUM_ONLY if is_atari(env_id) else {*_ATARI_ONLY, "life_loss_discount"})


def _resolve_atari(spec: EnvSpec) -> EnvSpec:
    for name in _GYMNASIUM_ONLY:
        if value := getattr(spec, name):
            raise UserError(f"{_flag(name, value)} applies to Gymnasium environments, not to Atari games")
    protocol = spec.protocol or "machado"
    if protocol not in _PROTOCOLS:
        raise UserError(f"--protocol {protocol} is not one of {', '.join(_PROTOCOLS)}")
    defaults = _RAM_DEFAULTS if spec.obs_type == "ram" else _ATARI_DEFAULTS
    spec = _fill(spec, {"protocol": protocol} | _PROTOCOLS[protocol] | defaults)
    sticky, resize = spec.repeat_action_probability, spec.resize
    if sticky is None or not 0 <= sticky < 1:
        raise UserError(f"--repeat-action-probability {sticky} is outside [0, 1)")
    if spec.mode is not None or spec.difficulty is not None:
        _check_settings(spec)
    if spec.obs_type == "ram":
        for name in _IMAGES_ONLY:
            if (value := getattr(spec, name)) is not None:
                raise UserError(f"{_flag(name, value)} applies to images, not to --obs-type ram")
        return spec
    if resize is None or len(resize) != 2 or min(resize) < 1:
        raise UserError(f"{_flag('resize', resize)} must be a height and a width, each at least 1 pixel")
    if spec.crop is not None:
        _check_crop(spec.env_id, spec.crop)
    return spec


def _resolve_gymnasium(spec: EnvSpec) -> EnvSpec:
    for name in sorted(_ATARI_ONLY):
        if (value := getattr(spec, name)) is not None:
            raise UserError(f"{_flag(name, value)} applies to Atari games, not to {spec.env_id}")
    if spec.life_loss_discount:
        raise UserError(f"{_flag('life_loss_discount', True)} applies to Atari games, not to {spec.env_id}")
    if spec.wrappers:
        from q2pi.envs.gymnasium import load_wrapper

        for wrapper in spec.wrappers:
            load_wrapper(wrapper)
    if spec.stack is None:
        from q2pi.envs.gymnasium import has_image_observations  # loads Gymnasium

        spec = replace(spec, stack=4 if has_image_observations(spec) else 1)
    return _fill(spec, _GYMNASIUM_DEFAULTS)


def _fill(spec: EnvSpec, defaults: dict[str, Any]) -> EnvSpec:
    return replace(spec, **{name: value for name, value in defaults.items() if getattr(spec, name) is None})


def _check_lower_bounds(spec: EnvSpec) -> None:
    for name, bound in _LOWER_BOUNDS.items():
        value = getattr(spec, name)
        if value is not None and value < bound:
            raise UserError(f"{_flag(name, value)} is less than {bound}")


def _check_settings(spec: EnvSpec) -> None:
    """Raise a UserError if the cartridge does not offer the mode or the difficulty."""
    from q2pi.envs.atari import settings  # loads ALE

    modes, difficulties = settings(spec.env_id)
    for name, value, allowed in (("mode", spec.mode, modes), ("difficulty", spec.difficulty, difficulties)):
        if value is not None and value not in allowed:
            raise UserError(f"{_flag(name, value)} of {spec.env_id} is not one of {', '.join(map(str, allowed))}")


def _check_crop(env_id: str, crop: tuple[int, int, int, int]) -> None:
    from q2pi.envs.atari import raw_screen  # loads numpy

    if len(crop) != 4 or min(crop) < 0:
        raise UserError(f"{_flag('crop', crop)} must be four pixel counts (top, bottom, left, right), each at least 0")
    height, width = raw_screen(env_id)
    top, bottom, left, right = crop
    if top + bottom >= height or left + right >= width:
        raise UserError(f"{_flag('crop', crop)} removes the whole {height} x {width} screen of {env_id}")


def _flag(name: str, value: Any) -> str:
    """Return an option as it is written on the command line."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    values = value if isinstance(value, tuple | list) else (value,)
    return " ".join([f"--{option}", *map(str, values)])
