"""q2pi evaluate: evaluate a run's newest checkpoint on whole episodes with fixed seeds."""

import json
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich.console import Console

from q2pi.algorithms import registry
from q2pi.commands.options import parse
from q2pi.commands.terminal import evaluation_table
from q2pi.config import at_least, to_table, within
from q2pi.errors import UserError
from q2pi.evaluation.evaluate import EVALUATION_SEED, evaluate
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_agent, read_config

DESCRIPTION = """Evaluate a run's newest checkpoint on whole episodes with fixed seeds and raw scores. The environments
are separate from the training environments, and nothing is written."""


@dataclass(frozen=True)
class Options:
    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run."""
    episodes: int = 30
    """Number of whole episodes."""
    seed: int = EVALUATION_SEED
    """Seed of the episodes and of the exploration."""
    epsilon: float | None = None
    """Exploration rate, in [0, 1]; by default the run's eval_epsilon."""
    json: bool = False
    """Print only the report, as JSON."""


def main(arguments: list[str]) -> int:
    options = parse(Options, "evaluate", DESCRIPTION, arguments)
    at_least(options, 1, "episodes")
    at_least(options, 0, "seed")
    run = RunFolder.open(options.run)
    agent, config, step, warnings = load_agent(run, _overrides(run, options))
    for warning in warnings:
        print(f"q2pi: {warning}", file=sys.stderr)
    report = evaluate(agent, config.env, step=step, episodes=options.episodes, seed=options.seed).report()
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        Console().print(evaluation_table(report))
    return 0


def _overrides(run: RunFolder, options: Options) -> dict[str, Any]:
    """Return the options of the run that the evaluation replaces.

    Raises:
        UserError: an epsilon outside [0, 1], or for an algorithm without exploration rate.
    """
    if options.epsilon is None:
        return {}
    within(options, 0, 1, "epsilon")
    algorithm = read_config(run).algorithm
    others = [name for name in registry.names() if "eval_epsilon" in to_table(registry.default_config(name))["hyper"]]
    if algorithm not in others:
        raise UserError(f"--epsilon: {algorithm} has no exploration rate; {', '.join(others)} have one")
    return {"eval_epsilon": options.epsilon}
