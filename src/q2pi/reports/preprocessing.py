"""A picture of what happens to the frames of an Atari game before the network sees them.

    colour, two emulator frames --> gray --> maximum of the two --> crop --> resize --> stack of K

The stack is what `VectorEnv` observes. What comes before it is seen in slow motion: the same episode, played again
one emulator frame at a time, raw.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from q2pi.envs import make_envs
from q2pi.envs.spec import EnvSpec, is_atari, resolve
from q2pi.errors import UserError
from q2pi.reports.style import INK, QUIET, RED, new_figure, save_figure
from q2pi.rng import stream
from q2pi.types import Array

_MAGNIFIED = 2
_GAP = 62
_CARD = 22


@dataclass(frozen=True)
class Stages:
    """One observation of a game, with what it was made of; colours are [H, W, 3], gray frames [H, W], all uint8."""

    colour: list[Array]
    """The last two emulator frames of the step, raw; only the last one if a step is one frame."""
    gray: list[Array]
    """The same in gray; in colour if the specification keeps colours."""
    pooled: Array
    """The maximum of `gray`, or the last of it without max-pooling."""
    cropped: Array
    resized: Array
    """The newest frame of the stack."""
    stack: list[Array]
    """The observation's frames, oldest first."""


def stages(spec: EnvSpec, seed: int = 0, steps: int = 100) -> Stages:
    """Return one observation of an Atari game, and what it was made of.

    Args:
        spec: the game and its rules.
        seed: seed of the episode and of the random actions taken.
        steps: agent steps before the picture is taken; fewer if the episode is shorter.

    Raises:
        UserError: not an Atari game, or fewer than one step.
    """
    spec = resolve(spec)
    if not is_atari(spec.env_id):
        raise UserError(f"--env-id {spec.env_id} has no frames to preprocess: only Atari games have")
    if steps < 1:
        raise UserError(f"--steps {steps} is less than 1")
    observation, actions = _play(spec, seed, steps)
    seen = 2 if spec.max_pool and spec.frame_skip != 1 else 1
    colour = _slow_motion(replace(spec, grayscale=False), seed, actions)[-seen:]
    gray = _slow_motion(spec, seed, actions)[-seen:]
    pooled = np.max(gray, axis=0)
    top, bottom, left, right = spec.crop or (0, 0, 0, 0)
    stack = [_as_image(frame) for frame in np.split(observation, int(spec.stack or 1))]
    return Stages(
        colour=colour,
        gray=gray,
        pooled=pooled,
        cropped=pooled[top : len(pooled) - bottom, left : pooled.shape[1] - right],
        resized=stack[-1],
        stack=stack,
    )


def _play(spec: EnvSpec, seed: int, steps: int) -> tuple[Array, list[int]]:
    """Return the observation [K * C, h, w] after at most `steps` random actions, and the actions that led there."""
    envs = make_envs(spec, 1, seed)
    observation = envs.reset()
    taken: list[int] = []
    for action in stream(seed, "preprocessing").integers(envs.action_space.n, size=steps):
        envs.send(np.array([action]))
        step = envs.recv()
        if step.ended[0]:
            break
        observation = step.observation
        taken.append(int(action))
    envs.close()
    return observation[0], taken


def _slow_motion(spec: EnvSpec, seed: int, actions: list[int]) -> list[Array]:
    """Return the last two raw emulator frames of the same episode, each action repeated as frame skipping does."""
    from q2pi.envs.atari import raw_screen

    raw = replace(spec, frame_skip=1, max_pool=False, stack=1, crop=(0, 0, 0, 0), resize=raw_screen(spec.env_id))
    envs = make_envs(raw, 1, seed)
    frames = [envs.reset()[0]]
    for action in np.repeat(actions, spec.frame_skip or 1):
        envs.send(np.array([action]))
        frames = [frames[-1], envs.recv().next_observation[0]]
    envs.close()
    return [_as_image(frame) for frame in frames]


def _as_image(frame: Array) -> Array:
    """Return a frame [C, H, W] as [H, W] or [H, W, 3]."""
    return frame[0] if len(frame) == 1 else frame.transpose(1, 2, 0)


def preprocessing_picture(spec: EnvSpec, path: str | Path, seed: int = 0, steps: int = 100) -> Stages:
    """Draw the way from the emulator's frames to the network's observation, and return what is drawn.

    Args:
        spec: an Atari game and its rules.
        path: of the picture; its suffix chooses the format (.png, .svg, .pdf).
        seed: seed of the episode and of the random actions taken.
        steps: agent steps before the picture is taken; fewer if the episode is shorter.

    Raises:
        UserError: not an Atari game, or fewer than one step.
    """
    spec = resolve(spec)
    shown = stages(spec, seed, steps)
    way = _way(spec, shown)
    # Resized below, when the extent of the drawing is known; the board places everything itself.
    figure = new_figure(1, 1)
    figure.set_layout_engine("none")
    board = _Board(figure.add_axes((0.0, 0.0, 1.0, 1.0)))
    board.text(0, -50, f"{spec.env_id}: from the emulator to the network", 16, fontweight="bold", va="bottom")
    right, lower = _draw_way(board, spec, shown, way)
    stack_right, lowest = _draw_stack(board, spec, shown, lower + 66)
    bars_right = _draw_bars(board, way, shown, stack_right + _GAP, lower + 66)
    width, height = max(right, bars_right) + 40, lowest + 40
    board.axes.set(xlim=(-40, width), ylim=(height, -84))
    figure.set_size_inches((width + 40) / 82, (height + 84) / 82)
    save_figure(figure, Path(path))
    return shown


@dataclass(frozen=True)
class _Stop:
    """One step of the way: what it is called, what it does, and the frames it leaves."""

    title: str
    note: str
    images: list[Array]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(image.nbytes for image in self.images)

    @property
    def shape(self) -> str:
        times = f"{len(self.images)} x " if len(self.images) > 1 else ""
        return times + " x ".join(map(str, self.images[-1].shape))


def _way(spec: EnvSpec, shown: Stages) -> list[_Stop]:
    """Return the steps that the specification takes, in order."""
    skip, pools = spec.frame_skip or 1, len(shown.gray) == 2
    which = f"frames {skip - 1} and {skip} of {skip}" if pools else f"frame {skip} of {skip}"
    way = [_Stop("emulator", f"{which} of one step", shown.colour)]
    if spec.grayscale:
        way.append(_Stop("gray", "one channel for three", shown.gray))
    if pools:
        earlier = int((shown.gray[0] > shown.gray[-1]).sum())
        way.append(_Stop("maximum", f"{earlier} pixels kept from the first", [shown.pooled]))
    if spec.crop is not None:
        sides = zip(("top", "bottom", "left", "right"), spec.crop, strict=True)
        cut = ", ".join(f"{side} {count}" for side, count in sides if count)
        way.append(_Stop("crop", f"without {cut or 'anything'}", [shown.cropped]))
    return [*way, _Stop("resize", "by area", [shown.resized])]


class _Board:
    """Axes whose unit is a raw pixel, with the origin at the top left."""

    def __init__(self, axes: Any) -> None:
        self.axes = axes
        axes.set_aspect("equal")
        axes.axis("off")

    def image(self, image: Array, x: float, y: float, scale: float = 1.0, **options: Any) -> tuple[float, float]:
        """Draw a frame with its top left corner at (x, y); return its bottom right corner."""
        from matplotlib.patches import Rectangle

        height, width = image.shape[0] * scale, image.shape[1] * scale
        options = {"cmap": "gray", "vmin": 0, "vmax": 255, "interpolation": "nearest", "zorder": 2} | options
        self.axes.imshow(image, extent=(x, x + width, y + height, y), **options)
        edge = Rectangle((x, y), width, height, fill=False, edgecolor=INK, linewidth=0.8, zorder=options["zorder"])
        self.axes.add_patch(edge)
        return x + width, y + height

    def text(self, x: float, y: float, text: str, size: float, color: str = INK, **options: Any) -> None:
        self.axes.text(x, y, text, color=color, fontsize=size, linespacing=1.45, **({"va": "top"} | options))

    def caption(self, title: str, note: str, x: float, y: float) -> None:
        """Write a title, and a paler note under it, below a frame."""
        self.text(x, y + 19, title, 11, fontweight="bold", va="baseline")
        self.text(x, y + 26, note, 8.5, QUIET)

    def arrow(self, x: float, y: float, length: float) -> None:
        style = {"arrowstyle": "-|>", "color": RED, "linewidth": 1.8, "mutation_scale": 15}
        self.axes.annotate("", xy=(x + length, y), xytext=(x, y), arrowprops=style)


def _draw_way(board: _Board, spec: EnvSpec, shown: Stages, way: list[_Stop]) -> tuple[float, float]:
    """Draw each step at the scale of the raw frame, left to right; return the right end and the lower end."""
    tall = len(shown.pooled)
    x = -float(_GAP)
    for stop in way:
        if x > 0:
            board.arrow(x + 14, tall / 2, _GAP - 28)
        x += _GAP
        y = (tall - len(stop.images[0])) / 2
        if stop.title == "crop" and spec.crop is not None:
            y = float(spec.crop[0])
            board.image(shown.pooled, x - spec.crop[2], 0, alpha=0.22, zorder=1)
        left = x
        x, bottom = _draw_cards(board, stop.images, x, y)
        if stop.title == "maximum":
            _mark(board, shown.gray[0] > shown.gray[1], left)
        caption_at = bottom if stop.title == "resize" else tall
        board.caption(stop.title, f"{stop.note}\n{stop.shape}, {stop.size:,} bytes", left, caption_at)
    return x, tall + 52.0


def _draw_cards(board: _Board, images: list[Array], x: float, y: float) -> tuple[float, float]:
    """Draw frames as cards, the newest one in front; return the bottom right corner of the newest."""
    corner = (x, y)
    for number, image in enumerate(images):
        back = _CARD * (len(images) - 1 - number)
        corner = board.image(image, x + _CARD * number, y - back, zorder=2 + number)
    return corner


def _mark(board: _Board, pixels: Array, x: float) -> None:
    """Colour the pixels [H, W] or [H, W, 3] that the maximum has from the first of two frames."""
    from matplotlib.colors import to_rgba

    marked = pixels if pixels.ndim == 2 else pixels.any(axis=2)
    overlay = np.zeros((*marked.shape, 4))
    overlay[marked] = to_rgba(RED)
    board.image(overlay, x, 0, zorder=3)


def _draw_stack(board: _Board, spec: EnvSpec, shown: Stages, y: float) -> tuple[float, float]:
    """Draw the observation's frames, magnified, oldest first; return the right end and the lower end."""
    count = len(shown.stack)
    board.text(0, y - 14, "what the network sees", 12, RED, fontweight="bold", va="baseline")
    x, bottom = 0.0, y
    for age, frame in zip(range(count - 1, -1, -1), shown.stack, strict=True):
        left = x
        x, bottom = board.image(frame, x, y, _MAGNIFIED)
        board.caption("now" if age == 0 else f"{age} step{'s' if age > 1 else ''} ago", "", left, bottom)
        x += 14
    height, width = shown.resized.shape[:2]
    channels = sum(frame.size for frame in shown.stack) // (height * width)
    played = count * (spec.frame_skip or 1)
    note = f"observation {channels} x {height} x {width}, from {played} emulator frames"
    board.text(0, bottom + 28, note, 8.5, QUIET)
    return x - 14, bottom + 42


def _draw_bars(board: _Board, way: list[_Stop], shown: Stages, x: float, y: float) -> float:
    """Draw the bytes after each step as bars; return the right end."""
    from matplotlib.patches import Rectangle

    stops = [*way, _Stop("stack", "", shown.stack)]
    largest = max(stop.size for stop in stops)
    board.text(x, y - 14, "bytes", 12, RED, fontweight="bold", va="baseline")
    for number, stop in enumerate(stops):
        top = y + number * 27
        color = RED if stop.title == "stack" else QUIET
        board.text(x, top + 12, stop.title, 9.5, va="baseline")
        board.axes.add_patch(Rectangle((x + 58, top), 150 * stop.size / largest, 16, facecolor=color, edgecolor="none"))
        board.text(x + 64 + 150 * stop.size / largest, top + 12, f"{stop.size:,}", 9, QUIET, va="baseline")
    return x + 58 + 150 + 50
