"""A figure of the preprocessing of Atari frames.

    colour, two emulator frames --> gray --> maximum of the two --> crop --> resize --> stack of K

The stack is the observation of `VectorEnv`. The earlier stages come from the same episode, recreated one raw emulator
frame at a time.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from q2pi.envs.make import make_envs
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
    """One observation of a game and its earlier stages; colour frames are [H, W, 3], gray frames [H, W], all uint8."""

    colour: list[Array]
    """The last two raw emulator frames of the step; only the last frame if a step has one frame."""
    gray: list[Array]
    """The same frames in gray; in colour if the specification keeps colours."""
    pooled: Array
    """Pixel-wise maximum of `gray`, or its last frame without max-pooling."""
    cropped: Array
    resized: Array
    """The newest frame of the stack."""
    stack: list[Array]
    """The observation's frames, oldest first."""


def stages(spec: EnvSpec, seed: int = 0, steps: int = 100) -> Stages:
    """Return one observation of an Atari game and its earlier stages.

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
    observation, actions = _observe(spec, seed, steps)
    pooled_frames = 2 if spec.max_pool and spec.frame_skip != 1 else 1
    colour = _raw_frames(replace(spec, grayscale=False), seed, actions)[-pooled_frames:]
    gray = _raw_frames(spec, seed, actions)[-pooled_frames:]
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


def _observe(spec: EnvSpec, seed: int, steps: int) -> tuple[Array, list[int]]:
    """Return the observation [K * C, h, w] after at most `steps` random actions, and these actions."""
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


def _raw_frames(spec: EnvSpec, seed: int, actions: list[int]) -> list[Array]:
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
    """Draw the stages from the emulator's frames to the network's input; write the figure and return the stages.

    Args:
        spec: an Atari game and its rules.
        path: file of the figure; its suffix chooses the format (.png, .svg, .pdf).
        seed: seed of the episode and of the random actions taken.
        steps: agent steps before the picture is taken; fewer if the episode is shorter.

    Raises:
        UserError: not an Atari game, or fewer than one step.
    """
    spec = resolve(spec)
    shown = stages(spec, seed, steps)
    pipeline = _preprocessing_steps(spec, shown)
    # Resized below, when the extent of the drawing is known; a layout engine would move the axes.
    figure = new_figure(1, 1)
    figure.set_layout_engine("none")
    board = _Board(figure.add_axes((0.0, 0.0, 1.0, 1.0)))
    board.text(0, -50, f"{spec.env_id}: from the emulator to the network", 16, fontweight="bold", va="bottom")
    right, lower = _draw_steps(board, spec, shown, pipeline)
    stack_right, lowest = _draw_stack(board, spec, shown, lower + 66)
    bars_right = _draw_bars(board, pipeline, shown, stack_right + _GAP, lower + 66)
    width, height = max(right, bars_right) + 40, lowest + 40
    board.axes.set(xlim=(-40, width), ylim=(height, -84))
    figure.set_size_inches((width + 40) / 82, (height + 84) / 82)
    save_figure(figure, Path(path))
    return shown


@dataclass(frozen=True)
class _Step:
    """One preprocessing step: its title, a note on what it does, and the resulting frames."""

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


def _preprocessing_steps(spec: EnvSpec, shown: Stages) -> list[_Step]:
    """Return the preprocessing steps of the specification, in order."""
    skip, pools = spec.frame_skip or 1, len(shown.gray) == 2
    which = f"frames {skip - 1} and {skip} of {skip}" if pools else f"frame {skip} of {skip}"
    steps = [_Step("emulator", f"{which} of one step", shown.colour)]
    if spec.grayscale:
        steps.append(_Step("gray", "one channel for three", shown.gray))
    if pools:
        earlier = int((shown.gray[0] > shown.gray[-1]).sum())
        steps.append(_Step("maximum", f"{earlier} pixels kept from the first", [shown.pooled]))
    if spec.crop is not None:
        sides = zip(("top", "bottom", "left", "right"), spec.crop, strict=True)
        cut = ", ".join(f"{side} {count}" for side, count in sides if count)
        steps.append(_Step("crop", f"without {cut or 'anything'}", [shown.cropped]))
    return [*steps, _Step("resize", "by area", [shown.resized])]


class _Board:
    """Axes in units of raw pixels, with the origin at the top left."""

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
        """Write a title and a paler note below a frame."""
        self.text(x, y + 19, title, 11, fontweight="bold", va="baseline")
        self.text(x, y + 26, note, 8.5, QUIET)

    def arrow(self, x: float, y: float, length: float) -> None:
        style = {"arrowstyle": "-|>", "color": RED, "linewidth": 1.8, "mutation_scale": 15}
        self.axes.annotate("", xy=(x + length, y), xytext=(x, y), arrowprops=style)


def _draw_steps(board: _Board, spec: EnvSpec, shown: Stages, steps: list[_Step]) -> tuple[float, float]:
    """Draw each step at the scale of the raw frame, left to right; return the right and the lower end."""
    tall = len(shown.pooled)
    x = -float(_GAP)
    for step in steps:
        if x > 0:
            board.arrow(x + 14, tall / 2, _GAP - 28)
        x += _GAP
        y = (tall - len(step.images[0])) / 2
        if step.title == "crop" and spec.crop is not None:
            y = float(spec.crop[0])
            board.image(shown.pooled, x - spec.crop[2], 0, alpha=0.22, zorder=1)
        left = x
        x, bottom = _draw_cards(board, step.images, x, y)
        if step.title == "maximum":
            _mark(board, shown.gray[0] > shown.gray[1], left)
        caption_at = bottom if step.title == "resize" else tall
        board.caption(step.title, f"{step.note}\n{step.shape}, {step.size:,} bytes", left, caption_at)
    return x, tall + 52.0


def _draw_cards(board: _Board, images: list[Array], x: float, y: float) -> tuple[float, float]:
    """Draw frames as cards, the newest one in front; return the bottom right corner of the newest."""
    corner = (x, y)
    for number, image in enumerate(images):
        back = _CARD * (len(images) - 1 - number)
        corner = board.image(image, x + _CARD * number, y - back, zorder=2 + number)
    return corner


def _mark(board: _Board, pixels: Array, x: float) -> None:
    """Colour the pixels [H, W] or [H, W, 3] of the maximum that come from the first of the two frames."""
    from matplotlib.colors import to_rgba

    marked = pixels if pixels.ndim == 2 else pixels.any(axis=2)
    overlay = np.zeros((*marked.shape, 4))
    overlay[marked] = to_rgba(RED)
    board.image(overlay, x, 0, zorder=3)


def _draw_stack(board: _Board, spec: EnvSpec, shown: Stages, y: float) -> tuple[float, float]:
    """Draw the observation's frames, magnified, oldest first; return the right end and the lower end."""
    count = len(shown.stack)
    board.text(0, y - 14, "network input", 12, RED, fontweight="bold", va="baseline")
    x, bottom = 0.0, y
    for age, frame in zip(range(count - 1, -1, -1), shown.stack, strict=True):
        left = x
        x, bottom = board.image(frame, x, y, _MAGNIFIED)
        board.caption("now" if age == 0 else f"{age} step{'s' if age > 1 else ''} ago", "", left, bottom)
        x += 14
    height, width = shown.resized.shape[:2]
    channels = sum(frame.size for frame in shown.stack) // (height * width)
    emulator_frames = count * (spec.frame_skip or 1)
    note = f"observation {channels} x {height} x {width}, from {emulator_frames} emulator frames"
    board.text(0, bottom + 28, note, 8.5, QUIET)
    return x - 14, bottom + 42


def _draw_bars(board: _Board, steps: list[_Step], shown: Stages, x: float, y: float) -> float:
    """Draw the bytes after each step as bars; return the right end."""
    from matplotlib.patches import Rectangle

    steps = [*steps, _Step("stack", "", shown.stack)]
    largest = max(step.size for step in steps)
    board.text(x, y - 14, "bytes", 12, RED, fontweight="bold", va="baseline")
    for number, step in enumerate(steps):
        top = y + number * 27
        color = RED if step.title == "stack" else QUIET
        board.text(x, top + 12, step.title, 9.5, va="baseline")
        board.axes.add_patch(Rectangle((x + 58, top), 150 * step.size / largest, 16, facecolor=color, edgecolor="none"))
        board.text(x + 64 + 150 * step.size / largest, top + 12, f"{step.size:,}", 9, QUIET, va="baseline")
    return x + 58 + 150 + 50
