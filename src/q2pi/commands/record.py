"""q2pi record: write a video of an episode."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from q2pi.commands.options import parse
from q2pi.config import within
from q2pi.reports.video import record_video
from q2pi.runs.folder import RunFolder

DESCRIPTION = """Write a video of a training episode, in the game's colours and without a display: the episode is played
again from its seed and actions, and its return must be the one of training."""


@dataclass(frozen=True)
class Options:
    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run."""
    episode: str = "best"
    """best, newest, or a rank by return among the episodes that the run keeps, 0 for the highest."""
    out: str | None = None
    """The mp4; by default videos/<episode>.mp4 in the run's folder."""
    fps: float | None = None
    """Frames per second; by default the game's own speed (Atari: 60 / frame skip)."""


def main(arguments: list[str]) -> int:
    options = parse(Options, "record", DESCRIPTION, arguments)
    if options.fps is not None:
        within(options, 1, 240, "fps")
    out = Path(options.out) if options.out else None
    video = record_video(RunFolder.open(options.run), out, episode=options.episode, fps=options.fps)
    size = video.path.stat().st_size / 1e6
    print(f"{video.path}: {video.seconds:.1f} s at {video.fps:g} frames per second, {size:.2f} MB")
    print(
        f"played again from its seed: return {video.episode_return:g} in {video.entry['length']:,} agent steps, the "
        f"same as in training (the episode ended at agent step {video.entry['step']:,})"
    )
    return 0
