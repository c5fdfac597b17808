"""q2pi resume: continue an interrupted run from its newest checkpoint, bit for bit."""

from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console

from q2pi.commands.executors import source_for
from q2pi.commands.options import parse
from q2pi.commands.terminal import TerminalRun
from q2pi.config import resolve
from q2pi.runs.execute import execute
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint, read_config
from q2pi.runs.manifest import steps


@dataclass(frozen=True)
class Options:
    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run."""
    ray: str | None = None
    """Ray cluster of a run with actors: local, auto, HOST:PORT or ray://HOST:PORT."""


def main(arguments: list[str]) -> int:
    options = parse(
        Options, "resume", "Continue an interrupted run from its newest checkpoint, bit for bit.", arguments
    )
    run = RunFolder.open(options.run)
    if not steps(run.checkpoints):
        load_checkpoint(run)  # raises a UserError: without checkpoint `execute` would train from the start
    config = resolve(read_config(run))
    with source_for(config, options.ray) as source, TerminalRun(config, run.path, Console()) as terminal:
        last = execute(config, run.path, sinks=[terminal], stop=terminal.stop, warn=terminal.warn, source=source)
        if last is None:
            print(f"{run.path} is finished: {config.total_timesteps:,} agent steps")
    return terminal.status
