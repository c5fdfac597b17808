"""Screens of Gymnasium environments as RGB images, whatever their render mode, size and dtype."""

import os
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q2pi.envs.errors import first_line
from q2pi.envs.spec import EnvSpec
from q2pi.errors import UserError

Image = NDArray[np.uint8]
HEIGHT, WIDTH = 640, 1_280
"""Small screens are enlarged by the largest whole factor with which they fit, in pixels."""
LARGEST = 2_160
"""Larger screens are reduced by the smallest whole factor to at most this height and width, in pixels."""


def make_rendered(spec: EnvSpec) -> Any:
    """Return an environment that renders images.

    Raises:
        UserError: it has no such render mode; the message names those that it has.
    """
    # pygame reads these when an environment renders for the first time; without them it opens a window.
    os.environ["SDL_VIDEODRIVER"] = "dummy"
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    from q2pi.envs.gymnasium import make

    try:
        with warnings.catch_warnings():  # Gymnasium warns of a mode that is not listed; the error below names the modes
            warnings.simplefilter("ignore")
            env = make(spec, render_mode="rgb_array")
    except Exception as problem:
        raise UserError(f"{spec.env_id} cannot be drawn: {first_line(problem)}{_modes_of(spec)}") from problem
    modes = _modes(env)
    if not modes or "rgb_array" in modes:
        return env
    env.close()
    if "rgb_array_list" in modes:
        return make(spec, render_mode="rgb_array_list")
    raise UserError(
        f"{spec.env_id} cannot be drawn: a video needs the render mode rgb_array; it has {', '.join(modes)}"
    )


def _modes(env: Any) -> list[str]:
    return [str(mode) for mode in (env.metadata or {}).get("render_modes") or []]


def _modes_of(spec: EnvSpec) -> str:
    """Return the render modes of an environment that could not be made with one, in words."""
    from q2pi.envs.gymnasium import make

    try:
        env = make(spec)
    except Exception:
        return ""
    modes = _modes(env)
    env.close()
    return f"; its render modes are {', '.join(modes)}" if modes else "; it names no render modes"


def frame_rate(env: Any, default: float) -> float:
    """Return the frames per second that an environment names, or the default if it names none that is possible."""
    rate = (env.metadata or {}).get("render_fps")
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.integer | np.floating):
        return default
    return float(rate) if 0.1 <= rate <= 1_000 else default


def screen_of(env: Any, env_id: str) -> Image:
    """Return the screen of an environment, [H, W, 3].

    Raises:
        UserError: it cannot be rendered, or what it renders is no image.
    """
    try:
        rendered = env.render()
    except Exception as problem:
        raise UserError(f"{env_id} cannot be drawn: {first_line(problem)}") from problem
    if isinstance(rendered, list):
        rendered = rendered[-1] if rendered else None
    image = None if rendered is None or isinstance(rendered, str) else to_rgb(np.asarray(rendered))
    if image is None:
        modes = ", ".join(_modes(env)) or "none"
        found = "text" if isinstance(rendered, str) else f"a {type(rendered).__name__}"
        if isinstance(rendered, np.ndarray):
            found = f"an array {rendered.shape} of {rendered.dtype}"
        raise UserError(f"{env_id} cannot be drawn: render returned {found}, not an image (render modes: {modes})")
    return image


def to_rgb(image: NDArray[Any]) -> Image | None:
    """Return an image as RGB, [H, W, 3]; None if it is none.

    Args:
        image: [H, W], or with 1, 3 or 4 channels first or last; floats in [0, 1] or [0, 255], booleans, or integers.
    """
    if image.dtype.kind not in "biuf" or image.ndim not in (2, 3) or 0 in image.shape:
        return None
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[2] not in (1, 3, 4):
        image = np.moveaxis(image, 0, -1)
    if image.shape[2] not in (1, 3, 4):
        return None
    if image.dtype.kind == "f":
        image = np.nan_to_num(image)
    if image.dtype.kind == "b" or (image.dtype.kind == "f" and image.max() <= 1):
        image = image * 255.0
    rgb = image[..., :3] if image.shape[2] > 1 else image.repeat(3, axis=2)
    converted: Image = np.clip(rgb, 0, 255).astype(np.uint8)
    return converted


def fitted(screen: Image, shape: tuple[int, int] | None = None) -> Image:
    """Return a screen of a size that H.264 takes: enlarged or reduced by a whole factor, with even height and width.

    Args:
        screen: [H, W, 3].
        shape: height and width of the video if it has begun: a screen of another size is cut off or padded.
    """
    height, width, _ = screen.shape
    reduced = -(-max(height, width) // LARGEST)
    screen = screen[::reduced, ::reduced]
    factor = max(1, min(HEIGHT // screen.shape[0], WIDTH // screen.shape[1]))
    large = screen.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width, _ = large.shape
    target = shape or (height + height % 2, width + width % 2)
    large = large[: target[0], : target[1]]
    return np.pad(large, ((0, target[0] - large.shape[0]), (0, target[1] - large.shape[1]), (0, 0)), mode="edge")
