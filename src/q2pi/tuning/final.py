"""The final evaluation of a search: the best trials and the defaults are trained again, on held-out seeds and episodes.

The objective of the best trial is biased upwards by the selection; each candidate's estimate on held-out seeds is not.
The defaults are trained on the same seeds, so each candidate is compared with them seed by seed. `tuning.verdict`
describes the test, and how the winner's estimate is corrected for being the highest of several.

The objective `auc` needs evaluations during training, and those play the same episodes as in the search: its seeds are
held out, its episodes are not.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from q2pi.acceleration.device import device_of
from q2pi.algorithms.registry import default_config
from q2pi.config import ResolvedConfig, from_table, resolve, to_table
from q2pi.evaluation.evaluate import EVALUATION_SEED
from q2pi.parallel.executor import Emit, Executor, Job, JobStatus, Message, Stop
from q2pi.runs.evaluations import evaluate_run
from q2pi.runs.execute import execute
from q2pi.runs.files import write_atomically
from q2pi.runs.folder import RunFolder
from q2pi.runs.progress import clock
from q2pi.statistics.pairs import sign_flip_interval
from q2pi.statistics.scores import bootstrap_interval, interquartile_mean, mean, std
from q2pi.training.events import Diverged, Interrupted
from q2pi.tuning.jobs import RESTARTS, Outcome, run_all
from q2pi.tuning.objective import area, read_curve, read_seconds
from q2pi.tuning.plan import Objective, Plan, StudyFolder
from q2pi.tuning.space import value_of
from q2pi.tuning.trial import config_of
from q2pi.tuning.verdict import level, selection_bias, statement, verdict
from q2pi.types import Array

FINAL_EVALUATION_SEED = 2_000_003
"""Seed of the episodes of the final evaluation; evaluations during training never use it."""


@dataclass(frozen=True)
class Candidate:
    """A configuration that is trained on the held-out seeds."""

    label: str
    """Name of the folder: defaults, or trial-7."""
    number: int
    """Number of the trial; 0 for the defaults."""
    config: ResolvedConfig[Any]


def candidates(plan: Plan, study: optuna.Study, top: int) -> list[Candidate]:
    """Return the defaults and the `top` completed trials with the highest objective (nsga2: of the Pareto front)."""
    trials = study.best_trials if plan.minimizes_seconds else study.get_trials(states=(TrialState.COMPLETE,))
    best = sorted((trial for trial in trials if trial.number != 0), key=lambda trial: -trial.values[0])[:top]
    return [Candidate("defaults", 0, plan.base)] + [
        Candidate(f"trial-{trial.number}", trial.number, config_of(plan, trial.user_attrs["config"])) for trial in best
    ]


def runs(folder: StudyFolder, candidate: Candidate, seeds: Sequence[int]) -> list[Path]:
    """Return the run folder of a candidate for each seed."""
    return [folder.final / candidate.label / f"seed-{seed}" for seed in seeds]


def evaluate_candidates(
    folder: StudyFolder,
    chosen: Sequence[Candidate],
    seeds: Sequence[int],
    episodes: int,
    executor: Executor,
    stop: Stop,
) -> Outcome:
    """Train and evaluate each candidate on each held-out seed, except finished ones, and print the progress.

    Args:
        folder: the study's folder.
        chosen: the candidates.
        seeds: training seeds; all candidates are trained on the first seed, then all on the second.
        episodes: number of evaluation episodes per run.
        executor: runs one job for each run.
        stop: when it returns true, running jobs save checkpoints; the same call continues them later.
    """
    all_runs = {
        f"{candidate.label} on seed {seed}": (run, dataclasses.replace(candidate.config, seed=seed))
        for seed in seeds
        for candidate in chosen
        for run in runs(folder, candidate, [seed])
    }
    missing = {name: entry for name, entry in all_runs.items() if not is_evaluated(entry[0], episodes)}
    start, finished = time.monotonic(), 0

    def show(status: JobStatus) -> None:
        nonlocal finished
        if status.state != "finished":
            return
        finished += 1
        left = (time.monotonic() - start) / finished * (len(missing) - finished)
        done = f"{len(all_runs) - len(missing) + finished} of {len(all_runs)} runs"
        print(f"held-out seeds: {done}, last {status.job.name}; left {clock(left)}", flush=True)

    labels = ", ".join(candidate.label for candidate in chosen)
    print(f"held-out seeds: {labels} on {len(seeds)} seeds each", flush=True)
    jobs = [final_job(name, run, config, episodes) for name, (run, config) in missing.items()]
    return run_all(jobs, executor, stop, show)


def final_job(name: str, run: Path, config: ResolvedConfig[Any], episodes: int) -> Job:
    """Return a job that trains and evaluates one run."""
    arguments = {"path": str(run.absolute()), "config": to_table(config), "episodes": episodes}
    threads, gpus = config.threads, 1 if device_of(config.device).type == "cuda" else 0
    return Job(name, "q2pi.tuning.final:work", arguments, threads, RESTARTS, cpus=threads, gpus=gpus, folder="path")


def work(arguments: dict[str, Any], emit: Emit, stop: Stop) -> Message:
    """Task of one final run: train the rest of it, evaluate it, and write `final_evaluation.json` into its folder.

    Args:
        arguments: `path` of the run folder, its `config` as a table, and the number of evaluation `episodes`.
        emit: receives a message when the run is trained.
        stop: when it returns true, the run saves a checkpoint and is not evaluated.
    """
    run, episodes, table = Path(arguments["path"]), arguments["episodes"], arguments["config"]
    config = resolve(from_table(default_config(table["algorithm"]), table, str(run)))
    report: dict[str, Any] = {"scores": [], "episodes": episodes}
    try:
        if isinstance(execute(config, run, stop=stop), Interrupted):
            return {"stopped": True}
        emit({"state": "trained"})
        report |= evaluate_run(RunFolder.open(run), episodes=episodes, seed=FINAL_EVALUATION_SEED).evaluation.report()
    except Diverged as problem:
        report["diverged"] = str(problem)
    write_atomically(run / "final_evaluation.json", json.dumps(report, indent=1))
    return {"stopped": False}


def is_evaluated(run: Path, episodes: int) -> bool:
    """Return whether a final run is trained and evaluated on `episodes` episodes."""
    file = run / "final_evaluation.json"
    return file.is_file() and _scores(file, episodes) is not None


def _scores(file: Path, episodes: int) -> list[float] | None:
    """Return the scores of a final evaluation, NaN if the run diverged, None if the number of episodes differs."""
    report = json.loads(file.read_text(encoding="utf-8"))
    if "diverged" in report:
        return [float("nan")] * episodes
    scores: list[float] = report["scores"]
    return scores if len(scores) == episodes else None


def statistic(objective: Objective) -> Callable[[Array], float]:
    """Return the function from scores [seeds, episodes], or areas [seeds, 1], to the objective."""
    match objective:
        case "iqm":
            return interquartile_mean
        case "mean-std":
            return lambda scores: mean(scores) - std(scores)
    return mean


def results(folder: StudyFolder, plan: Plan, chosen: Sequence[Candidate], seeds: Sequence[int], episodes: int) -> Any:
    """Return the results of the final runs as a JSON-able dict.

    `candidates` lists the defaults first. Each entry has an estimate with a 95 % bootstrap interval over seeds, one
    value for each seed, mean and std of the final evaluation's episodes, minutes of training and the searched options.
    Every entry but the defaults also has the mean difference of the seeds' values to the defaults with the interval of
    the sign-flip test and a verdict. `winner_estimate` is the winner's estimate without selection bias, or None.
    """
    measure = statistic(plan.objective)
    folders = [runs(folder, candidate, seeds) for candidate in chosen]
    scores = [_measured(plan, paths, episodes) for paths in folders]
    entries = [
        _entry(plan, candidate, paths, ours, episodes)
        for candidate, paths, ours in zip(chosen, folders, scores, strict=True)
    ]
    comparisons = len(chosen) - 1
    for entry in entries[1:]:
        differences = np.subtract(entry["by_seed"], entries[0]["by_seed"])
        low, high = map(float, sign_flip_interval(differences, 1 - level(comparisons)))
        entry |= {"difference": mean(differences), "difference_interval": [low, high]}
        entry["verdict"] = verdict(low, high, len(seeds), comparisons)
    # NaN compares false with everything: without this line, defaults that diverged would win.
    finite = [index for index, entry in enumerate(entries) if np.isfinite(entry["estimate"])]
    winner = entries[max(finite, key=lambda index: entries[index]["estimate"], default=0)]
    bias = selection_bias([scores[index] for index in finite], measure) if finite else float("nan")
    corrected = winner["estimate"] - bias
    return {
        "algorithm": plan.base.algorithm,
        "env_id": plan.base.env.env_id,
        "total_timesteps": plan.base.total_timesteps,
        "objective": plan.objective,
        "objective_episodes": _objective_episodes(plan, episodes),
        "seeds": list(seeds),
        "episodes_per_seed": episodes,
        "final_evaluation_seed": FINAL_EVALUATION_SEED,
        "difference_confidence": 1 - level(comparisons),
        "candidates": entries,
        "winner": winner["label"],
        "winner_estimate": corrected if np.isfinite(corrected) else None,
        "statement": statement(winner, entries[0], len(seeds), len(finite), corrected)
        + ("; areas are of the search's evaluation episodes" if plan.objective == "auc" else ""),
    }


def _entry(plan: Plan, candidate: Candidate, folders: Sequence[Path], ours: Array, episodes: int) -> dict[str, Any]:
    """Return the entry of a candidate, without its difference to the defaults."""
    measure = statistic(plan.objective)
    rows = np.arange(len(ours))
    scores = _final_scores(folders, episodes)
    return {
        "label": candidate.label,
        "trial": candidate.number,
        "estimate": measure(ours),
        "interval": list(bootstrap_interval(rows, lambda sample: measure(ours[sample.astype(int)]))),
        "by_seed": [measure(row[np.newaxis]) for row in ours],
        "episode_mean": mean(scores),
        "episode_std": std(scores),
        "minutes": mean([read_seconds(run) for run in folders]) / 60,
        "options": options_of(plan, candidate.config),
    }


def _objective_episodes(plan: Plan, episodes: int) -> str:
    """Return on which episodes the objective of the final runs is measured, for readers of the result."""
    if plan.objective == "auc":
        return (
            f"the {plan.base.evaluation_episodes} episodes of each evaluation during training "
            f"(episode seed {EVALUATION_SEED}), the same episodes as in the search"
        )
    return f"{episodes} held-out episodes after training (episode seed {FINAL_EVALUATION_SEED})"


def _final_scores(folders: Sequence[Path], episodes: int) -> Array:
    """Return the raw scores [seeds, episodes] of the final evaluations; NaN if a run diverged."""
    return np.array([_scores(run / "final_evaluation.json", episodes) for run in folders], np.float64)


def _measured(plan: Plan, folders: Sequence[Path], episodes: int) -> Array:
    """Return raw scores [seeds, episodes], or areas [seeds, 1]; NaN if a run diverged."""
    scores = _final_scores(folders, episodes)
    if plan.objective != "auc":
        return scores
    areas = [area(curve) if (curve := read_curve(run)) else float("nan") for run in folders]
    return np.where(np.isnan(scores[:, :1]), np.nan, np.array(areas)[:, np.newaxis])


def options_of(plan: Plan, config: ResolvedConfig[Any]) -> dict[str, Any]:
    """Return the searched and fixed options of a run by name."""
    return {name: value_of(config, name) for name in [*plan.space, *plan.fixed]}
