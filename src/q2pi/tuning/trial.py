"""One trial: claimed by exactly one living process, measured over its seeds, told exactly once.

    claim    under one lock for all: a running trial whose owner is dead, or else a new one; its `.owner` is locked and
             its whole configuration stored before any training
    measure  the seeds one after the other through `execute`, reporting every evaluation
    tell     its end, from whichever process held it last

A process can be killed between any two lines. The kernel then frees its locks; the next claim finds the trial still
running in the storage, completes what was not yet drawn, and continues its runs from their own checkpoints.
"""

import dataclasses
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import IO, Any, Literal

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from q2pi.algorithms import registry
from q2pi.algorithms.common.search_space import Int, PowerOfTwo
from q2pi.algorithms.registry import default_config
from q2pi.config import RunConfig, from_table, to_table
from q2pi.errors import UserError
from q2pi.runs.execute import execute
from q2pi.runs.folder import RunFolder
from q2pi.runs.locks import hold, take
from q2pi.runs.manifest import steps
from q2pi.training.events import Diverged, Evaluated, Interrupted, Started
from q2pi.tuning.objective import Curve, Point, read_curve, read_seconds, value
from q2pi.tuning.plan import Plan, StudyFolder
from q2pi.tuning.samplers import make_sampler
from q2pi.tuning.space import changed, suggest

RETRIES = 3
"""How often a trial is begun again, by processes that die in it one after the other before its next checkpoint."""


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
    config: RunConfig[Any]
    attempt: list[int]
    """Progress at each claim since the trial began, this one's last."""
    owner: IO[bytes]
    again: bool
    """Whether another process began it."""

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def is_lost(self) -> bool:
        """Whether every process that may retry it has died in it without getting anywhere."""
        return len(self.attempt) > RETRIES + 1 and self.attempt[-RETRIES - 2] == self.attempt[-1]


def claim(folder: StudyFolder, plan: Plan, study: optuna.Study, wanted: int) -> Claim | None:
    """Return the next trial to work on, or None where all `wanted` trials have ended or are in good hands."""
    with hold(folder.claims):
        trials = study.get_trials(deepcopy=False)
        for frozen in trials:
            if frozen.state == TrialState.RUNNING and (owner := take(folder.owner(frozen.number))):
                # Its owner may have told its end since the list was read.
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
        config = plan.base if trial.number == 0 else settled(plan, drawn)
        trial.set_user_attr("config", to_table(config))
    else:
        config = config_of(plan, table)
    attempt = [*trial.user_attrs.get("attempt", []), _progress(folder, plan, trial.number)]
    trial.set_user_attr("attempt", attempt)
    return Claim(trial, config, attempt, owner, again=table is not None)


def settled(plan: Plan, drawn: dict[str, Any]) -> RunConfig[Any]:
    """Return the run of drawn options, in which what was drawn apart fits together."""
    config = changed(plan.base, plan.fixed | drawn, "trial")
    run: RunConfig[Any] = registry.find(plan.base.algorithm).settle(config)
    return run


def largest(plan: Plan) -> RunConfig[Any]:
    """Return a run that takes as much memory as any of the study: whole numbers at the upper ends of their ranges."""
    return settled(plan, {name: span.high for name, span in plan.space.items() if isinstance(span, Int | PowerOfTwo)})


def config_of(plan: Plan, table: dict[str, Any]) -> RunConfig[Any]:
    """Return the configuration that a trial's table holds."""
    return from_table(default_config(plan.base.algorithm), table, "trial")


def _progress(folder: StudyFolder, plan: Plan, number: int) -> int:
    """Return the agent steps that the trial's checkpoints hold, over its seeds."""
    runs = [RunFolder(folder.trial(number) / f"seed-{seed}") for seed in plan.trial_seeds]
    return sum(max(steps(run.checkpoints), default=0) for run in runs)


def work_on(folder: StudyFolder, plan: Plan, study: optuna.Study, claimed: Claim, stop: Callable[[], bool]) -> Outcome:
    """Measure a claimed trial, tell the study how it ended, and let go of it.

    Raises:
        OSError: the disk is full, or the like: the trial stays running, to be continued.
        StorageInternalError: the database is lost: likewise.
    """
    with closing(claimed.owner):
        try:
            if claimed.is_lost:
                outcome = Outcome("failed", note=f"{RETRIES + 1} processes died in it before its next checkpoint")
            else:
                outcome = measure(folder, plan, claimed, stop)
        except Diverged as problem:
            outcome = Outcome("pruned", note=f"diverged: {problem}")
        except (OSError, StorageInternalError):
            raise
        except UserError as problem:
            outcome = Outcome("failed", note=str(problem))
        except Exception as problem:
            (folder.trial(claimed.number) / "error.txt").write_text(traceback.format_exc())
            outcome = Outcome("failed", note=f"{type(problem).__name__}: {problem}")
        _tell(study, claimed, outcome)
    return outcome


def _tell(study: optuna.Study, claimed: Claim, outcome: Outcome) -> None:
    if outcome.state == "interrupted":
        claimed.trial.set_user_attr("attempt", claimed.attempt[:-1])
        return
    if outcome.note:
        claimed.trial.set_user_attr("note", outcome.note)
    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    study.tell(claimed.number, list(outcome.values) or None, state=states[outcome.state], skip_if_finished=True)


def measure(folder: StudyFolder, plan: Plan, claimed: Claim, stop: Callable[[], bool]) -> Outcome:
    """Train the seeds of a trial, as far as they are not trained yet, and return what it is worth."""
    curves: list[Curve] = []
    for index, seed in enumerate(plan.trial_seeds):
        run = folder.trial(claimed.number) / f"seed-{seed}"
        curve: Curve = []
        with closing(execute(dataclasses.replace(claimed.config, seed=seed), run, stop)) as events:  # type: ignore[type-var]
            for event in events:
                match event:
                    case Started():
                        curve = read_curve(run)
                    case Evaluated(step, evaluation):
                        curve.append(Point(step, tuple(evaluation.scores)))
                        count = index * plan.evaluations + len(curve)
                        if _should_prune(plan, claimed, value(plan.objective, [*curves, curve]), count):
                            return Outcome("pruned")
                    case Interrupted():
                        return Outcome("interrupted")
        curves.append(read_curve(run))
    worth = value(plan.objective, curves)
    if not plan.against_seconds:
        return Outcome("complete", (worth,))
    spent = [read_seconds(folder.trial(claimed.number) / f"seed-{seed}") for seed in plan.trial_seeds]
    return Outcome("complete", (worth, sum(spent) / len(spent)))


def _should_prune(plan: Plan, claimed: Claim, worth: float, count: int) -> bool:
    """Report what a trial would be worth if its current seed ended here, and ask the pruner; never of the defaults.

    Optuna's pruners compare a trial's best report so far: that of an earlier, luckier seed would shield all later ones,
    so they are shown the reports of the current seed.
    """
    if plan.against_seconds:
        return False
    claimed.trial.report(worth, count)
    if claimed.number == 0 or count >= plan.evaluations * plan.seeds:
        return False
    study = claimed.trial.study
    frozen = study.get_trials()[claimed.number]
    before = (count - 1) // plan.evaluations * plan.evaluations
    frozen.intermediate_values = {at: value for at, value in frozen.intermediate_values.items() if at > before}
    return study.pruner.prune(study, frozen)
