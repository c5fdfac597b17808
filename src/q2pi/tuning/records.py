"""The results of a study's trials, read from its storage and its run folders, for reports."""

from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

from q2pi.tuning.final import options_of
from q2pi.tuning.objective import Curve, read_curve, read_seconds
from q2pi.tuning.plan import Plan, StudyFolder
from q2pi.tuning.trial import config_of

STATES: dict[TrialState, Literal["complete", "pruned", "failed", "running"]] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


@dataclass(frozen=True)
class Record:
    """One trial."""

    number: int
    state: Literal["complete", "pruned", "failed", "running"]
    value: float | None
    """Objective; for a pruned trial, the objective when it was pruned."""
    seconds: float
    """Wall-clock seconds of training, without evaluation, summed over seeds."""
    options: dict[str, Any]
    """Name -> value of the searched and fixed options."""
    curves: list[Curve]
    """Evaluations of each seed that was started."""
    note: str


def read_records(folder: StudyFolder, plan: Plan, study: optuna.Study) -> list[Record]:
    """Return the trials that have a configuration, by number."""
    records = []
    for trial in study.get_trials(deepcopy=False):
        table = trial.user_attrs.get("config")
        if trial.state not in STATES or table is None:
            continue
        runs = [folder.trial(trial.number) / f"seed-{seed}" for seed in plan.trial_seeds]
        runs = [run for run in runs if run.is_dir()]
        curves = [curve for run in runs if (curve := read_curve(run))]
        records.append(
            Record(
                number=trial.number,
                state=STATES[trial.state],
                value=trial.values[0] if trial.values else None,
                seconds=sum(read_seconds(run) for run in runs),
                options=options_of(plan, config_of(plan, table)),
                curves=curves,
                note=trial.user_attrs.get("note", ""),
            )
        )
    return records


def importances(study: optuna.Study) -> dict[str, float]:
    """Return each option's share of the variance of the objective (PED-ANOVA), or {} if there are too few trials."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < 4 or len({trial.values[0] for trial in complete}) < 2:
        return {}
    try:
        # with a custom target PED-ANOVA takes low values as good: without the minus it explains the worst trials
        target = (lambda trial: -trial.values[0]) if len(study.directions) > 1 else None
        found = optuna.importance.get_param_importances(study, target=target)
    except (ValueError, RuntimeError):
        return {}
    return {name.removeprefix("log2 ").removeprefix("1 - "): share for name, share in found.items()}
