"""The honest end of a search: the best trials and the defaults once more, on training seeds and episodes new to all.

The best of many noisy measurements owes part of its score to luck; a measurement that did not choose it does not. The
defaults are trained on the same fresh seeds, so each candidate is compared with them seed by seed. The differences'
intervals are widened for the number of candidates (Bonferroni), so that one "real" among them is as sure as one alone.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from q2pi.config import RunConfig, to_table
from q2pi.runs.execute import execute
from q2pi.runs.load import evaluate_run
from q2pi.runs.locks import take
from q2pi.statistics.scores import bootstrap_interval, interquartile_mean, mean, paired_bootstrap_interval, std
from q2pi.training.events import Diverged, Interrupted
from q2pi.tuning.objective import area, read_curve, read_seconds
from q2pi.tuning.plan import Objective, Plan, StudyFolder
from q2pi.tuning.space import value_of
from q2pi.tuning.trial import config_of
from q2pi.tuning.workers import Say
from q2pi.types import Array

FINAL_EVALUATION_SEED = 2_000_003
"""Seed of the episodes that final runs are judged on; evaluations during training never use it."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Candidate:
    """What is run on fresh seeds."""

    label: str
    """The folder's name: defaults, or trial-7."""
    number: int
    """The trial's; 0 for the defaults."""
    config: RunConfig[Any]


def candidates(plan: Plan, study: optuna.Study, top: int) -> list[Candidate]:
    """Return the defaults and the `top` completed trials of the highest return (of the Pareto front, if that is it)."""
    trials = study.best_trials if plan.against_seconds else study.get_trials(states=(TrialState.COMPLETE,))
    best = sorted((trial for trial in trials if trial.number != 0), key=lambda trial: -trial.values[0])[:top]
    return [Candidate("defaults", 0, plan.base)] + [
        Candidate(f"trial-{trial.number}", trial.number, config_of(plan, trial.user_attrs["config"])) for trial in best
    ]


def runs(folder: StudyFolder, who: Candidate, seeds: Sequence[int]) -> list[Path]:
    """Return the run folders of a contender, one for each seed."""
    return [folder.final / who.label / f"seed-{seed}" for seed in seeds]


def task(
    path: str, tables: dict[str, Any], seeds: list[int], episodes: int, stop: Callable[[], bool], say: Say
) -> None:
    """Train and judge what no other worker is at; what a worker process runs.

    Args:
        path: the study's folder.
        tables: label of a contender -> its configuration as a table.
        seeds: of training; all contenders take the first one, then the second.
        episodes: to judge each run on.
        stop: whether to save and end.
        say: tells the master of each run that was judged.
    """
    folder = StudyFolder(path)
    plan = folder.read()
    for seed in seeds:
        for name, table in tables.items():
            run = folder.final / name / f"seed-{seed}"
            if stop() or is_evaluated(run, episodes) or not (owner := take(run.with_suffix(".owner"))):
                continue
            with closing(owner):
                config = dataclasses.replace(config_of(plan, table), seed=seed)
                if not is_evaluated(run, episodes) and judge(run, config, episodes, stop):
                    say({"kind": "judged", "label": name, "seed": seed})


def judge(run: Path, config: RunConfig[Any], episodes: int, stop: Callable[[], bool]) -> bool:
    """Train a run to its end, as far as it is not, and write `judgement.json` into its folder; False if stopped."""
    report: dict[str, Any] = {"scores": [], "episodes": episodes}
    try:
        with closing(execute(config, run, stop)) as events:  # type: ignore[type-var]
            if any(isinstance(event, Interrupted) for event in events):
                return False
        report |= evaluate_run(run, episodes, FINAL_EVALUATION_SEED).report()
    except Diverged as problem:
        report["diverged"] = str(problem)
    temporary = run / ".judgement.json.partial"
    temporary.write_text(json.dumps(report, indent=1))
    temporary.replace(run / "judgement.json")
    return True


def is_evaluated(run: Path, episodes: int) -> bool:
    """Tell whether a final run is trained and judged on so many episodes."""
    file = run / "judgement.json"
    return file.is_file() and _scores(file, episodes) is not None


def _scores(file: Path, episodes: int) -> list[float] | None:
    """Return the scores of a judgement, NaN where the run diverged, None where it is one on other episodes."""
    report = json.loads(file.read_text())
    if "diverged" in report:
        return [float("nan")] * episodes
    scores: list[float] = report["scores"]
    return scores if len(scores) == episodes else None


def statistic(objective: Objective) -> Callable[[Array], float]:
    """Return what maps scores [seeds, episodes], or areas [seeds, 1], to the objective."""
    match objective:
        case "iqm":
            return interquartile_mean
        case "mean-std":
            return lambda scores: mean(scores) - std(scores)
    return mean


def results(folder: StudyFolder, plan: Plan, who: Sequence[Candidate], seeds: Sequence[int], episodes: int) -> Any:
    """Return what the final runs say, as a dict that is ready for JSON.

    `contenders` lists the defaults first; each has its estimate with a 95 % bootstrap interval over seeds, one value
    for each seed, minutes of training, the options in which it differs from the defaults and, but for the defaults,
    its difference to them with an interval and a verdict.
    """
    measure = statistic(plan.objective)
    scores = [_measured(plan, runs(folder, one, seeds), episodes) for one in who]
    doubt = (1 - CONFIDENCE) / max(1, len(who) - 1)
    entries: list[dict[str, Any]] = []
    for one, ours in zip(who, scores, strict=True):
        rows = np.arange(len(seeds))
        entry: dict[str, Any] = {
            "label": one.label,
            "trial": one.number,
            "estimate": measure(ours),
            "interval": list(bootstrap_interval(rows, lambda drawn, ours=ours: measure(ours[drawn.astype(int)]))),  # type: ignore[misc]
            "by_seed": [measure(row[np.newaxis]) for row in ours],
            "episode_mean": mean(ours),
            "episode_std": std(ours),
            "minutes": mean([read_seconds(run) for run in runs(folder, one, seeds)]) / 60,
            "options": options_of(plan, one.config),
        }
        if one.label != "defaults":
            difference = measure(ours) - measure(scores[0])
            low, high = paired_bootstrap_interval(ours, scores[0], measure, 1 - doubt)
            verdict = _verdict(low, high, enough=2.0 ** (1 - len(seeds)) <= doubt)
            entry |= {"difference": difference, "difference_interval": [low, high], "verdict": verdict}
        entries.append(entry)
    sound = [entry for entry in entries if np.isfinite(entry["estimate"])]
    winner = max(sound, key=lambda entry: entry["estimate"], default=entries[0])
    return {
        "algorithm": plan.base.algorithm,
        "env_id": plan.base.env.env_id,
        "total_timesteps": plan.base.total_timesteps,
        "objective": plan.objective,
        "seeds": list(seeds),
        "episodes_per_seed": episodes,
        "final_evaluation_seed": FINAL_EVALUATION_SEED,
        "difference_confidence": 1 - doubt,
        "candidates": entries,
        "winner": winner["label"],
        "statement": _statement(winner, entries[0], len(seeds)),
    }


def _measured(plan: Plan, folders: Sequence[Path], episodes: int) -> Array:
    """Return raw scores [seeds, episodes], or areas [seeds, 1]; NaN where a run diverged."""
    scores = np.array([_scores(run / "judgement.json", episodes) for run in folders], np.float64)
    if plan.objective != "auc":
        return scores
    areas = [area(curve) if (curve := read_curve(run)) else float("nan") for run in folders]
    return np.where(np.isnan(scores[:, :1]), np.nan, np.array(areas)[:, np.newaxis])


def options_of(plan: Plan, config: RunConfig[Any]) -> dict[str, Any]:
    """Return the searched and fixed options of a run by name."""
    return {name: value_of(config, name) for name in [*plan.space, *plan.fixed]}


def _verdict(low: float, high: float, enough: bool) -> str:
    """Say what an interval shows; `enough` seeds are those on which equals would seldom all differ in one direction."""
    if np.isnan(low) or np.isnan(high):
        return "a run diverged"
    if not enough:
        return "too few seeds to tell"
    if low > 0:
        return "really better"
    return "really worse" if high < 0 else "no difference shown"


def _statement(winner: dict[str, Any], defaults: dict[str, Any], seeds: int) -> str:
    """Return the result in one sentence."""
    if winner is defaults:
        return f"no trial beats the defaults ({defaults['estimate']:.1f}) on {seeds} fresh seeds"
    low, high = winner["difference_interval"]
    sure = {
        "really better": "the difference is real",
        "a run diverged": "but the defaults diverge",
        "too few seeds to tell": "but so few seeds cannot tell",
    }.get(winner["verdict"], "which may be chance")
    return (
        f"{winner['label']} reaches {winner['estimate']:.1f} on {seeds} fresh seeds, the defaults "
        f"{defaults['estimate']:.1f}: {winner['difference']:+.1f} [{low:.1f}, {high:.1f}], {sure}"
    )


def table_of(who: Sequence[Candidate]) -> dict[str, Any]:
    """Return label -> configuration table, for the workers."""
    return {one.label: to_table(one.config) for one in who}
