"""Videos of recorded episodes, in the game's own colours, without a display.

A run keeps seeds and actions, no pictures: an episode is a pure function of (environment, seed, actions), so it is
played again, in colour and at the screen's own size, and its return is checked against the one of training. A video of
T agent steps has T + 1 frames; the first shows the reset.
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
"""Emulator frames per second of an Atari game."""
USUAL_RATE = 30
HEIGHT = 640
"""Small screens are enlarged by the largest whole factor that keeps them this high, in pixels."""


@dataclass(frozen=True)
class Video:
    """A video that was written, and the episode that it shows."""

    path: Path
    frames: int
    fps: float
    """Frames per second."""
    episode_return: float
    """Raw return, the same as in training."""
    entry: dict[str, Any]
    """The episode as the run folder stores it."""

    @property
    def seconds(self) -> float:
        """How long it plays."""
        return self.frames / self.fps


def stored_episodes(run: RunFolder) -> list[dict[str, Any]]:
    """Return the episodes that the run keeps, highest return first, each one once.

    Raises:
        UserError: there is none yet, or the files are damaged.
    """
    entries: dict[tuple[int, int], dict[str, Any]] = {}
    for path in (run.episodes / "best.json", run.episodes / "newest.json"):
        try:
            stored = json.loads(path.read_text()) if path.is_file() else []
            entries |= {(entry["env_index"], entry["episode_index"]): _checked(entry) for entry in stored}
        except (ValueError, KeyError, TypeError) as problem:
            raise UserError(f"{path} is damaged: {problem!r}") from problem
    if not entries:
        raise UserError(f"{run.path} holds no episode yet: they are written with each checkpoint")
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
        UserError: none of these.
    """
    if which == "newest":
        return max(entries, key=lambda entry: (entry["step"], entry["env_index"]))
    rank = 0 if which == "best" else int(which) if which.isdecimal() else len(entries)
    if rank >= len(entries):
        raise UserError(f"--episode {which} must be best, newest or a rank by return from 0 to {len(entries) - 1}")
    return entries[rank]


def record_video(run: RunFolder, path: Path | None = None, *, episode: str = "best", fps: float | None = None) -> Video:
    """Play a stored episode again and write it as an mp4 file, whole or not at all.

    Args:
        run: the run's folder.
        path: of the mp4; missing folders are made. None is `videos/<episode>.mp4` in the run's folder.
        episode: "best", "newest", or a rank by return, 0 for the highest.
        fps: frames per second; None is the game's own speed (Atari: 60 / frame skip).

    Raises:
        UserError: no such episode, another ending, or an episode that does not come out as it was.
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
    play: Callable[[int, list[Any]], Iterator[tuple[Image, float, bool]]]
    """(seed, actions) -> (screen [H, W, 3], reward, whether the episode ended) of the reset and of each step."""


def make_renderer(spec: EnvSpec) -> Renderer:
    """Return the renderer of an environment.

    Raises:
        UserError: it cannot be drawn.
    """
    spec = resolve(spec)
    return _atari(spec) if is_atari(spec.env_id) else _gymnasium(spec)


def replay(renderer: Renderer, entry: dict[str, Any], env_id: str) -> Iterator[Image]:
    """Play a stored episode again and yield its screens [H, W, 3].

    Raises:
        UserError: after the last screen, if return, length or ending are not the stored ones.
    """
    episode_return, length, ended = 0.0, -1, False
    for screen, reward, ends_here in renderer.play(entry["seed"], entry["actions"]):
        episode_return += reward
        length += 1
        ended = ends_here
        yield screen
    if (episode_return, length, ended) != (entry["return"], entry["length"], True):
        raise UserError(
            f"{env_id} does not come out as it was: played again, the episode of return {entry['return']:g} in "
            f"{entry['length']} steps has {episode_return:g} in {length}{'' if ended else ' and goes on'}; "
            "the emulator or the environment is another version"
        )


def _atari(spec: EnvSpec) -> Renderer:
    from q2pi.envs.atari import AtariEngine, raw_screen
    from q2pi.envs.vector import VectorEnv

    # How a screen is shown changes nothing in the game: seed, no-ops, stickiness and frame skip stay.
    seen = replace(spec, grayscale=False, crop=None, resize=raw_screen(spec.env_id), stack=1)
    assert seen.frame_skip is not None

    def play(seed: int, actions: list[Any]) -> Iterator[tuple[Image, float, bool]]:
        envs = VectorEnv(AtariEngine(seen, num_envs=1), seen, lambda env_index, episode_index: seed)
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

    return Renderer(EMULATOR_RATE / seen.frame_skip, play)


def _gymnasium(spec: EnvSpec) -> Renderer:
    # Read by pygame when an environment first draws.
    os.environ["SDL_VIDEODRIVER"] = "dummy"
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    from q2pi.envs.gymnasium import make

    try:
        game = make(spec, render_mode="rgb_array")
    except (UserError, TypeError, ValueError) as problem:
        raise UserError(f"{spec.env_id} cannot be drawn: {_first_line(problem)}") from problem

    def play(seed: int, actions: list[Any]) -> Iterator[tuple[Image, float, bool]]:
        try:
            game.reset(seed=seed)
            yield _drawn(game, spec.env_id), 0.0, False
            for action in actions:
                taken = np.asarray(action, game.action_space.dtype)
                _, reward, terminated, truncated, _ = game.step(taken[()])
                # In training, rewards pass through float32.
                yield _drawn(game, spec.env_id), float(np.float32(reward)), bool(terminated or truncated)
                if terminated or truncated:
                    return
        finally:
            game.close()

    return Renderer(float(game.metadata.get("render_fps", USUAL_RATE)), play)


def _drawn(game: Any, env_id: str) -> Image:
    import gymnasium

    try:
        screen = game.render()
    except (gymnasium.error.Error, ImportError, NotImplementedError) as problem:
        raise UserError(f"{env_id} cannot be drawn: {_first_line(problem)}") from problem
    if not isinstance(screen, np.ndarray) or screen.ndim != 3:
        raise UserError(f"{env_id} cannot be drawn: it has no render mode rgb_array")
    return screen.astype(np.uint8)


def _first_line(problem: Exception) -> str:
    return next(iter(str(problem).splitlines()), type(problem).__name__)


def _enlarged(screen: Image) -> Image:
    """Repeat pixels a whole number of times, and the last row and column once if a side is odd."""
    factor = max(1, HEIGHT // screen.shape[0])
    large = screen.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width, _ = large.shape
    return np.pad(large, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _write(path: Path, fps: float, screens: Iterator[Image]) -> int:
    """Write screens as an mp4 file and return how many there were."""
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
