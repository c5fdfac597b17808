"""Screens of Pong with the position of the ball, and linear probes on pixels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from q2pi.types import Array

FIELD = slice(34, 194)
"""Rows of the screen between the two walls."""
BALL = 236
"""Red, green and blue value of the ball; the walls have the same colour."""
Screens = NDArray[np.uint8]


@dataclass(frozen=True)
class Rally:
    """Screens of consecutive agent steps."""

    screens: Screens
    """[T, 210, 160, 3]"""
    ball: Array
    """float64 [T, 2] row and column of the ball's centre in pixels of the screen; NaN if no ball is visible."""
    episode_start: Array
    """bool [T]: the screen is the first of its episode."""


def rally(seed: int, steps: int) -> Rally:
    """Return `steps` screens of Pong under random actions, four emulator frames apart."""
    from q2pi.envs.make import make_envs
    from q2pi.envs.spec import EnvSpec, resolve
    from q2pi.rng import stream

    spec = EnvSpec("Pong", protocol="nature", grayscale=False, resize=(210, 160), stack=1, max_pool=False)
    envs = make_envs(resolve(spec), 1, seed)
    noise = stream(seed, "random actions")
    observation, starts = envs.reset(), [True]
    screens = [observation[0]]
    while len(screens) < steps:
        envs.send(noise.integers(envs.action_space.n, size=1))
        step = envs.recv()
        screens.append(step.observation[0])
        starts.append(bool(step.ended[0]))
    envs.close()
    images = np.moveaxis(np.stack(screens), 1, -1)
    return Rally(images, ball_positions(images), np.array(starts))


def ball_positions(screens: Screens) -> Array:
    """Return the centre of the ball [T, 2] as row and column, NaN if it is not visible."""
    found = np.full((len(screens), 2), np.nan)
    for index, screen in enumerate(screens):
        rows, columns = np.nonzero((screen[FIELD] == BALL).all(axis=-1))
        if len(rows):
            found[index] = rows.mean() + FIELD.start, columns.mean()
    return found


def to_gray(screens: Screens) -> Screens:
    """Return the luminance [T, H, W] of colour screens (ITU-R BT.601 weights, those of ALE's palette conversion)."""
    gray: Screens = np.rint(screens @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)
    return gray


def probe(features: Screens, target: Array, train: int, penalty: float = 1e-3) -> float:
    """Return the share of variance on held-out rows that a linear probe explains (R^2), mean over the target's columns.

    Ridge regression in its dual form, so its size is that of the samples, not of the pixels.

    Args:
        features: uint8 [T, ...].
        target: [T, D].
        train: number of first rows to fit; the others measure.
        penalty: ridge penalty as a share of the mean squared norm of the features.
    """
    rows = features.reshape(len(features), -1)
    mean = rows[:train].mean(axis=0, dtype=np.float32)
    gram = np.zeros((len(rows), train), np.float32)
    width = 8_192
    for start in range(0, rows.shape[1], width):  # a whole float copy of raw screens would take gigabytes
        part = (rows[:, start : start + width].astype(np.float32) - mean[start : start + width]) / 255
        gram += part @ part[:train].T
    centre = target[:train].mean(axis=0)
    scale = float(np.trace(gram[:train])) / train
    weights = np.linalg.solve(
        gram[:train].astype(np.float64) + penalty * scale * np.eye(train), target[:train] - centre
    )
    predicted = gram[train:] @ weights + centre
    residual = np.square(predicted - target[train:]).sum(axis=0)
    total = np.square(target[train:] - target[train:].mean(axis=0)).sum(axis=0)
    return float(np.mean(1 - residual / total))
