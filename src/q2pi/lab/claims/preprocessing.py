"""What preprocessing buys and what it loses: bytes, multiply-adds and time per observation, and the ball.

An observation is four frames of Pong: raw (210 x 160, colour), gray, gray and cropped to the field, gray at 84 x 84,
and gray at 42 x 42. Multiply-adds are those of the Nature network's convolutions and linear layer for this input, in
one forward pass; time is CPU time of one forward pass, one thread. What is lost: a linear probe (`lab.screens.probe`)
finds the ball's row and column from one frame, in pixels of the raw screen, on screens that it has not seen.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from q2pi.lab.claim import Claim, Data, Rule, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STAGES: dict[str, tuple[int, int, int]] = {
    "raw": (3, 210, 160),
    "gray": (1, 210, 160),
    "cropped": (1, 160, 160),
    "84x84": (1, 84, 84),
    "42x42": (1, 42, 42),
}
"""Channels, height and width of one frame after each stage."""
STACK = 4
FLOPS = 2
"""Floating-point operations of one multiply-add."""


def network_cost(shape: tuple[int, int, int], repetitions: int) -> tuple[float, float]:
    """Return (million multiply-adds, CPU milliseconds) of a forward pass with one stacked observation."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from q2pi.networks.torsos import ImageTorso

    channels, height, width = shape
    torso = ImageTorso(STACK * channels, height, width)
    batch = torch.zeros(1, STACK * channels, height, width, dtype=torch.uint8)
    counter = FlopCounterMode(display=False)
    torch.set_num_threads(1)
    with torch.inference_mode():
        with counter:
            torso(batch)
        seconds = []
        for _ in range(repetitions):
            start = time.process_time()
            torso(batch)
            seconds.append(time.process_time() - start)
    return counter.get_total_flops() / FLOPS / 1e6, 1000 * float(np.median(seconds))


def stages_of(screens: Any) -> dict[str, Any]:
    """Return frames of each stage, uint8 [T, ...], from raw screens [T, 210, 160, 3]."""
    from q2pi.envs.resize import AreaResize
    from q2pi.lab.screens import FIELD, to_gray

    gray = to_gray(screens)
    resized = {name: AreaResize((210, 160), STAGES[name][1:])(gray) for name in ("84x84", "42x42")}
    return {"raw": screens, "gray": gray, "cropped": gray[:, FIELD], **resized}


def experiment(seed: int, settings: Settings) -> Data:
    from q2pi.lab.screens import probe, rally

    game = rally(seed, settings["screens"])
    visible = ~np.isnan(game.ball[:, 0])
    frames, ball = stages_of(game.screens[visible]), game.ball[visible]
    train = len(ball) * 2 // 3
    data: Data = {"bytes": {}, "multiply_adds": {}, "milliseconds": {}, "probe": {}}
    for name, shape in STAGES.items():
        data["bytes"][name] = STACK * int(np.prod(shape))
        data["multiply_adds"][name], data["milliseconds"][name] = network_cost(shape, settings["repetitions"])
        data["probe"][name] = probe(frames[name], ball, train)
    return data


def figure(data: Sequence[Data]) -> "Figure":
    from q2pi.lab import figures

    drawn, axes = figures.panels(4)
    columns = (
        ("bytes", 1e-3, "kilobytes", "one observation"),
        ("multiply_adds", 1.0, "million multiply-adds", "one forward pass"),
        ("milliseconds", 1.0, "CPU milliseconds", "one forward pass"),
        ("probe", 1.0, "R^2 on unseen screens", "linear probe: where is the ball?"),
    )
    for panel, (column, factor, unit, title) in zip(axes, columns, strict=True):
        figures.bars(panel, list(STAGES), [[factor * one[column][name] for name in STAGES] for one in data])
        figures.label(panel, "stage", unit, title)
    figures.footnote(drawn, f"Pong, stacks of {STACK}, the Nature network; {figures.interval_words(len(data))}")
    return drawn


def _ratio(data: Data, column: str) -> float:
    return float(data[column]["raw"]) / float(data[column]["84x84"])


CLAIM = Claim(
    name="preprocessing",
    sentence="Preprocessing buys computation and loses little: gray frames of 84 x 84 cost a fraction of raw frames, "
    "and the ball can still be found.",
    rules=(
        Rule("bytes, raw over 84x84", "times", lambda data: _ratio(data, "bytes"), 5.0, is_exact=True),
        Rule(
            "multiply-adds, raw over 84x84",
            "times",
            lambda data: _ratio(data, "multiply_adds"),
            3.0,
            is_exact=True,
        ),
        Rule("CPU time, raw over 84x84", "times", lambda data: _ratio(data, "milliseconds"), 2.0),
        Rule(
            "R^2 of the ball's position from raw frames minus that from 84x84",
            "",
            lambda data: float(data["probe"]["raw"]) - float(data["probe"]["84x84"]),
            0.1,
            "below",
        ),
    ),
    experiment=experiment,
    figure=figure,
    quick={"screens": 120, "repetitions": 2},
    full={"screens": 1_500, "repetitions": 30},
)
