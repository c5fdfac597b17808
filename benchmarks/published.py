"""Training returns of published runs on Space Invaders, sticky actions: those of each seed.

Source: google/dopamine at 5873f549, baselines/atari/data/spaceinvaders.json and spaceinvaders_CNN.json. An iteration is
250,000 agent steps; its value is the mean raw return of its training episodes.
"""

from statistics import fmean

WIDTH = 250_000
"""Agent steps of a window."""
SPACE_INVADERS = {
    "Dopamine DQN (Adam + MSE), 5 seeds": (
        (164.8, 178.3, 158.4, 159.6, 159.6),
        (271.4, 294.7, 208.6, 246.2, 228.5),
        (339.3, 356.7, 324.1, 335.7, 346.1),
        (385.1, 442.0, 418.0, 405.6, 425.2),
    ),
    "Dopamine DQN (RMSProp), 5 seeds": (
        (168.5, 156.6, 173.2, 162.3, 175.2),
        (211.1, 174.0, 193.6, 183.4, 187.4),
        (258.2, 206.3, 233.2, 243.2, 235.5),
        (283.9, 261.7, 269.1, 278.9, 263.1),
    ),
    "Dopamine Rainbow (JAX), 5 seeds": (
        (183.9, 179.8, 171.7, 177.9, 185.5),
        (237.7, 234.4, 239.7, 225.8, 229.8),
        (317.5, 266.7, 291.6, 279.0, 271.1),
        (384.0, 405.6, 414.8, 421.6, 380.1),
    ),
    "Dopamine Rainbow (TensorFlow), 5 seeds": (
        (173.1, 180.0, 191.0, 180.0, 184.7),
        (242.1, 223.0, 229.5, 238.4, 237.8),
        (331.4, 353.7, 318.8, 305.6, 328.8),
        (460.2, 445.9, 454.3, 404.7, 420.5),
    ),
}
"""Name -> returns of each window, one per seed."""


def mean_curve(name: str) -> list[tuple[int, float]]:
    """Return (last agent step of the window, mean over the seeds) of published runs."""
    return [((index + 1) * WIDTH, fmean(seeds)) for index, seeds in enumerate(SPACE_INVADERS[name])]
