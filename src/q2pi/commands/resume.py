"""q2pi resume: continue an interrupted run from its newest checkpoint, bit for bit."""

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from q2pi.commands.options import parse
from q2pi.commands.train import carry_on
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint, read_config
from q2pi.training.loop import prepare


@dataclass(frozen=True)
class Options:
    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run."""


def main(arguments: list[str]) -> int:
    options = parse(Options, "resume", "Continue an interrupted run from its newest checkpoint.", arguments)
    run = RunFolder.open(options.run)
    config = prepare(read_config(run))
    step, state, info, warnings = load_checkpoint(run)
    for warning in warnings:
        print(f"q2pi: {warning}", file=sys.stderr)
    if step >= config.total_timesteps:
        print(f"{run.path} is finished: {step:,} of {config.total_timesteps:,} agent steps")
        return 0
    print(f"resuming {run.path} at step {step:,} of {config.total_timesteps:,}")
    return carry_on(run, config, state, info["seconds"])
