"""Videos of recorded episodes, in colour; no display is needed.

A run stores seeds and actions, not images. An episode is a pure function of (environment, seed, actions), so it is
recreated in colour at the size of the screen, and its return is checked against the return in training. A video of T
agent steps has T + 1 frames; the first shows the reset.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q2pi.envs.spec import EnvSpec, is_atari, resolve
from q2pi.errors import UserError
from q2pi.runs.folder import RunFolder

Image = NDArray[np.uint8]
EMULATOR_RATE = 60
"""Emulator frames per second of an Atari env."""
DEFAULT_RATE = 30
HEIGHT = 640
"""Small screens are enlarged by the largest whole factor that keeps them this high, in pixels."""


@dataclass(frozen=True)
class Video:
    """A video file and its episode."""

    path: Path
    frames: int
    fps: float
    """Frames per second."""
    episode_return: float
    """Raw return, equal to the return in training."""
    entry: dict[str, Any]
    """The episode as the run folder stores it."""

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.frames / self.fps


def stored_episodes(run: RunFolder) -> list[dict[str, Any]]:
    """Return the episodes that the run stores, without duplicates, highest return first.

    Raises:
        UserError: no episode is stored yet, or the files are damaged.
    """
    entries: dict[tuple[int, int], dict[str, Any]] = {}
    for path in (run.episodes / "best.json", run.episodes / "newest.json"):
        try:
            stored = json.loads(path.read_text()) if path.is_file() else []
            entries |= {(entry["env_index"], entry["episode_index"]): _checked(entry) for entry in stored}
        except (ValueError, KeyError, TypeError) as problem:
            raise UserError(f"{path} is damaged: {problem!r}") from problem
    if not entries:
        raise UserError(f"{run.path} has no stored episode yet: each checkpoint writes them")
    return sorted(entries.values(), key=lambda entry: (-entry["return"], entry["step"]))


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    missing = {"seed", "actions", "return", "length", "step"} - entry.keys()
    if missing:
        raise KeyError(*sorted(missing))
    return entry


def choose(entries: list[dict[str, Any]], which: str) -> dict[str, Any]:
    """Return one of the stored episodes.

    Args:
        entries: from `stored_episodes`.
        which: "best", "newest", or a rank by return, 0 for the highest.

    Raises:
        UserError: no such episode.
    """
    if which == "newest":
        return max(entries, key=lambda entry: (entry["step"], entry["env_index"]))
    rank = 0 if which == "best" else int(which) if which.isdecimal() else len(entries)
    if rank >= len(entries):
        raise UserError(f"--episode {which} must be best, newest or a rank by return from 0 to {len(entries) - 1}")
    return entries[rank]


def record_video(run: RunFolder, path: Path | None = None, *, episode: str = "best", fps: float | None = None) -> Video:
    """Recreate a stored episode and write it as an mp4 file, atomically.

    Args:
        run: the run's folder.
        path: file of the mp4; missing folders are created. None is `videos/<episode>.mp4` in the run's folder.
        episode: "best", "newest", or a rank by return, 0 for the highest.
        fps: frames per second; None is the environment's own speed (Atari: 60 / frame skip).

    Raises:
        UserError: no such episode, another suffix, or the episode cannot be recreated.
    """
    entry = choose(stored_episodes(run), episode)
    path = path or run.videos / (f"{episode}.mp4" if not episode.isdecimal() else f"rank-{int(episode)}.mp4")
    if path.suffix != ".mp4":
        raise UserError(f"--out {path} must end in .mp4")
    spec = run.env()
    renderer = make_renderer(spec)
    rate = renderer.fps if fps is None else fps
    frames = _write(path, rate, replay(renderer, entry, spec.env_id))
    return Video(path, frames, rate, entry["return"], entry)


@dataclass(frozen=True)
class Renderer:
    """An environment that renders RGB frames, with its frame rate."""

    fps: float
    replay: Callable[[int, list[Any]], Iterator[tuple[Image, float, bool]]]
    """(seed, actions) -> (screen [H, W, 3], reward, whether the episode ended) of the reset and of each step."""


def make_renderer(spec: EnvSpec) -> Renderer:
    """Return the renderer of an environment.

    Raises:
        UserError: the environment cannot render RGB frames.
    """
    spec = resolve(spec)
    return _atari(spec) if is_atari(spec.env_id) else _gymnasium(spec)


def replay(renderer: Renderer, entry: dict[str, Any], env_id: str) -> Iterator[Image]:
    """Recreate a stored episode and yield its screens [H, W, 3].

    Raises:
        UserError: after the last screen, if the return or the length differ, or the episode has not ended.
    """
    episode_return, length, ended = 0.0, -1, False
    for screen, reward, has_ended in renderer.replay(entry["seed"], entry["actions"]):
        episode_return += reward
        length += 1
        ended = has_ended
        yield screen
    if (episode_return, length, ended) != (entry["return"], entry["length"], True):
        raise UserError(
            f"cannot recreate the episode of {env_id}: its return was {entry['return']:g} in {entry['length']} steps, "
            f"and is now {episode_return:g} in {length}{'' if ended else ' without ending'} "
            "(was ALE or Gymnasium updated?)"
        )


def _atari(spec: EnvSpec) -> Renderer:
    from q2pi.envs.atari import AtariEngine, needs_plain_interface, raw_screen
    from q2pi.envs.vector import VectorEnv

    # Only options of the image change; seed, no-ops, sticky actions and frame skip determine the episode.
    image: dict[str, Any] = {"obs_type": "image", "max_pool": spec.max_pool is not False}
    rendered = replace(spec, grayscale=False, crop=None, resize=raw_screen(spec.env_id), stack=1, **image)
    assert rendered.frame_skip is not None
    plain = needs_plain_interface(spec)

    def replay_episode(seed: int, actions: list[Any]) -> Iterator[tuple[Image, float, bool]]:
        envs = VectorEnv(AtariEngine(rendered, 1, plain=plain), rendered, lambda env_index, episode_index: seed)
        try:
            yield np.moveaxis(envs.reset()[0], 0, -1), 0.0, False
            for action in actions:
                envs.send(np.array([action]))
                step = envs.recv()
                ended = bool(step.ended[0])
                yield np.moveaxis(step.next_observation[0], 0, -1), float(step.reward[0]), ended
                if ended:
                    return
        finally:
            envs.close()

    return Renderer(EMULATOR_RATE / rendered.frame_skip, replay_episode)


def _gymnasium(spec: EnvSpec) -> Renderer:
    # pygame reads these when an environment renders for the first time; without them it opens a window.
    os.environ["SDL_VIDEODRIVER"] = "dummy"
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    from q2pi.envs.gymnasium import make

    try:
        env = make(spec, render_mode="rgb_array")
    except (UserError, TypeError, ValueError) as problem:
        raise UserError(f"{spec.env_id} cannot be drawn: {_first_line(problem)}") from problem

    def replay_episode(seed: int, actions: list[Any]) -> Iterator[tuple[Image, float, bool]]:
        try:
            env.reset(seed=seed)
            yield _screen_of(env, spec.env_id), 0.0, False
            for action in actions:
                taken = np.asarray(action, env.action_space.dtype)
                _, reward, terminated, truncated, _ = env.step(taken[()])
                yield _screen_of(env, spec.env_id), float(reward), bool(terminated or truncated)
                if terminated or truncated:
                    return
        finally:
            env.close()

    return Renderer(float(env.metadata.get("render_fps", DEFAULT_RATE)), replay_episode)


def _screen_of(env: Any, env_id: str) -> Image:
    import gymnasium

    try:
        screen = env.render()
    except (gymnasium.error.Error, ImportError, NotImplementedError) as problem:
        raise UserError(f"{env_id} cannot be drawn: {_first_line(problem)}") from problem
    if not isinstance(screen, np.ndarray) or screen.ndim != 3:
        raise UserError(f"{env_id} cannot be drawn: it has no render mode rgb_array")
    return screen.astype(np.uint8)


def _first_line(problem: Exception) -> str:
    return next(iter(str(problem).splitlines()), type(problem).__name__)


def _enlarged(screen: Image) -> Image:
    """Enlarge by a whole factor; repeat the last row or column if the height or width is odd, which H.264 refuses."""
    factor = max(1, HEIGHT // screen.shape[0])
    large = screen.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width, _ = large.shape
    return np.pad(large, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _write(path: Path, fps: float, screens: Iterator[Image]) -> int:
    """Write screens as an mp4 file and return their number."""
    import imageio.v2 as imageio

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.partial.mp4")
    options: dict[str, Any] = {
        "codec": "libx264",
        "pixelformat": "yuv420p",
        "quality": None,
        "macro_block_size": 1,
        "output_params": ["-crf", "18", "-movflags", "+faststart"],
    }
    frames = 0
    try:
        writer: Any = imageio.get_writer(temporary, fps=fps, **options)
        with writer:
            for screen in screens:
                writer.append_data(_enlarged(screen))
                frames += 1
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return frames
