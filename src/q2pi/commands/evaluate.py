"""q2pi evaluate: evaluate a run's newest checkpoint on whole episodes with fixed seeds."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from q2pi.algorithms import registry
from q2pi.commands.options import parse
from q2pi.commands.output import prints_to_stderr
from q2pi.commands.scores import evaluation_table
from q2pi.config import at_least, from_table, to_table, within
from q2pi.envs.spec import EnvSpec
from q2pi.errors import UserError
from q2pi.evaluation.evaluate import EVALUATION_SEED, time_limit_notice
from q2pi.runs.folder import RunFolder
from q2pi.runs.stored_config import read_config
from q2pi.training.events import Diverged

DESCRIPTION = """Evaluate a run's newest checkpoint on whole episodes with fixed seeds and raw scores, in separate
environments. Options of the environment replace the run's, such as --env-options or --protocol; the spaces must stay
the same. The report is stored with its protocol in evaluations/ of the run's folder, apart from the run's own score."""
UNCHANGED = EnvSpec(env_id="")
"""No rule is replaced."""


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
    env: EnvSpec = field(default_factory=lambda: UNCHANGED)


def main(arguments: list[str]) -> int:
    options = parse(Options, "evaluate", DESCRIPTION, arguments)
    at_least(options, 1, "episodes")
    at_least(options, 0, "seed")
    run = RunFolder.open(options.run)
    overrides = _overrides(run, options)
    rules = {name: value for name, value in to_table(options.env).items() if value not in ("", [])}
    # Imported here because they load torch, which takes seconds: a mistake in the options is reported before.
    from q2pi.runs.evaluations import evaluate_run

    with prints_to_stderr(options.json):
        try:
            result = evaluate_run(run, episodes=options.episodes, seed=options.seed, rules=rules, options=overrides)
        except Diverged as problem:
            _warn(f"training diverged: {problem}; nothing was stored")
            return 1
        for warning in result.warnings:
            _warn(warning)
        evaluation, report = result.evaluation, result.report()
        if notice := time_limit_notice(from_table(EnvSpec(), evaluation.protocol["env"], ""), evaluation.episodes):
            _warn(notice)
        stored = _store(run, report)
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        Console().print(evaluation_table(report))
        print(f"stored in {stored}" if stored else "not stored")
    return 0


def _store(run: RunFolder, report: dict[str, Any]) -> Path | None:
    """Store the report and return the file, or None if the folder cannot be written."""
    from q2pi.runs.evaluations import store

    try:
        return store(run, report)
    except OSError as problem:
        _warn(f"{run.evaluations} cannot be written: {(problem.strerror or str(problem)).lower()}")
        return None


def _warn(text: str) -> None:
    print(f"q2pi: {text}", file=sys.stderr)


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
