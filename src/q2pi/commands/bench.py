"""q2pi bench: measure the speed of training on this machine, as a whole and by part."""

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from q2pi.commands.options import parse
from q2pi.commands.output import prints_to_stderr
from q2pi.config import at_least
from q2pi.errors import UserError
from q2pi.runs.folder import RunFolder

DESCRIPTION = """Measure DQN on Space Invaders on this machine: train (the whole loop), update (one gradient update), or
replay (memory and sampling). Nothing is written. Quit other programs first: they slow down what is measured."""


@dataclass(frozen=True)
class Options:
    part: Annotated[Literal["train", "update", "replay"], tyro.conf.Positional]
    """Part to measure."""
    steps: int = 2_000
    """train: number of agent steps to time."""
    repetitions: int = 100
    """update: number of gradient updates to time."""
    transitions: int = 20_000
    """replay: capacity in transitions, at least 1000."""
    replay_codec: Literal["raw", "zstd"] = "zstd"
    """replay: storage of frames, zstd (compressed) or raw."""
    run: str | None = None
    """replay: folder of a run whose agent and environment give the transitions; by default random actions in Space
    Invaders."""
    double: bool = True
    """train, update: Double DQN; --no-double is plain DQN, with one forward pass less per update."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """train, update: arithmetic of the networks, see q2pi train --help."""
    num_envs: int = 8
    """train, update: number of environments that are stepped together."""
    threads: int = 0
    """train, update: number of CPU threads of torch; 0 uses one per core, without the timing of q2pi train."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """train, update: torch device; auto uses CUDA if available."""
    switches: bool = False
    """update: each switch of Rainbow beside plain DQN, in alternation."""
    json: bool = False
    """Print only the numbers, as JSON."""


def main(arguments: list[str]) -> int:
    options = parse(Options, "bench", DESCRIPTION, arguments)
    at_least(options, 1, "steps", "repetitions")
    at_least(options, 1_000, "transitions")
    if options.switches and options.part != "update":
        raise UserError(f"--switches belongs to bench update, not to bench {options.part}")
    with prints_to_stderr(options.json):
        measures = measure(options)
    if options.json:
        print(json.dumps(measures, indent=1))
        return 0
    if options.switches:
        _print_switches(measures)
        return 0
    table = Table(title=f"bench {options.part}", title_justify="left", show_header=False)
    for name, value in measures.items():
        if isinstance(value, dict):
            for part, share in value.items():
                table.add_row(f"  {part}", f"{100 * share:.1f} %")
        else:
            table.add_row(name.replace("_", " "), f"{value:,.4g}" if isinstance(value, float) else f"{value}")
    Console().print(table)
    return 0


def measure(options: Options) -> dict[str, Any]:
    """Return the measurements of the part that the options name."""
    # Imported here because they load torch, which takes seconds: a mistake in the options is reported before.
    from q2pi.runs import benchmark as bench
    from q2pi.runs import benchmark_switches

    if options.part == "replay":
        return bench.replay(options.transitions, options.replay_codec, **_agent_of(options.run))
    shared = {name: asdict(options)[name] for name in ("precision", "num_envs", "threads", "device")}
    if options.switches:
        return benchmark_switches.switches(shared, options.repetitions)
    config = bench.base_config(shared, options.double)
    return (
        bench.training(config, options.steps) if options.part == "train" else bench.update(config, options.repetitions)
    )


def _print_switches(measures: dict[str, Any]) -> None:
    table = Table("switch", title="bench update --switches", title_justify="left")
    for column in ("ms per update", "ratio to dqn"):
        table.add_column(column, justify="right")
    for name, ms in measures["ms"].items():
        table.add_row(name, f"{ms:,.2f}", f"{measures['ratio'][name]:,.2f}")
    Console().print(table)


def _agent_of(run_dir: str | None) -> dict[str, Any]:
    """Return the arguments of `benchmark.replay` for the agent and environment of a run; none for random actions."""
    if run_dir is None:
        return {}
    from q2pi.runs.load import load_agent  # loads torch

    agent, config, _, _ = load_agent(RunFolder.open(run_dir))
    return {"env": config.env, "act": agent.evaluation_act}
