"""Pictures of one step of an episode: the screen, the network's input and its numbers; see `network_view`.

Q-values usually differ far less between actions than between states. So the bars show Q(s, a) minus its mean over
actions, on one axis for the whole animation; the numbers next to the bars are Q(s, a).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from q2pi.envs.spec import EnvSpec
from q2pi.reports.style import COLOURS, GRID, INK, QUIET
from q2pi.types import Array

MARGIN, GAP = 16, 28
SCREEN = (600, 420)
"""Largest width and height of the screen, in pixels."""
COLUMN = 364
"""Width of the right column, in pixels: four frames of 84 and the gaps between them."""
FRAME_GAP = 8
ROW = (14, 27)
"""Smallest and largest height of a bar's row, in pixels."""
TRACE = 64
"""Height of the curve below the bars, in pixels, its heading not included."""
NUMBERS_SHOWN = 8
"""Largest number of elements of a vector observation that are shown."""


Kind = Literal["Q(s, a)", "pi(a|s)", "mode of the policy"]


@dataclass(frozen=True)
class View:
    """One step of the episode to draw."""

    screen: Array
    """[H, W, 3] uint8."""
    observation: Array
    """[*observation_shape], the input of the network."""
    numbers: Array
    """[A] from `action_values`."""
    action: int | None
    """Index of the action taken; None after the last action, and for Box actions."""
    step: int
    episode_return: float
    """Sum of raw rewards so far."""


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans from matplotlib, so that no system font is needed."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


class ViewLayout:
    """Draws views with one layout and one axis.

    Args:
        names: names of the A actions.
        kind: meaning of the numbers.
        views: all views of the animation, which determine the axis of the bars.
        spec: resolved specification of the environment.
        agent_name: description of the agent for the title.
    """

    def __init__(self, names: list[str], kind: Kind, views: list[View], spec: EnvSpec, agent_name: str) -> None:
        self.names, self.kind, self.spec = names, kind, spec
        self.title = f"{spec.env_id}   {agent_name}"
        self.low, self.high = _axis(np.stack([_lengths(view.numbers, kind) for view in views]), kind)
        self.trace = {view.step: value for view in views if (value := _summary(view.numbers, kind)) is not None}
        height, width, _ = views[0].screen.shape
        scale = min(SCREEN[0] / width, SCREEN[1] / height)
        scale = math.floor(scale) if scale >= 1 else scale
        self.screen = (max(1, round(width * scale)), max(1, round(height * scale)))
        self.top = MARGIN + 28
        self.left = MARGIN + self.screen[0] + GAP
        self.bars_top = self.top + self._input_height(views[0].observation) + 44
        trace = TRACE + 44 if self.trace else 0
        below = self.top + self.screen[1] - self.bars_top - trace
        self.row = min(ROW[1], max(ROW[0], below // len(names)))
        bottom = max(self.top + self.screen[1], self.bars_top + self.row * len(names) + trace)
        self.trace_top = bottom - TRACE
        self.size = (self.left + COLUMN + MARGIN, bottom + MARGIN)
        self.fonts = {name: _font(size) for name, size in (("text", 13), ("small", 11))}
        self.bold = _font(15, bold=True)
        self.label_width = max(math.ceil(self.fonts["small"].getlength(name)) for name in names) + 10

    def draw(self, view: View) -> Image.Image:
        """Return the picture of one view."""
        picture = Image.new("RGB", self.size, "white")
        canvas = ImageDraw.Draw(picture)
        canvas.text((MARGIN, MARGIN - 4), self.title, INK, self.bold)
        right = self.left + COLUMN
        score = f"step {view.step:,}   return {view.episode_return:g}"
        canvas.text((right, MARGIN - 3), score, INK, self.fonts["text"], "ra")
        sampling = Image.Resampling.NEAREST if self.screen[0] >= view.screen.shape[1] else Image.Resampling.BOX
        picture.paste(Image.fromarray(view.screen).resize(self.screen, sampling), (MARGIN, self.top))
        self._input(picture, canvas, view.observation)
        self._bars(canvas, view)
        if self.trace:
            self._trace(canvas, view.step)
        return picture

    def _input_height(self, observation: Array) -> int:
        """Return the height of the input below its heading, in pixels."""
        if observation.ndim == 3:
            tile = self._tile(observation)
            return 38 + math.ceil(int(observation.shape[1]) * tile / int(observation.shape[2]))
        return 22 + 16 * min(NUMBERS_SHOWN, observation.size)

    def _tile(self, observation: Array) -> int:
        """Return the width of a drawn frame in pixels: its original width, or less if the column is too narrow."""
        count = self.spec.stack or 1
        return min(int(observation.shape[2]), (COLUMN - FRAME_GAP * (count - 1)) // count)

    def _input(self, picture: Image.Image, canvas: ImageDraw.ImageDraw, observation: Array) -> None:
        """Draw the frames of an image observation, or the numbers of a vector observation."""
        shape = " x ".join(map(str, observation.shape))
        heading = f"network input, {shape}" if observation.ndim == 3 else "observation"
        canvas.text((self.left, self.top), heading, INK, self.fonts["text"])
        y = self.top + 22
        if observation.ndim != 3:
            for index, number in enumerate(observation.reshape(-1)[:NUMBERS_SHOWN]):
                canvas.text((self.left, y + 16 * index), f"s[{index}] = {number:.3g}", QUIET, self.fonts["small"])
            return
        count, tile = self.spec.stack or 1, self._tile(observation)
        for index, frame in enumerate(np.split(observation, count)):
            image = _picture(frame)
            image = image.resize((tile, math.ceil(image.height * tile / image.width)))
            x = self.left + index * (tile + FRAME_GAP)
            picture.paste(image, (x, y))
            age = "t" if index == count - 1 else f"t - {count - 1 - index}"
            canvas.text((x + tile // 2, y + image.height + 2), age, QUIET, self.fonts["small"], "ma")

    def _bars(self, canvas: ImageDraw.ImageDraw, view: View) -> None:
        """Draw one bar per action on the axis of all views; the action taken has another colour."""
        start, end = self.left + self.label_width, self.left + COLUMN - 44
        meaning = "bars: minus the mean over actions, " if self.kind == "Q(s, a)" else "bars: "
        canvas.text((self.left, self.bars_top - 24), self.kind, INK, self.fonts["text"])
        canvas.text(
            (self.left + COLUMN, self.bars_top - 22),
            f"{meaning}{self.low:.2g} to {self.high:.2g}",
            QUIET,
            self.fonts["small"],
            "ra",
        )
        unit = (end - start) / (self.high - self.low)
        zero = start - self.low * unit
        rows = zip(self.names, view.numbers, _lengths(view.numbers, self.kind), strict=True)
        for index, (name, number, length) in enumerate(rows):
            y, taken = self.bars_top + index * self.row, index == view.action
            colour, middle = COLOURS[1] if taken else COLOURS[0], y + self.row / 2
            canvas.rectangle((start, y + 2, end, y + self.row - 3), GRID)
            ink = colour if taken else INK
            canvas.text((start - 6, middle), name, ink, self.fonts["small"], "rm")
            if math.isnan(number):
                canvas.text((end + 6, middle), "masked", QUIET, self.fonts["small"], "lm")
                continue
            tip = zero + length * unit
            canvas.rectangle((min(zero, tip), y + 2, max(zero, tip), y + self.row - 3), colour)
            canvas.text((end + 6, middle), f"{number:.2f}", ink, self.fonts["small"], "lm")

    def _trace(self, canvas: ImageDraw.ImageDraw, step: int) -> None:
        """Draw the curve of max_a Q or of the entropy over the animation, with a marker at `step`."""
        values = np.array(list(self.trace.values()))
        low, high = float(values.min()), float(values.max())
        bottom, right = self.trace_top + TRACE, self.left + COLUMN
        x = np.linspace(self.left + 2, right - 2, len(values))
        y = bottom - 4 - (values - low) / max(high - low, 1e-9) * (TRACE - 8)
        name = "max Q(s, a)" if self.kind == "Q(s, a)" else "entropy of the policy, in nats"
        canvas.text((self.left, self.trace_top - 20), f"{name}: {self.trace[step]:.2f}", INK, self.fonts["text"])
        canvas.text((right, self.trace_top - 18), f"{low:.2g} to {high:.2g}", QUIET, self.fonts["small"], "ra")
        canvas.rectangle((self.left, self.trace_top, right, bottom), None, GRID)
        canvas.line([*zip(x.tolist(), y.tolist(), strict=True)], COLOURS[0], 2)
        here = list(self.trace).index(step)
        canvas.ellipse((x[here] - 4, y[here] - 4, x[here] + 4, y[here] + 4), COLOURS[1])


def _picture(frame: Array) -> Image.Image:
    """Return a frame [C, H, W] as a picture: 3 or 4 channels as colours, the maximum of any other number in gray."""
    if frame.dtype != np.uint8:
        frame = (frame * (255 / max(float(frame.max()), 1.0))).astype(np.uint8)
    if len(frame) in (3, 4):
        return Image.fromarray(np.moveaxis(frame[:3], 0, -1).copy())
    return Image.fromarray(frame.max(axis=0))


def _lengths(numbers: Array, kind: Kind) -> Array:
    """Return the signed lengths of the bars [A]: Q-values minus their mean, or unchanged other numbers."""
    lengths: Array = numbers - np.nanmean(numbers) if kind == "Q(s, a)" else numbers
    return lengths


def _summary(numbers: Array, kind: Kind) -> float | None:
    """Return max_a Q(s, a), the entropy in nats, or None for the mode of a policy over Box actions."""
    if kind == "Q(s, a)":
        return float(np.nanmax(numbers))
    positive = numbers[numbers > 0]
    return float(-(positive * np.log(positive)).sum()) if kind == "pi(a|s)" else None


def _axis(lengths: Array, kind: Kind) -> tuple[float, float]:
    """Return the limits of the axis of the bars: [0, 1] for probabilities, else an interval with 0 and all lengths."""
    if kind == "pi(a|s)":
        return 0.0, 1.0
    low, high = min(float(np.nanmin(lengths)), 0.0), max(float(np.nanmax(lengths)), 0.0)
    return (low, high) if high > low else (-1.0, 1.0)
