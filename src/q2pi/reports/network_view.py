"""Animations of an episode with the input and output of the network, as GIF or animated PNG.

    screen, in colour     |  network input: the stacked frames, oldest first
                          |  Q(s, a), pi(a|s) or the policy's mode: one bar per action, the action taken marked
                          |  max_a Q(s, a) or the policy's entropy over the animation

The episode is recreated twice in lockstep from its seed and actions: once in colour for the screen, once with the
preprocessing of the run for the network. The numbers come from the newest checkpoint. The actions come from
the agent at the time of the episode, with its exploration, so the longest bar is not always the action taken.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from q2pi.algorithms.base import Agent
from q2pi.envs.make import make_envs
from q2pi.envs.spec import EnvSpec, is_atari, resolve
from q2pi.equations.distributions import Categorical
from q2pi.errors import UserError
from q2pi.networks.value import LOWEST
from q2pi.parallel.portable import replace
from q2pi.reports.network_picture import Kind, View, ViewLayout
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
    layout = ViewLayout(_action_names(spec, names), kind, views, spec, f"{config.algorithm}, agent step {step:,}")
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


def _durations(count: int, fps: float) -> list[int]:
    """Return the milliseconds of each frame: multiples of 10 ms, the resolution of GIF, without accumulated error."""
    ends = [round(100 * number / fps) for number in range(count + 1)]
    return [10 * (end - begin) for begin, end in pairwise(ends)]


def _write(path: Path, fps: float, layout: ViewLayout, views: list[View]) -> None:
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
