"""q2pi bench: how fast this machine trains, as a whole and by part."""

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from q2pi.commands.options import parse
from q2pi.config import at_least
from q2pi.runs import benchmark as bench
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_agent

DESCRIPTION = """Measure DQN on Space Invaders on this machine: train (the whole loop), update (one gradient update), or
replay (memory and sampling). Nothing is written; quit what else is running first."""


@dataclass(frozen=True)
class Options:
    what: Annotated[Literal["train", "update", "replay"], tyro.conf.Positional]
    """What to measure."""
    steps: int = 2_000
    """train: agent steps to time."""
    repetitions: int = 100
    """update: updates to time."""
    transitions: int = 20_000
    """replay: real transitions to keep, at least 1000."""
    replay_codec: Literal["raw", "zstd"] = "zstd"
    """replay: how frames are kept."""
    acting_network: str | None = None
    """replay: folder of a run whose agent and game are played; by default Space Invaders at random."""
    double: bool = True
    """train, update: Double DQN; --no-double is the plain DQN that peers have, with one forward pass less."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """train, update: arithmetic of the networks."""
    num_envs: int = 8
    """train, update: games played side by side."""
    threads: int = 0
    """train, update: threads of the arithmetic on the CPU; 0 is one per core."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """train, update: where the networks live."""
    json: bool = False
    """Print the numbers as JSON on standard output, and nothing else there."""


def main(arguments: list[str]) -> int:
    options = parse(Options, "bench", DESCRIPTION, arguments)
    at_least(options, 1, "steps", "repetitions")
    at_least(options, 1_000, "transitions")
    measures = measure(options)
    if options.json:
        print(json.dumps(measures, indent=1))
        return 0
    table = Table(title=f"bench {options.what}", title_justify="left", show_header=False)
    for name, value in measures.items():
        if isinstance(value, dict):
            for part, share in value.items():
                table.add_row(f"  {part}", f"{100 * share:.1f} %")
        else:
            table.add_row(name.replace("_", " "), f"{value:,.4g}" if isinstance(value, float) else f"{value}")
    Console().print(table)
    return 0


def measure(options: Options) -> dict[str, Any]:
    """Return the numbers that were asked for."""
    if options.what == "replay":
        return bench.replay(options.transitions, options.replay_codec, **_player(options.acting_network))
    shared = {name: asdict(options)[name] for name in ("precision", "num_envs", "threads", "device")}
    config = bench.base_config(shared, options.double)
    return (
        bench.training(config, options.steps) if options.what == "train" else bench.update(config, options.repetitions)
    )


def _player(run_dir: str | None) -> dict[str, Any]:
    """Return who plays what for the replay."""
    if run_dir is None:
        return {}
    agent, config, _, _ = load_agent(RunFolder.open(run_dir))
    return {"env": config.env, "act": agent.evaluation_act}
