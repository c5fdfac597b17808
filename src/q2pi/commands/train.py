"""q2pi train: train an agent, print its progress and its score, and suggest the next commands."""

import dataclasses
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro
from rich.console import Console

from q2pi.commands.executors import check_actors, source_for
from q2pi.commands.help import resolved_env
from q2pi.commands.options import parse, peek
from q2pi.config import RunConfig, draft, resolve
from q2pi.envs.spec import inapplicable
from q2pi.runs.folder import RunFolder
from q2pi.runs.loggers import check_loggers, make_loggers
from q2pi.training.presets import configure

H = TypeVar("H")

DESCRIPTION = """Train an agent. The algorithm is the first argument (default: dqn). The run is recorded in a folder,
which resume, evaluate, record and plot read. The defaults below belong to the preset in use."""


@dataclass(frozen=True)
class Options(Generic[H]):
    """Options of q2pi train."""

    config: RunConfig[H]
    run_dir: str | None = None
    """Folder of the run; by default a new folder in runs/."""
    source: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """Folder of a run of the same algorithm whose newest weights, with the statistics of normalisation, this run starts
    from."""
    log: tuple[str, ...] = ()
    """Services that the metrics are also sent to: wandb, trackio. Logging does not change a run."""
    diagnostics: bool = False
    """Diagnostics at each row of metrics, in diagnostics.csv of the run: change of the policy and of the values,
    inactive units, age of the replayed transitions."""
    ray: str | None = None
    """Ray cluster of the actors: local (made on this machine for this run), auto (the cluster of this machine),
    HOST:PORT or ray://HOST:PORT. It belongs to --actors."""
    explain: bool = False
    """Print steps, frames, updates, memory, expected time and every option, without training."""
    estimate: bool = True
    """Timing run in environments of its own, for the expected time and memory, and timing of --threads 0; --no-estimate
    skips both."""


def main(arguments: list[str]) -> int:
    algorithm = "dqn"
    if arguments and not arguments[0].startswith("-"):
        algorithm, *arguments = arguments
    base, preset = configure(algorithm, peek(arguments, "--env-id"), peek(arguments, "--preset"))
    kind: Any = Options[type(base.hyper)]  # type: ignore[misc]
    default = Options(config=base)
    options = parse(
        kind,
        f"train {algorithm}",
        DESCRIPTION,
        arguments,
        default,
        help_default=lambda: dataclasses.replace(default, config=resolved_env(base)),
        hidden=inapplicable(base.env.env_id),
        refused={
            "algorithm": "name the algorithm first, as in q2pi train ppo",
            "from_run": "the flag is --from RUN",
            "from_digest": "q2pi computes it",
        },
    )
    check_loggers(options.log)
    if options.run_dir and not options.explain:
        RunFolder(options.run_dir).check_new()
    asked, console = dataclasses.replace(options.config, from_run=options.source), Console()
    checked = draft(asked)
    if not options.explain:
        check_actors(checked, options.ray)
    # Imported here because they load torch, which takes seconds: a mistake in the options is reported before.
    from q2pi.commands.terminal import TerminalRun, explain
    from q2pi.runs.estimate import estimate, time_run
    from q2pi.runs.execute import execute
    from q2pi.runs.source import load_source
    from q2pi.runs.threads import choose_threads

    asked = dataclasses.replace(asked, env=checked.env)  # resolved: the environment is made less often
    threads = choose_threads(asked, options.estimate)
    config = resolve(dataclasses.replace(asked, threads=threads.threads))
    if config.from_run is not None:
        config, _ = load_source(config)
    if options.explain:
        timing = time_run(config) if options.estimate else None
        explain(config, preset, estimate(config), timing, threads, console)
        return 0
    path = Path(options.run_dir) if options.run_dir else _new_folder(config)
    RunFolder(path).check_new()
    with source_for(config, options.ray) as source:
        timing = time_run(config) if options.estimate else None
        expected = explain(config, preset, estimate(config), timing, threads, console, brief=True)
        if config.from_run is not None:
            print(f"starting from the weights of {config.from_run} (digest {str(config.from_digest)[:12]}), at step 0")
        print(f"recording in {path}")
        # The timing run steps environments of this process, so its rate is not that of actors.
        rate = math.nan if timing is None or config.actors else timing.rate
        with TerminalRun(config, path, console, expected, rate) as terminal:
            sinks = [terminal, *make_loggers(options.log, path)]
            if options.diagnostics:
                from q2pi.lab.monitor import Monitor

                sinks.append(Monitor(RunFolder(path).diagnostics_file))
            execute(config, path, sinks=sinks, stop=terminal.stop, warn=terminal.warn, source=source)
    return terminal.status


def _new_folder(config: RunConfig[Any]) -> Path:
    # Windows allows no colon, as in MODULE:Env-v0, in the name of a folder.
    name = f"{re.sub('[/:]', '-', config.env.env_id)}-{config.algorithm}-{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    return Path("runs") / name
