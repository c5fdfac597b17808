"""Whether episodes can be recreated: the same seed and actions must give the same episode."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from q2pi.envs.errors import EnvError
from q2pi.envs.interface import Engine, Frames

CHECKED_STEPS = 20
"""Steps of each of the two passes of the check, shared among the environments; at least MIN_STEPS of each."""
MIN_STEPS = 4


def is_reproducible(engine: Engine, seed_of: Callable[[int, int], int]) -> bool:
    """Return whether two passes with the same seeds and random actions agree; True if an environment raises.

    Environments known to be reproducible are not stepped. The check can miss a difference that shows rarely or late.

    Args:
        engine: the environments; afterwards they need a reset.
        seed_of: (env_index, episode_index) -> seed.
    """
    if engine.is_known_reproducible:
        return True
    try:
        return _passed(engine, seed_of) == _passed(engine, seed_of)
    except EnvError:  # training meets it too, and then its episode and step can be named
        return True


def _passed(engine: Engine, seed_of: Callable[[int, int], int]) -> list[bytes]:
    """Return the results of a few steps as bytes."""
    space = copy.deepcopy(engine.action_space)
    space.seed(0)
    episode_index = np.zeros(engine.num_envs, np.int64)
    starting = np.ones(engine.num_envs, np.bool_)
    seen: list[bytes] = []
    mask_size = engine.parts[-1].length if engine.parts[-1].kind == "mask" else 0
    frame = np.zeros((engine.num_envs, *engine.frame_space.shape), engine.frame_space.dtype)
    for _ in range(max(MIN_STEPS, CHECKED_STEPS // engine.num_envs)):
        if starting.any():
            seeds = [seed_of(env_index, int(index)) for env_index, index in enumerate(episode_index)]
            frame = frame.copy()
            frame[starting] = engine.reset(starting, np.array(seeds)).frame[starting]
            seen.append(frame[starting].tobytes())
        # An action that the mask does not allow may raise, and the check would say nothing.
        masks: list[Any] = [None] * len(frame)
        if mask_size:
            from q2pi.envs.masks import sampling_mask  # loads Gymnasium

            masks = [sampling_mask(space, row[len(row) - mask_size :]) for row in frame]
        engine.send(np.array([space.sample(mask) for mask in masks], dtype=space.dtype))
        frames: Frames = engine.recv()
        frame = frames.frame
        columns = (frames.frame, frames.reward, frames.terminated, frames.truncated)
        seen += [column.tobytes() for column in columns]
        starting = frames.terminated | frames.truncated
        episode_index = episode_index + starting
    return seen
