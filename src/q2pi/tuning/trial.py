"""One trial: owned by exactly one living process, measured over its seeds, its end reported exactly once.

    claim    under one lock for all: a running trial whose owner has died, or else a new one; its `.owner` is locked and
             its whole configuration is stored before any training
    measure  the seeds one after the other through `execute`, reporting every evaluation to the pruner
    report   its end, from the process that owned it last

A process can be killed between any two lines. The kernel then frees its locks. The next claim finds the trial still
running in the storage, draws what was not drawn yet, and continues its runs from their own checkpoints.
"""

import dataclasses
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from q2pi.algorithms.common.search_space import Int, PowerOfTwo
from q2pi.algorithms.registry import default_config
from q2pi.config import ResolvedConfig, from_table, resolve, to_table
from q2pi.errors import UserError
from q2pi.parallel.executor import Stop
from q2pi.runs.execute import execute
from q2pi.runs.folder import RunFolder
from q2pi.runs.locks import hold, take
from q2pi.runs.manifest import steps
from q2pi.training.events import Diverged, Evaluated, Event, Interrupted, Started
from q2pi.tuning.objective import Curve, Point, read_curve, read_seconds, value
from q2pi.tuning.plan import Plan, StudyFolder
from q2pi.tuning.samplers import make_sampler
from q2pi.tuning.space import changed, suggest

RETRIES = 3
"""How often a trial is started again if processes die in it one after the other before its next checkpoint."""


@dataclass(frozen=True)
class Outcome:
    """How work on a trial ended."""

    state: Literal["complete", "pruned", "failed", "interrupted"]
    values: tuple[float, ...] = ()
    note: str = ""
    """One line on a failure or a divergence."""


@dataclass
class Claim:
    """A trial that this process owns."""

    trial: optuna.Trial
    config: ResolvedConfig[Any]
    attempt: list[int]
    """Progress at each claim since the trial began, this one's last."""
    owner: IO[bytes]
    is_continued: bool
    """Whether another process began the trial."""

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def is_lost(self) -> bool:
        """Whether every process that may retry the trial has died in it before its next checkpoint."""
        return len(self.attempt) > RETRIES + 1 and self.attempt[-RETRIES - 2] == self.attempt[-1]


def claim(folder: StudyFolder, plan: Plan, study: optuna.Study, wanted: int) -> Claim | None:
    """Return the next trial to work on, or None if all `wanted` trials are finished or owned by a live worker."""
    with hold(folder.claims):
        trials = study.get_trials(deepcopy=False)
        for frozen in trials:
            if frozen.state == TrialState.RUNNING and (owner := take(folder.owner(frozen.number))):
                # its owner may have reported its end since the list was read
                if study.get_trials(deepcopy=False)[frozen.number].state == TrialState.RUNNING:
                    study.sampler = make_sampler(plan, frozen.number)
                    return _claimed(folder, plan, optuna.Trial(study, frozen._trial_id), owner)
                owner.close()
        begun = [frozen for frozen in trials if frozen.state != TrialState.WAITING]
        if len(begun) >= wanted:
            return None
        study.sampler = make_sampler(plan, len(begun))
        trial = study.ask()
        owner = take(folder.owner(trial.number))
        assert owner is not None
        return _claimed(folder, plan, trial, owner)


def _claimed(folder: StudyFolder, plan: Plan, trial: optuna.Trial, owner: IO[bytes]) -> Claim:
    drawn = suggest(trial, plan.space)
    table = trial.user_attrs.get("config")
    if table is None:
        config = plan.base if trial.number == 0 else repaired(plan, drawn)
        trial.set_user_attr("config", to_table(config))
    else:
        config = config_of(plan, table)
    attempt = [*trial.user_attrs.get("attempt", []), _progress(folder, plan, trial.number)]
    trial.set_user_attr("attempt", attempt)
    return Claim(trial, config, attempt, owner, is_continued=table is not None)


def repaired(plan: Plan, drawn: dict[str, Any]) -> ResolvedConfig[Any]:
    """Return the run of independently drawn options, repaired so that they fit together."""
    config = changed(plan.base, plan.fixed | drawn, "trial")
    return resolve(config.hyper.repaired(config))


def largest(plan: Plan) -> ResolvedConfig[Any]:
    """Return a run that needs as much memory as any of the study: integers at the upper ends of their ranges."""
    return repaired(plan, {name: span.high for name, span in plan.space.items() if isinstance(span, Int | PowerOfTwo)})


def config_of(plan: Plan, table: dict[str, Any]) -> ResolvedConfig[Any]:
    """Return the configuration in a trial's table."""
    return resolve(from_table(default_config(plan.base.algorithm), table, "trial"))


def _progress(folder: StudyFolder, plan: Plan, number: int) -> int:
    """Return the agent steps of the trial's newest checkpoints, summed over its seeds."""
    runs = [RunFolder(folder.trial(number) / f"seed-{seed}") for seed in plan.trial_seeds]
    return sum(max(steps(run.checkpoints), default=0) for run in runs)


def work_on(
    folder: StudyFolder,
    plan: Plan,
    study: optuna.Study,
    claimed: Claim,
    stop: Stop,
    on_evaluation: Callable[[int], None] = lambda step: None,
) -> Outcome:
    """Measure a claimed trial, report its end to the study, and release it.

    Args:
        folder, plan, study: the study.
        claimed: the trial.
        stop: polled at each step; the trial's run then ends with a checkpoint, and the outcome is "interrupted".
        on_evaluation: called with the agent steps of each evaluation.

    Raises:
        OSError: the disk is full, or the like: the trial stays in the state "running", to be continued.
        StorageInternalError: the database is lost: likewise.
    """
    with closing(claimed.owner):
        try:
            if claimed.is_lost:
                outcome = Outcome("failed", note=f"{RETRIES + 1} processes died in it before its next checkpoint")
            else:
                outcome = measure(folder, plan, claimed, stop, on_evaluation)
        except Diverged as problem:
            outcome = Outcome("pruned", note=f"diverged: {problem}")
        except (OSError, StorageInternalError):
            raise
        except UserError as problem:
            outcome = Outcome("failed", note=str(problem))
        except Exception as problem:
            (folder.trial(claimed.number) / "error.txt").write_text(traceback.format_exc())
            outcome = Outcome("failed", note=f"{type(problem).__name__}: {problem}")
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
    """Train the seeds of a trial, as far as they are not trained yet, and return its value."""
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
    if not plan.against_seconds:
        return Outcome("complete", (result,))
    seconds = [read_seconds(folder.trial(claimed.number) / f"seed-{seed}") for seed in plan.trial_seeds]
    return Outcome("complete", (result, sum(seconds) / len(seconds)))


class _Pruning:
    """A sink that reports each evaluation of one seed to the pruner."""

    def __init__(
        self, plan: Plan, claimed: Claim, run: Path, previous: list[Curve], on_evaluation: Callable[[int], None]
    ) -> None:
        """Prepare; `run` is the seed's folder, `previous` the curves of the seeds before it."""
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
    """Report a trial's value if its current seed ended here, and ask the pruner; the defaults are never pruned.

    Optuna's pruners compare a trial's best report so far: a report of an earlier, luckier seed would shield all later
    seeds, so the pruner is shown the reports of the current seed alone.
    """
    if plan.against_seconds:
        return False
    claimed.trial.report(result, count)
    if claimed.number == 0 or count >= plan.evaluations * plan.seeds:
        return False
    study = claimed.trial.study
    frozen = study.get_trials()[claimed.number]
    first = (count - 1) // plan.evaluations * plan.evaluations
    frozen.intermediate_values = {at: value for at, value in frozen.intermediate_values.items() if at > first}
    return study.pruner.prune(study, frozen)
