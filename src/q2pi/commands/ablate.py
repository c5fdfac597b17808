"""q2pi ablate: what each switch of an algorithm does to its score."""

import contextlib
import json
import shlex
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from q2pi.commands import sweep as sweep_command
from q2pi.commands.executors import executor_for, is_elsewhere
from q2pi.commands.options import parse
from q2pi.config import at_least, override
from q2pi.errors import UserError
from q2pi.parallel.stop import StopRequest
from q2pi.runs.ablation import Ablation, plan, report
from q2pi.runs.files import write_atomically
from q2pi.runs.sweep import check
from q2pi.training.presets import configure

DESCRIPTION = """Train an algorithm with all of its switches, with each left out, with each alone and with none, over
seeds, and report each switch's effect on the final score: helps, hurts or undecided. The same command continues an
interrupted ablation and skips finished runs. Each run uses one thread unless its options say otherwise."""


@dataclass(frozen=True)
class Options:
    algorithm: str = "rainbow"
    """Algorithm with switches."""
    preset: str | None = None
    """Preset whose switches are ablated, or path of a TOML file; by default chosen by the environment."""
    env_id: str = "CartPole-v1"
    """Atari game or Gymnasium id."""
    seeds: int = 5
    """Number of seeds per variant; a verdict needs at least 4."""
    alone: bool = True
    """Runs of each switch alone; --no-alone leaves them out, which is nearly half of all runs."""
    total_timesteps: int | None = None
    """Budget of each run in agent steps; by default the preset's."""
    option: tuple[str, ...] = ()
    """Options of every run as NAME=VALUE, such as learning_rate=1e-3 or hidden=[64,64]."""
    runs: str | None = None
    """Folder of the runs; by default runs/ablation-ENVIRONMENT-PRESET."""
    workers: int = 1
    """Number of runs to train in parallel, each in its own process."""
    ray: str | None = None
    """Ray cluster that trains the runs: local (made on this machine for this command), auto (the cluster of this
    machine), HOST:PORT or ray://HOST:PORT; by default processes on this machine."""
    explain: bool = False
    """Print the runs and their progress without training."""
    json: bool = False
    """Print only the report, as JSON."""


def main(arguments: list[str]) -> int:
    options = parse(Options, "ablate", DESCRIPTION, arguments)
    at_least(options, 1, "seeds", "workers")
    config, used = configure(options.algorithm, options.env_id, options.preset)
    changes = dict(map(_parsed, options.option))
    if options.total_timesteps is not None:
        changes["total_timesteps"] = options.total_timesteps
    config = override(config, changes)
    name = f"ablation-{config.env.env_id}-{Path(used or options.algorithm).stem}".replace("/", "-")
    ablation = plan(config, options.seeds, options.workers, Path(options.runs or Path("runs") / name), options.alone)
    memory = check(ablation.sweep, is_elsewhere(options.ray))
    if options.explain:
        sweep_command.explain(ablation.sweep, ablation.root)
        return 0
    with contextlib.ExitStack() as resources:
        if options.json:
            resources.enter_context(contextlib.redirect_stdout(sys.stderr))
        place = resources.enter_context(executor_for(options.ray, options.workers))
        with StopRequest("saving checkpoints") as stop:
            status = sweep_command.run(ablation.sweep, ablation.root, place, memory, stop)
    if status == 130:
        return status
    # The environment's rules are resolved in the runs, not in `config`.
    resolved = replace(ablation.sweep.runs[0].config, hyper=config.hyper)
    _show(ablation, report(ablation, resolved, shlex.join(["q2pi", "ablate", *arguments])), options.json)
    return status


def _parsed(text: str) -> tuple[str, Any]:
    """Return (name, value) of NAME=VALUE; a value that is no TOML is text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UserError(f"--option {text}: it must be NAME=VALUE")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def _show(ablation: Ablation, numbers: dict[str, Any], as_json: bool) -> None:
    """Write ablation.json, ablation.md and ablation.png, and print the tables or the numbers."""
    from q2pi.reports.ablation import VARIANT_COLUMNS, as_markdown, draw, switch_columns, switch_rows, variant_rows

    text = json.dumps(numbers, indent=1, allow_nan=False) + "\n"
    write_atomically(ablation.root / "ablation.json", text)
    write_atomically(ablation.root / "ablation.md", as_markdown(numbers))
    draw(numbers, ablation.root / "ablation.png")
    if as_json:
        print(text, end="")
        return
    for columns, rows in ((VARIANT_COLUMNS, variant_rows(numbers)), (switch_columns(numbers), switch_rows(numbers))):
        table = Table(*columns, title_justify="left")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
    print(f"{numbers['score']}; intervals, {numbers['interval']}")
    print(f"tables: {ablation.root}/ablation.md   numbers: {ablation.root}/ablation.json   figure: ablation.png")
