"""q2pi resume: continue an interrupted run from its newest checkpoint, bit for bit, or extend a finished one."""

from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console

from q2pi.commands.executors import source_for
from q2pi.commands.options import parse
from q2pi.config import resolve
from q2pi.runs.extend import extend
from q2pi.runs.folder import RunFolder
from q2pi.runs.loggers import check_loggers, make_loggers
from q2pi.runs.manifest import steps
from q2pi.runs.stored_config import read_config

DESCRIPTION = """Continue an interrupted run from its newest checkpoint, bit for bit, with its diagnostics. With
--total-timesteps, extend a run: exploration keeps its schedule in agent steps, and every other schedule follows the new
budget."""


@dataclass(frozen=True)
class Options:
    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run."""
    total_timesteps: int | None = None
    """New budget in agent steps, larger than the run's; by default the run's own. A run that is finished goes on."""
    log: tuple[str, ...] = ()
    """Services that the metrics are also sent to: wandb, trackio; they are not those of the interrupted run."""
    ray: str | None = None
    """Ray cluster of a run with actors: local, auto, HOST:PORT or ray://HOST:PORT."""


def main(arguments: list[str]) -> int:
    options = parse(Options, "resume", DESCRIPTION, arguments)
    check_loggers(options.log)
    run = RunFolder.open(options.run)
    if not steps(run.checkpoints):
        from q2pi.runs.load import load_checkpoint  # loads torch

        load_checkpoint(run)  # raises a UserError: without checkpoint `execute` would train from the start
    config = resolve(read_config(run))
    if options.total_timesteps is not None:
        config, schedules = extend(run, options.total_timesteps)
        if schedules:
            print(f"extended to {config.total_timesteps:,} agent steps; {schedules}")
    # Imported here because they load torch, which takes seconds: a mistake in the options is reported before.
    from q2pi.commands.terminal import TerminalRun
    from q2pi.runs.execute import execute

    with source_for(config, options.ray) as source, TerminalRun(config, run.path, Console()) as terminal:
        sinks = [terminal, *make_loggers(options.log, run.path)]
        if run.diagnostics_file.is_file():
            from q2pi.lab.monitor import Monitor

            sinks.append(Monitor(run.diagnostics_file))
        last = execute(config, run.path, sinks=sinks, stop=terminal.stop, warn=terminal.warn, source=source)
        if last is None:
            print(f"{run.path} is finished: {config.total_timesteps:,} agent steps")
    return terminal.status
