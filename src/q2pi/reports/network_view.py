"""Animations of an episode with the input and output of the network, as GIF or animated PNG.

    screen, in colour     |  network input: the stacked frames, oldest first
                          |  Q(s, a), pi(a|s) or the policy's mode: one bar per action, the action taken marked
                          |  max_a Q(s, a) or the policy's entropy over the animation

Q-values usually differ far less between actions than between states. So the bars show Q(s, a) minus its mean over
actions, on one axis for the whole animation; the numbers next to the bars are Q(s, a).

The episode is recreated twice in lockstep from its seed and actions: once in colour for the screen, once with the
preprocessing of the run for the network. The numbers come from the newest checkpoint. The actions come from
the agent at the time of the episode, with its exploration, so the longest bar is not always the action taken.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from q2pi.algorithms.base import Agent
from q2pi.envs import is_atari, make_envs
from q2pi.envs.spec import EnvSpec, resolve
from q2pi.equations.distributions import Categorical
from q2pi.errors import UserError
from q2pi.networks.value import LOWEST
from q2pi.parallel.portable import replace
from q2pi.reports.style import COLOURS, GRID, INK, QUIET
from q2pi.reports.video import Video, choose, make_renderer, replay, stored_episodes
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_agent
from q2pi.types import Array

SUFFIXES = (".gif", ".png")
FASTEST = 15
"""Largest number of frames per second; faster environments skip frames."""
COLOURS_KEPT = 255
"""Colours of the palette; a GIF has 256, and one marks pixels that did not change."""
NEAR_WHITE = 247
PALETTE_FRAMES = 16
"""Frames, evenly spaced, from which the palette is chosen."""
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


@runtime_checkable
class HasQValues(Protocol):
    """An agent that learns Q-values."""

    def q_values(self, observation: Array) -> Array:
        """Return Q [B, A] of observations [B, ...]."""


@runtime_checkable
class HasPolicy(Protocol):
    """An agent that learns a policy."""

    def policy_at(self, observation: Array) -> Any:
        """Return the distribution over actions at observations [B, ...]."""

    def to_env_action(self, action: torch.Tensor) -> Array:
        """Return the actions [B] in the format of the environment."""


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


def action_values(agent: Agent, observation: Array) -> tuple[list[str], Array, Kind]:
    """Return (action names, numbers [A], kind of the numbers) of an agent's network for one observation.

    The Q-value of an action that is not allowed is NaN.

    Args:
        agent: an agent with Q-values or with a policy.
        observation: [*observation_shape], raw.

    Raises:
        UserError: the agent has neither Q-values nor a policy.
    """
    batch = observation[None]
    numbers: Array
    kind: Kind
    if isinstance(agent, HasPolicy):
        with torch.inference_mode():
            distribution = agent.policy_at(batch)
            if isinstance(distribution, Categorical):
                numbers, kind = distribution.log_probs.exp()[0].float().cpu().numpy(), "pi(a|s)"
            else:
                numbers = agent.to_env_action(distribution.mode())[0].reshape(-1)
                kind = "mode of the policy"
    elif isinstance(agent, HasQValues):
        numbers, kind = np.asarray(agent.q_values(batch), np.float32)[0], "Q(s, a)"
        numbers = np.where(numbers == LOWEST, np.nan, numbers)
    else:
        raise UserError("--network-view needs an agent with Q-values or a policy")
    return [f"action {index}" for index in range(len(numbers))], numbers, kind


def record_network_view(
    run: RunFolder,
    path: Path | None = None,
    *,
    episode: str = "best",
    fps: float | None = None,
    seconds: float = 12,
) -> Video:
    """Write an animation of a stored episode with the network's input and output.

    Args:
        run: the run's folder, with a checkpoint.
        path: .gif or .png file; missing folders are created. None is `videos/<episode>-network.gif` of the run.
        episode: "best", "newest", or a rank by return, 0 for the highest.
        fps: agent steps per second; None is the environment's own speed (Atari: 60 / frame skip).
        seconds: length of the animation, from the start of the episode.

    Raises:
        UserError: no such episode, no checkpoint, another suffix, or the episode cannot be recreated.
    """
    entry = choose(stored_episodes(run), episode)
    path = path or run.videos / (f"{episode}-network.gif" if not episode.isdecimal() else f"rank-{episode}-network.gif")
    if path.suffix not in SUFFIXES:
        raise UserError(f"--out {path} must end in {' or '.join(SUFFIXES)} with --network-view")
    agent, config, step, _ = load_agent(run)
    spec = resolve(config.env)
    rate = fps or make_renderer(spec).fps
    every = max(1, math.ceil(rate / FASTEST))
    shown = min(entry["length"] + 1, max(1, round(seconds * rate)))
    names, _, kind = action_values(agent, next(_observations(spec, entry))[0])
    views = list(_views(agent, spec, entry, range(0, shown, every)))
    layout = _Layout(_action_names(spec, names), kind, views, spec, f"{config.algorithm}, agent step {step:,}")
    _write(path, rate / every, layout, views)
    return Video(path, len(views), rate / every, entry["return"], entry)


def _views(agent: Agent, spec: EnvSpec, entry: dict[str, Any], steps: range) -> Iterator[View]:
    """Recreate the whole episode, which checks its return, and yield the views of `steps`."""
    recreated = zip(replay(make_renderer(spec), entry, spec.env_id), _observations(spec, entry), strict=True)
    discrete = not isinstance(entry["actions"][0], list)
    for step, (screen, (observation, episode_return)) in enumerate(recreated):
        if step in steps:
            _, numbers, _ = action_values(agent, observation)
            acts = discrete and step < entry["length"]
            action = int(entry["actions"][step]) - int(_first_action(agent)) if acts else None
            yield View(screen, observation, numbers, action, step, episode_return)


def _first_action(agent: Any) -> int:
    """Return the number of the environment's first action; networks number actions from 0."""
    return int(getattr(agent.spec.action_space, "start", 0))


def _observations(spec: EnvSpec, entry: dict[str, Any]) -> Iterator[tuple[Array, float]]:
    """Yield (observation, raw return so far) of the reset and of each step of a stored episode."""
    envs = make_envs(spec, 1, 0)
    envs.seed_of = lambda env_index, episode_index: int(entry["seed"])
    try:
        yield envs.reset()[0], 0.0
        episode_return = 0.0
        for action in entry["actions"]:
            envs.send(np.array([action]))
            step = envs.recv()
            episode_return += float(step.reward[0])
            yield step.next_observation[0], episode_return
    finally:
        envs.close()


def _action_names(spec: EnvSpec, names: list[str]) -> list[str]:
    if not is_atari(spec.env_id):
        return names
    from q2pi.envs.atari import action_names

    return action_names(spec.env_id, bool(spec.full_action_space))


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans from matplotlib, so that no system font is needed."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


class _Layout:
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


def _durations(count: int, fps: float) -> list[int]:
    """Return the milliseconds of each frame: multiples of 10 ms, the resolution of GIF, without accumulated error."""
    ends = [round(100 * number / fps) for number in range(count + 1)]
    return [10 * (end - begin) for begin, end in pairwise(ends)]


def _write(path: Path, fps: float, layout: _Layout, views: list[View]) -> None:
    """Write an animation atomically, with one palette for all frames: unchanged pixels then take no space."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen = np.unique(np.linspace(0, len(views) - 1, PALETTE_FRAMES).round().astype(int))
    palette = _palette([layout.draw(views[index]) for index in chosen])
    frames = (layout.draw(view).quantize(palette=palette, dither=Image.Dither.NONE) for view in views)
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    options: dict[str, Any] = {"optimize": True} if path.suffix == ".gif" else {}
    try:
        # Pillow iterates twice over the frames of a PNG, so a generator would be empty the second time; once for a GIF.
        first = next(frames)
        rest = frames if path.suffix == ".gif" else list(frames)
        durations = _durations(len(views), fps)
        first.save(temporary, save_all=True, append_images=rest, duration=durations, loop=0, **options)
        replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _palette(pictures: list[Image.Image]) -> Image.Image:
    """Return one palette for all images. Near-white entries become white: a median cut turns the background gray."""
    sample = Image.fromarray(np.concatenate([np.asarray(picture) for picture in pictures]))
    cut = sample.quantize(COLOURS_KEPT, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).getpalette() or []
    entries = np.array(cut, np.uint8).reshape(-1, 3)
    entries[(entries > NEAR_WHITE).all(axis=1)] = 255
    palette = Image.new("P", (1, 1))
    palette.putpalette(entries.tobytes())
    return palette
