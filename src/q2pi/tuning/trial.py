"""One trial: owned by one process at a time, trained on its seeds, and its result reported exactly once.

    claim    under the study's lock: take a running trial whose owner has died, or else a new trial; lock its `.owner`
             and store its whole configuration before any training
    measure  train the seeds one after the other with `execute` and report every evaluation to the pruner
    report   store the result, from the process that owns the trial

A process can be killed between any two lines: its locks are then released, see `locks`. The next claim finds the trial
in the state "running", samples the options that are missing, and continues its runs from their checkpoints.
"""

import dataclasses
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from q2pi.algorithms.common.search_space import Int, PowerOfTwo
from q2pi.algorithms.registry import default_config
from q2pi.config import ResolvedConfig, from_table, resolve, to_table
from q2pi.envs.errors import EnvError
from q2pi.errors import UserError
from q2pi.parallel.executor import Stop
from q2pi.runs.execute import execute
from q2pi.runs.folder import RunFolder
from q2pi.runs.manifest import steps
from q2pi.training.events import Diverged, Evaluated, Event, Interrupted, Started
from q2pi.tuning.locks import FileLocks, Locks, Owner
from q2pi.tuning.objective import Curve, Point, read_curve, read_seconds, value
from q2pi.tuning.plan import Plan, StudyFolder
from q2pi.tuning.samplers import make_sampler
from q2pi.tuning.space import sample_options, with_options

RETRIES = 3
"""Number of times that a trial is retried if its processes die before its next checkpoint."""


@dataclass(frozen=True)
class Outcome:
    """Result of a trial, or "interrupted"."""

    state: Literal["complete", "pruned", "failed", "interrupted"]
    values: tuple[float, ...] = ()
    note: str = ""
    """Reason of a failure or a divergence in one line."""


@dataclass
class Claim:
    """A trial that this process owns."""

    trial: optuna.Trial
    config: ResolvedConfig[Any]
    attempt: list[int]
    """Agent steps of the trial's checkpoints at each claim, this claim last."""
    owner: Owner
    is_continued: bool
    """Whether another process started the trial."""

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def is_lost(self) -> bool:
        """Whether all retries are used: every process died before the trial's next checkpoint."""
        return len(self.attempt) > RETRIES + 1 and self.attempt[-RETRIES - 2] == self.attempt[-1]


def claim(
    folder: StudyFolder, plan: Plan, study: optuna.Study, wanted: int, locks: Locks | None = None
) -> Claim | None:
    """Return the next trial to work on, or None if all `wanted` trials are finished or owned by a live worker.

    Args:
        folder, plan, study: the study.
        wanted: number of trials of the study.
        locks: the study's locks; by default those of one machine.
    """
    locks = locks or FileLocks(folder)
    with locks.claims():
        trials = study.get_trials(deepcopy=False)
        for frozen in trials:
            if frozen.state == TrialState.RUNNING and (owner := locks.owner(frozen.number)):
                # without a second look, a trial whose owner reported its end since the list was read would run again
                if study.get_trials(deepcopy=False)[frozen.number].state == TrialState.RUNNING:
                    study.sampler = make_sampler(plan, frozen.number)
                    return _claimed(folder, plan, optuna.Trial(study, frozen._trial_id), owner)
                owner.close()
        started = [frozen for frozen in trials if frozen.state != TrialState.WAITING]
        if len(started) >= wanted:
            return None
        study.sampler = make_sampler(plan, len(started))
        trial = study.ask()
        owner = locks.owner(trial.number)
        assert owner is not None
        return _claimed(folder, plan, trial, owner)


def _claimed(folder: StudyFolder, plan: Plan, trial: optuna.Trial, owner: Owner) -> Claim:
    sampled = sample_options(trial, plan.space)
    table = trial.user_attrs.get("config")
    if table is None:
        config = plan.base if trial.number == 0 else repaired(plan, sampled)
        trial.set_user_attr("config", to_table(config))
    else:
        config = config_of(plan, table)
    attempt = [*trial.user_attrs.get("attempt", []), _progress(folder, plan, trial.number)]
    trial.set_user_attr("attempt", attempt)
    return Claim(trial, config, attempt, owner, is_continued=table is not None)


def repaired(plan: Plan, sampled: dict[str, Any]) -> ResolvedConfig[Any]:
    """Return the configuration with independently sampled options, repaired to satisfy the algorithm's constraints."""
    config = with_options(plan.base, plan.fixed | sampled, "trial")
    return resolve(config.hyper.repaired(config))


def largest(plan: Plan) -> ResolvedConfig[Any]:
    """Return the configuration that needs the most memory: integers at the upper ends of their ranges."""
    return repaired(plan, {name: span.high for name, span in plan.space.items() if isinstance(span, Int | PowerOfTwo)})


def config_of(plan: Plan, table: dict[str, Any]) -> ResolvedConfig[Any]:
    """Return the configuration that is stored with a trial."""
    return resolve(from_table(default_config(plan.base.algorithm), table, "trial"))


def _progress(folder: StudyFolder, plan: Plan, number: int) -> int:
    """Return the agent steps of the trial's newest checkpoints, summed over its seeds."""
    runs = [RunFolder(folder.trial(number) / f"seed-{seed}") for seed in plan.trial_seeds]
    return sum(max(steps(run.checkpoints), default=0) for run in runs)


def run_trial(
    folder: StudyFolder,
    plan: Plan,
    study: optuna.Study,
    claimed: Claim,
    stop: Stop,
    on_evaluation: Callable[[int], None] = lambda step: None,
) -> Outcome:
    """Train and evaluate a claimed trial, report its result to the study, and release it.

    Args:
        folder, plan, study: the study.
        claimed: the trial.
        stop: polled at each step; when it returns true, the run saves a checkpoint and the outcome is "interrupted".
        on_evaluation: called with the agent steps of each evaluation.

    Raises:
        OSError: for instance a full disk; the trial keeps the state "running" and can be continued.
        StorageInternalError: the connection to the database is lost; the trial can be continued, too.
    """
    with closing(claimed.owner):
        try:
            if claimed.is_lost:
                outcome = Outcome("failed", note=f"{RETRIES + 1} processes died before its next checkpoint")
            else:
                outcome = measure(folder, plan, claimed, lambda: claimed.owner.is_lost or stop(), on_evaluation)
        except Diverged as problem:
            outcome = Outcome("pruned", note=f"diverged: {problem}")
        except (OSError, StorageInternalError):
            raise
        except Exception as problem:
            is_mistake = isinstance(problem, UserError)
            if not is_mistake or isinstance(problem, EnvError):
                (folder.trial(claimed.number) / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            outcome = Outcome("failed", note=str(problem) if is_mistake else f"{type(problem).__name__}: {problem}")
        if claimed.owner.is_lost:
            return Outcome("interrupted")  # another process has the trial: its report alone counts
        _report_end(study, claimed, outcome)
    return outcome


def _report_end(study: optuna.Study, claimed: Claim, outcome: Outcome) -> None:
    if outcome.state == "interrupted":
        claimed.trial.set_user_attr("attempt", claimed.attempt[:-1])
        return
    if outcome.note:
        claimed.trial.set_user_attr("note", outcome.note)
    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    study.tell(claimed.number, list(outcome.values) or None, state=states[outcome.state], skip_if_finished=True)


def measure(
    folder: StudyFolder, plan: Plan, claimed: Claim, stop: Stop, on_evaluation: Callable[[int], None]
) -> Outcome:
    """Train the unfinished seeds of a trial and return its outcome."""
    curves: list[Curve] = []
    for seed in plan.trial_seeds:
        run = folder.trial(claimed.number) / f"seed-{seed}"
        sink = _Pruning(plan, claimed, run, curves, on_evaluation)
        config = dataclasses.replace(claimed.config, seed=seed)
        last = execute(config, run, sinks=[sink], stop=lambda sink=sink: sink.should_prune or stop())  # type: ignore[misc]
        if sink.should_prune:
            return Outcome("pruned")
        if isinstance(last, Interrupted):
            return Outcome("interrupted")
        curves.append(read_curve(run))
    result = value(plan.objective, curves)
    if not plan.minimizes_seconds:
        return Outcome("complete", (result,))
    seconds = [read_seconds(folder.trial(claimed.number) / f"seed-{seed}") for seed in plan.trial_seeds]
    return Outcome("complete", (result, sum(seconds) / len(seconds)))


class _Pruning:
    """A sink that reports each evaluation of one seed to the pruner."""

    def __init__(
        self, plan: Plan, claimed: Claim, run: Path, previous: list[Curve], on_evaluation: Callable[[int], None]
    ) -> None:
        """Create the sink; `run` is the seed's folder, `previous` the curves of earlier seeds."""
        self.plan, self.claimed, self.run, self.previous = plan, claimed, run, previous
        self.on_evaluation = on_evaluation
        self.curve: Curve = []
        self.should_prune = False

    def write(self, event: Event) -> None:
        match event:
            case Started():
                self.curve = read_curve(self.run)
            case Evaluated(step, evaluation) if not self.should_prune:
                self.curve.append(Point(step, tuple(evaluation.scores)))
                count = len(self.previous) * self.plan.evaluations + len(self.curve)
                result = value(self.plan.objective, [*self.previous, self.curve])
                self.should_prune = _should_prune(self.plan, self.claimed, result, count)
                self.on_evaluation(step)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def _should_prune(plan: Plan, claimed: Claim, result: float, count: int) -> bool:
    """Report the objective after `count` evaluations and return whether to prune; the defaults are never pruned.

    Optuna's pruners compare the best value that a trial has reported. A high value of an earlier seed would protect the
    trial from pruning in later seeds, so the pruner receives only the values of the current seed.
    """
    if plan.minimizes_seconds:
        return False
    claimed.trial.report(result, count)
    if claimed.number == 0 or count >= plan.evaluations * plan.seeds:
        return False
    study = claimed.trial.study
    frozen = study.get_trials()[claimed.number]
    first = (count - 1) // plan.evaluations * plan.evaluations
    frozen.intermediate_values = {at: value for at, value in frozen.intermediate_values.items() if at > first}
    return study.pruner.prune(study, frozen)
