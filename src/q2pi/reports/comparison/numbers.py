"""The numbers of a report as a JSON-able dict: every score with its protocol, its runs and its interval.

All intervals are 95 % percentile bootstrap intervals over seeds; a single seed has none (null).
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from q2pi.reports.comparison.read import RULES, Cells, Sample
from q2pi.reports.labels import differing, options_of, rules_of, short
from q2pi.reports.windows import Numbers, default_width, window_means_of_all, window_width
from q2pi.statistics.atari_scores import REFERENCE_SCORES
from q2pi.statistics.comparisons import (
    aggregate_iqm,
    aggregate_iqm_interval,
    has_interval,
    mean_curve,
    performance_profile,
    performance_profile_intervals,
    probability_of_improvement,
    probability_of_improvement_interval,
)
from q2pi.statistics.scores import bootstrap_interval, human_normalized, interquartile_mean, mean
from q2pi.types import Array

Report = dict[str, Any]
Scores = dict[str, Array]
"""Environment -> scores [n] of one method's runs."""
THRESHOLDS = 101
FEW_SEEDS = (
    "Intervals over few seeds are too narrow: of means of normal scores, 95 % percentile bootstrap intervals over "
    "2, 3, 5 and 10 seeds contain the true mean with probability 50, 75, 84 and 90 %."
)
SAME_EPISODES = (
    "All runs of an environment are evaluated on the same episode seeds: intervals over training seeds do not include "
    "the choice of these episodes."
)


def summarise(cells: Cells, left_out: Mapping[str, str]) -> Report:
    """Return the report on cells of runs, see `read.collect`."""
    methods = list(dict.fromkeys(method for cell in cells.values() for method in cell))
    scores = {
        method: {env_id: _scores(cell[method]) for env_id, cell in cells.items() if method in cell}
        for method in methods
    }
    common = [env_id for env_id, cell in cells.items() if len(cell) == len(methods)]
    normalisable = [env_id for env_id in common if env_id in REFERENCE_SCORES]
    return {
        "runs": sum(len(cell) for env in cells.values() for cell in env.values()),
        "left_out": dict(left_out),
        "methods": methods,
        "intervals": "95 % percentile bootstrap over seeds; over several environments these are the strata",
        "environments": {env_id: _environment(env_id, cell) for env_id, cell in cells.items()},
        "human_normalized_iqm": _human_normalized_iqm(scores, normalisable) if normalisable else None,
        "profiles": _profiles(scores, list(cells), normalisable),
        "probability_of_improvement": _improvements(scores),
        "notes": _notes(cells, methods, common, normalisable),
    }


def _scores(cell: Sequence[Sample]) -> Array:
    return np.array([sample.score for sample in cell])


def _environment(env_id: str, methods: Mapping[str, Sequence[Sample]]) -> Report:
    width = default_width([sample.history for cell in methods.values() for sample in cell])
    return {
        "window_steps": width,
        "methods": {method: _cell(env_id, cell, width) for method, cell in methods.items()},
    }


def _cell(env_id: str, cell: Sequence[Sample], width: int) -> Report:
    scores, first = _scores(cell), cell[0]
    return {
        "seeds": [sample.history.seed for sample in cell],
        "folders": [str(sample.history.run.path) for sample in cell],
        "protocol": {
            "agent_steps": first.history.total_timesteps,
            "rules": rules_of(first.history.run.env()),
            "policy": first.policy,
            "evaluation_episodes": sorted({sample.episodes for sample in cell}),
        },
        "scores": scores.tolist(),
        "mean": mean(scores),
        "mean_interval": list(bootstrap_interval(scores, mean)) if len(scores) > 1 else None,
        "iqm": interquartile_mean(scores),
        "iqm_interval": list(bootstrap_interval(scores, interquartile_mean)) if len(scores) > 1 else None,
        "human_normalized": _human_normalized(env_id, scores),
        "minutes": _number(float(np.median([sample.minutes for sample in cell]))),
        "curve_steps": _curve([(sample.history.steps, sample.history.returns) for sample in cell], width),
        "curve_seconds": _wall_clock_curve(cell),
    }


def _human_normalized(env_id: str, scores: Array) -> Report | None:
    if env_id not in REFERENCE_SCORES:
        return None
    normalised = human_normalized(scores, *REFERENCE_SCORES[env_id])
    interval = list(bootstrap_interval(normalised, mean)) if len(scores) > 1 else None
    return {"mean": mean(normalised), "mean_interval": interval}


def _curve(curves: Sequence[tuple[Numbers, Numbers]], width: int, unit: float = 1.0) -> Report | None:
    """Return the mean over runs at the centres of the windows in which every run has a value."""
    if not all(len(places) for places, _ in curves):
        return None
    centres, means = window_means_of_all(curves, width)
    if not len(centres):
        return None
    middle, low, high = mean_curve(means)
    return {
        "x": (centres * unit).tolist(),
        "mean": middle.tolist(),
        "low": low.tolist() if low is not None else None,
        "high": high.tolist() if high is not None else None,
    }


def _wall_clock_curve(cell: Sequence[Sample]) -> Report | None:
    """Return the curve over seconds of training, in windows of whole milliseconds."""
    curves = [(np.ceil(1000 * sample.seconds), sample.history.returns) for sample in cell]
    if any(not len(places) or np.isnan(places).any() for places, _ in curves):
        return None
    whole = [(np.maximum(1, places).astype(np.int64), values) for places, values in curves]
    longest = max(int(places[-1]) for places, _ in whole)
    sparse = max(places[-1] / len(places) for places, _ in whole)
    width = window_width(longest, sparse)
    curve = _curve(whole, width, unit=0.001)
    return curve and curve | {"window_seconds": width / 1000}


def _normalised(scores: Scores, env_ids: Sequence[str]) -> list[Array]:
    return [human_normalized(scores[env_id], *REFERENCE_SCORES[env_id]) for env_id in env_ids]


def _human_normalized_iqm(scores: Mapping[str, Scores], env_ids: Sequence[str]) -> Report:
    result = {}
    for method, of_method in scores.items():
        tasks = _normalised(of_method, env_ids)
        result[method] = {
            "runs": sum(map(len, tasks)),
            "iqm": aggregate_iqm(tasks),
            "interval": list(aggregate_iqm_interval(tasks)) if has_interval(tasks) else None,
        }
    return {"environments": list(env_ids), "methods": result}


def _profiles(scores: Mapping[str, Scores], env_ids: Sequence[str], normalisable: Sequence[str]) -> list[Report]:
    """Return the profile of human-normalised scores, and a profile of raw scores for each other environment."""
    profiles = []
    if normalisable:
        tasks = {method: _normalised(of_method, normalisable) for method, of_method in scores.items()}
        profiles.append(_profile(tasks, list(normalisable), "human-normalised score"))
    for env_id in env_ids:
        if env_id not in normalisable:
            tasks = {method: [of_method[env_id]] for method, of_method in scores.items() if env_id in of_method}
            profiles.append(_profile(tasks, [env_id], "raw score"))
    return profiles


def _profile(tasks: Mapping[str, Sequence[Array]], env_ids: list[str], scale: str) -> Report:
    every = np.concatenate([scores for strata in tasks.values() for scores in strata])
    low, high = float(every.min()), float(every.max())
    margin = 0.05 * (high - low) or 1.0
    thresholds = np.linspace(low - margin, high + margin, THRESHOLDS)
    methods = {}
    for method, strata in tasks.items():
        band = performance_profile_intervals(strata, thresholds) if has_interval(strata) else None
        methods[method] = {
            "runs": sum(map(len, strata)),
            "share": performance_profile(strata, thresholds).tolist(),
            "low": band[0].tolist() if band else None,
            "high": band[1].tolist() if band else None,
        }
    return {"environments": env_ids, "scale": scale, "thresholds": thresholds.tolist(), "methods": methods}


def _improvements(scores: Mapping[str, Scores]) -> list[Report]:
    """Return, for each pair of methods, the probability that a run of the first beats a run of the second."""
    rows = []
    for first, second in combinations(scores, 2):
        shared = [env_id for env_id in scores[first] if env_id in scores[second]]
        if not shared:
            continue
        x, y = ([scores[method][env_id] for env_id in shared] for method in (first, second))
        rows.append(
            {
                "first": first,
                "second": second,
                "environments": shared,
                "runs": [sum(map(len, x)), sum(map(len, y))],
                "probability": probability_of_improvement(x, y),
                "interval": list(probability_of_improvement_interval(x, y)) if has_interval(x, y) else None,
            }
        )
    return rows


def _notes(cells: Cells, methods: list[str], common: list[str], normalisable: list[str]) -> list[str]:
    """Return the caveats of the numbers."""
    sizes = sorted({len(cell) for env in cells.values() for cell in env.values()})
    notes = [SAME_EPISODES]
    if sizes[0] == 1:
        notes.append("Numbers from a single seed have no interval: they do not show the variance between seeds.")
    if sizes[-1] > 1 and sizes[0] <= 10:
        notes.append(FEW_SEEDS)
    if len(sizes) > 1:
        notes.append(
            f"Environments and methods have different numbers of runs ({sizes[0]} to {sizes[-1]}); in the aggregate "
            "interquartile mean, environments with more runs have more weight."
        )
    for method in methods:
        missing = [env_id for env_id in cells if method not in cells[env_id]]
        if missing:
            notes.append(f"{method} has no runs on {', '.join(missing)}.")
    if len(cells) > 1 and not common:
        notes.append("No environment has runs of every method: only pairs of methods are aggregated over environments.")
    unequal = [
        env_id
        for env_id, cell in cells.items()
        if len({sample.history.total_timesteps for samples in cell.values() for sample in samples}) > 1
    ]
    if unequal:
        notes.append(f"Methods have different budgets on {', '.join(unequal)}: see the agent steps of each score.")
    notes += [_note_on_normalising(cells, normalisable)]
    rules = dict.fromkeys(rules_of(s.history.run.env()) for e in normalisable for c in cells[e].values() for s in c)
    if len(rules) > 1:
        notes.append(f"The human-normalised numbers mix several rules: {' | '.join(rules)}.")
    for method in methods:
        tables = [options_of(env[method][0].history) for env in cells.values() if method in env]
        shown = ("total_timesteps", *RULES)
        names = sorted(short(name) for name in differing(tables) if name in shown or "hyper." in name)
        if names:
            notes.append(f"{method} has options that differ between environments: {', '.join(names)}.")
    return notes


def _note_on_normalising(cells: Cells, normalisable: list[str]) -> str:
    raw = [env_id for env_id in cells if env_id not in REFERENCE_SCORES]
    if not normalisable:
        return "There are no human reference scores for these environments: all scores are raw, none is normalised."
    note = (
        "Human-normalised: 0 is a random agent, 1 a human tester, both after up to 30 no-ops without sticky actions "
        "(Wang et al. 2016)."
    )
    return f"{note} {', '.join(raw)} have no reference scores and stay raw." if raw else note


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
