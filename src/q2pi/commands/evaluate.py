"""q2pi evaluate: judge a run's newest checkpoint on whole episodes with fixed seeds."""

import json
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console

from q2pi.commands.options import parse
from q2pi.commands.terminal import evaluation_table
from q2pi.config import at_least
from q2pi.evaluation.evaluate import EVALUATION_SEED, evaluate
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_agent


@dataclass(frozen=True)
class Options:
    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run."""
    episodes: int = 30
    """Whole episodes to play."""
    seed: int = EVALUATION_SEED
    """Seed of the evaluation's episodes and of its exploration."""
    json: bool = False
    """Print the report as JSON on standard output, and nothing else there."""


def main(arguments: list[str]) -> int:
    options = parse(Options, "evaluate", "Judge a run's newest checkpoint, apart from its training.", arguments)
    at_least(options, 1, "episodes")
    at_least(options, 0, "seed")
    agent, config, step, warnings = load_agent(RunFolder.open(options.run))
    for warning in warnings:
        print(f"q2pi: {warning}", file=sys.stderr)
    report = evaluate(agent, config.env, step=step, episodes=options.episodes, seed=options.seed).report()
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        Console().print(evaluation_table(report))
    return 0
