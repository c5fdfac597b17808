"""q2pi record: write a video of an episode."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from q2pi.commands.options import parse
from q2pi.config import within
from q2pi.errors import UserError
from q2pi.reports.video import Video, record_video
from q2pi.runs.folder import RunFolder

DESCRIPTION = """Write a video of a training episode, in colour; no display is needed. The episode is recreated from its
seed and actions, and its return is checked against the return in training."""
SECONDS = 12.0


@dataclass(frozen=True)
class Options:
    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run."""
    episode: str = "best"
    """Stored episode: best, newest, or a rank by return, 0 for the highest."""
    out: str | None = None
    """Output file: .mp4, or .gif or .png (animated) with --network-view; by default in videos/ of the run's folder."""
    fps: float | None = None
    """Agent steps per second; 0.1 to 1,000; by default the environment's own speed (Atari: 60 / frame skip)."""
    network_view: bool = False
    """Animated GIF or PNG of the screen with the network's input and its Q-values or action probabilities."""
    seconds: float | None = None
    """Length of the animation with --network-view, in seconds from the start of the episode; by default 12."""


def main(arguments: list[str]) -> int:
    options = parse(Options, "record", DESCRIPTION, arguments)
    if options.fps is not None:
        within(options, 0.1, 1_000, "fps")
    if options.seconds is not None:
        within(options, 0.1, 60, "seconds")
        if not options.network_view:
            raise UserError(f"--seconds {options.seconds:g} needs --network-view: an mp4 shows the whole episode")
    video = _record(options)
    size = video.path.stat().st_size / 1e6
    print(f"{video.path}: {video.seconds:.1f} s at {video.fps:g} frames per second, {size:.2f} MB")
    print(
        f"recreated from its seed: return {video.episode_return:g} in {video.entry['length']:,} agent steps, as in "
        f"training (the episode ended at agent step {video.entry['step']:,})"
    )
    return 0


def _record(options: Options) -> Video:
    run, out = RunFolder.open(options.run), Path(options.out) if options.out else None
    if not options.network_view:
        return record_video(run, out, episode=options.episode, fps=options.fps)
    # Imported here because it loads torch, which takes seconds and which an mp4 does not need.
    from q2pi.reports.network_view import record_network_view

    seconds = SECONDS if options.seconds is None else options.seconds
    return record_network_view(run, out, episode=options.episode, fps=options.fps, seconds=seconds)
