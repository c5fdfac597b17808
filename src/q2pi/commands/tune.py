"""q2pi tune: search hyperparameters, and evaluate the best trials on held-out seeds."""

import dataclasses
import importlib.util
import math
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

import tyro
from rich.console import Console
from rich.table import Table

from q2pi.commands.executors import executor_for, is_elsewhere
from q2pi.commands.help import resolved_env
from q2pi.commands.options import parse, peek
from q2pi.config import RunConfig, at_least, resolve
from q2pi.envs.spec import inapplicable
from q2pi.errors import UserError
from q2pi.parallel.portable import quoted
from q2pi.parallel.stop import StopRequest
from q2pi.training.presets import configure

if TYPE_CHECKING:
    from q2pi.parallel.executor import Executor, Stop
    from q2pi.tuning.jobs import Outcome
    from q2pi.tuning.plan import Plan, StudyFolder

H = TypeVar("H")

DESCRIPTION = """Search hyperparameters of an algorithm with several seeds per trial, then train the best trials and the
defaults again on held-out seeds. The options of q2pi train set the defaults, which are trial 0. The same command
continues an interrupted study."""
EVALUATIONS = 10
EPISODES = 16


@dataclass(frozen=True)
class Options(Generic[H]):
    """Options of q2pi tune."""

    config: RunConfig[H]
    study: str | None = None
    """Folder of the study; by default runs/tune-ALGORITHM-ENVIRONMENT."""
    trials: int = 30
    """Number of trials of the study, the defaults included."""
    seeds: int = 3
    """Number of training seeds of each trial."""
    workers: int = 1
    """Number of processes, one thread each."""
    ray: str | None = None
    """Ray cluster that runs the processes: local (made on this machine for this command), auto (the cluster of this
    machine), HOST:PORT or ray://HOST:PORT; by default this machine. All nodes must share the folder of the study."""
    objective: Literal["mean", "iqm", "mean-std", "auc"] = "mean"
    """Objective to maximise: a statistic of the returns over seeds, or the area under the evaluation curve."""
    sampler: Literal["tpe", "cmaes", "random", "gp", "nsga2"] = "tpe"
    """Optuna sampler; nsga2 also minimises seconds."""
    pruner: Literal["median", "hyperband", "halving", "none"] | None = None
    """Optuna pruner, which stops trials early; by default median, and none with nsga2."""
    space: str | None = None
    """TOML file of narrower ranges: name = [low, high], name = [choices], or name = value to fix an option."""
    fix: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
    """Options that are fixed in every trial except the defaults: name=value ..."""
    storage: str | None = None
    """SQL URL of the study's storage, such as postgresql://user:password@host/name; by default a journal file."""
    top: int = 3
    """Number of the best trials to train again on held-out seeds; 0 skips the final evaluation."""
    held_out_seeds: int = 10
    """Number of training seeds of the final evaluation, which no trial uses."""
    final_episodes: int = 100
    """Number of evaluation episodes per final run."""
    export: str | None = None
    """TOML file for the best configuration, for q2pi train --preset; by default none is written."""
    dashboard: bool = False
    """Open optuna-dashboard on an existing study instead of searching."""


def main(arguments: list[str]) -> int:
    algorithm = "dqn"
    if arguments and not arguments[0].startswith("-"):
        algorithm, *arguments = arguments
    base, _ = configure(algorithm, peek(arguments, "--env-id"), peek(arguments, "--preset"))
    base = dataclasses.replace(base, evaluation_episodes=EPISODES, threads=1)
    kind: Any = Options[type(base.hyper)]  # type: ignore[misc]
    default = Options(config=base)
    options = parse(
        kind,
        f"tune {algorithm}",
        DESCRIPTION,
        arguments,
        default,
        help_default=lambda: dataclasses.replace(default, config=resolved_env(base)),
        hidden=inapplicable(base.env.env_id),
        refused={
            "algorithm": "name the algorithm first, as in q2pi tune ppo",
            "from_run": "each trial starts from weights of its own",
            "from_digest": "each trial starts from weights of its own",
        },
    )
    if importlib.util.find_spec("optuna") is None:
        raise UserError("q2pi tune needs Optuna: pip install 'q2pi[tune]'")
    _check(options)
    return tune(options)


def _check(options: Options[Any]) -> None:
    at_least(options, 1, "trials", "seeds", "workers", "held_out_seeds", "final_episodes")
    at_least(options, 0, "top")
    if options.sampler == "nsga2" and options.pruner not in (None, "none"):
        raise UserError(f"--pruner {options.pruner}: it must be none with --sampler nsga2, which minimises seconds")
    at_least(options.config, 1, "evaluation_episodes")
    if options.config.actors:
        raise UserError(f"--actors {options.config.actors}: a trial has no actors; it must be 0")
    if options.export is not None and (
        Path(options.export).suffix != ".toml" or not Path(options.export).parent.is_dir()
    ):
        raise UserError(f"--export {options.export} must end in .toml, in a folder that exists")


def tune(options: Options[Any]) -> int:
    """Search, evaluate and report; return the exit status."""
    plan = _plan(options)
    # Imported here because they load torch, which takes seconds: a mistake in the options is reported before.
    from q2pi.acceleration.device import device_of
    from q2pi.runs import locks
    from q2pi.runs.estimate import check_side_by_side, estimate, process_memory
    from q2pi.tuning import storage
    from q2pi.tuning.locks import BEAT_SECONDS, HeartbeatLocks
    from q2pi.tuning.plan import StudyFolder, check_same
    from q2pi.tuning.search import Machines, search
    from q2pi.tuning.trial import largest

    env = plan.base.env.env_id.replace("/", "-")
    folder = StudyFolder(options.study or f"runs/tune-{plan.base.algorithm}-{env}")
    folder.check()
    if options.dashboard:
        return _dashboard(folder, options.storage)
    if folder.plan_file.is_file():
        stored = folder.read()
        check_same(folder, stored, plan)
        plan = stored
    runs = max(options.trials, options.top * options.held_out_seeds)
    is_far = is_elsewhere(options.ray)
    needs = [estimate(plan.base, is_far), estimate(largest(plan), is_far)]
    if not is_far:
        check_side_by_side(needs, options.workers, runs)
    opened = storage.open_storage(folder, options.storage, is_far)
    lock = locks.take(folder.lock)
    if lock is None:
        raise UserError(f"{folder.path} is in use by another q2pi tune")
    with ExitStack() as resources:
        resources.enter_context(lock)
        if is_far:
            resources.enter_context(HeartbeatLocks(opened, plan.name)).lock_study()
        place = resources.enter_context(executor_for(options.ray, options.workers))
        stop = resources.enter_context(StopRequest("saving checkpoints"))
        executor = place.executor
        machines = Machines(
            beat=BEAT_SECONDS if is_far else 0.0,
            memory=max(map(process_memory, needs)),
            gpus=1 if device_of(plan.base.device).type == "cuda" else 0,
            describe=place.describe,
        )
        if not folder.plan_file.is_file():
            folder.write(plan)
        storage.create_study(folder, plan, opened)
        _announce(folder, plan, options)
        outcome = search(folder, plan, options.storage, options.trials, options.workers, executor, stop, machines)
        if outcome.state != "done":
            return _end_early(folder, outcome)
        return _evaluate(folder, plan, options, storage.load_study(plan, opened), executor, stop)


def _dashboard(folder: "StudyFolder", url: str | None) -> int:
    """Serve an existing study; the options of its plan need not be repeated."""
    from q2pi.tuning import storage

    if not folder.plan_file.is_file():
        raise UserError(f"--dashboard: {folder.path} is not a study")
    location = folder.read().storage
    if storage.without_password(url) != location:
        raise UserError(f"--dashboard: the trials of {folder.path} are in {location}; name it with --storage")
    return storage.serve(storage.open_storage(folder, url))


def _evaluate(
    folder: "StudyFolder", plan: "Plan", options: Options[Any], study: Any, executor: "Executor", stop: "Stop"
) -> int:
    """Train the best trials and the defaults on held-out seeds, write the report and the preset."""
    from q2pi.tuning.export import write_preset
    from q2pi.tuning.final import candidates, evaluate_candidates, results
    from q2pi.tuning.report import write_report

    result = None
    chosen = candidates(plan, study, options.top)
    if options.top and len(chosen) > 1:
        seeds = plan.held_out_seeds(options.held_out_seeds)
        outcome = evaluate_candidates(folder, chosen, seeds, options.final_episodes, executor, stop)
        if outcome.state != "done":
            return _end_early(folder, outcome)
        result = results(folder, plan, chosen, seeds, options.final_episodes)
        Console().print(_final_table(result))
        print(result["statement"])
    print(f"report: {write_report(folder, plan, study, result)}")
    if options.export is None:
        return 0
    if result is None:
        raise UserError("--export: no trial was trained on held-out seeds, so there is no winner (--top)")
    winner = next(candidate for candidate in chosen if candidate.label == result["winner"])
    write_preset(Path(options.export), winner.config, f"Found by q2pi tune: {result['statement']}.")
    print(f"preset: {options.export}; q2pi train {plan.base.algorithm} --preset {quoted(options.export)}")
    return 0


def _final_table(result: dict[str, Any]) -> Table:
    """Return the table of candidates for a terminal."""
    table = Table(title=f"{result['objective']} on {len(result['seeds'])} held-out seeds", title_justify="left")
    for head in ("", "estimate [95 %]", f"to the defaults [{100 * result['difference_confidence']:.3g} %]", "verdict"):
        table.add_column(head)
    for entry in result["candidates"]:
        low, high = entry["interval"]
        row = [entry["label"], f"{entry['estimate']:.1f} [{low:.1f}, {high:.1f}]".replace("[", r"\[")]
        if "verdict" in entry:
            low, high = entry["difference_interval"]
            interval = rf" \[{low:.1f}, {high:.1f}]" if math.isfinite(low) else ""
            row += [f"{entry['difference']:+.1f}{interval}", entry["verdict"]]
        table.add_row(*row)
    return table


def _plan(options: Options[Any]) -> "Plan":
    import secrets

    from q2pi.tuning.plan import HELD_OUT, Plan
    from q2pi.tuning.space import narrow
    from q2pi.tuning.storage import without_password

    config = options.config
    if options.seeds > HELD_OUT:
        raise UserError(f"--seeds {options.seeds} is out of range: it must be at most {HELD_OUT}")
    frequency = config.evaluation_frequency or max(1, config.total_timesteps // EVALUATIONS)
    saving_frequency = min(config.checkpoint_frequency or config.total_timesteps, frequency)
    base = resolve(dataclasses.replace(config, evaluation_frequency=frequency, checkpoint_frequency=saving_frequency))
    space, fixed = narrow(base, options.space, [word for words in options.fix for word in words])
    if not space:
        raise UserError("every option of the space is fixed: there is nothing to search")
    return Plan(
        name=f"{base.algorithm}-{base.env.env_id}-{secrets.token_hex(4)}",
        base=base,
        space=space,
        fixed=fixed,
        objective=options.objective,
        sampler=options.sampler,
        pruner=options.pruner or ("none" if options.sampler == "nsga2" else "median"),
        seeds=options.seeds,
        storage=without_password(options.storage),
    )


def _announce(folder: "StudyFolder", plan: "Plan", options: Options[Any]) -> None:
    base = plan.base
    print(
        f"{folder.path}: {base.algorithm} on {base.env.env_id}, {options.trials} trials x {plan.seeds} seeds x "
        f"{base.total_timesteps:,} agent steps; {plan.objective} of {base.evaluation_episodes} episodes per seed; "
        f"{plan.sampler}, pruner {plan.pruner}; {len(plan.space)} options: {', '.join(plan.space)}",
        flush=True,
    )


def _end_early(folder: "StudyFolder", outcome: "Outcome") -> int:
    if outcome.reason:
        print(f"q2pi: {outcome.reason}", file=sys.stderr)
    print(f"{folder.path} is saved; the same command continues it", flush=True)
    return outcome.exit_status
