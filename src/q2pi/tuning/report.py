"""The report of a study: a self-contained HTML page, its figures as PNG, and the result as JSON."""

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna

from q2pi.reports import html
from q2pi.runs.files import write_atomically
from q2pi.tuning import figures
from q2pi.tuning.plan import Plan, StudyFolder
from q2pi.tuning.records import Record, importances, read_records

CAPTIONS = {
    "final": "Held-out seeds",
    "history": "History",
    "importances": "Importances",
    "slices": "Slices",
    "parallel": "Parallel coordinates",
    "curves": "Learning curves of complete and pruned trials",
}


def write_report(folder: StudyFolder, plan: Plan, study: optuna.Study, result: dict[str, Any] | None) -> Path:
    """Write the report of a study with at least one trial, and return the page's path."""
    records = read_records(folder, plan, study)
    folder.report.mkdir(exist_ok=True)
    if result is not None:
        text = json.dumps(_finite(result), indent=1)
        write_atomically(folder.report / "result.json", text)
    pictures = _draw(folder.report, plan, records, importances(study), result)
    page = folder.report / "report.html"
    write_atomically(page, _page(plan, records, result, pictures))
    return page


def _draw(
    folder: Path, plan: Plan, records: Sequence[Record], shares: dict[str, float], result: dict[str, Any] | None
) -> list[Path]:
    name = f"{plan.objective} return"
    paths = {key: folder / f"{key}.png" for key in CAPTIONS}
    complete = any(record.state == "complete" for record in records)
    if result is not None and all(map(math.isfinite, (entry["estimate"] for entry in result["candidates"]))):
        figures.final(result, paths["final"])
    else:
        del paths["final"]
    figures.history(records, paths["history"], name)
    figures.slices(records, plan.space, paths["slices"], name)
    figures.curves(records, paths["curves"])
    if shares:
        figures.importance(shares, paths["importances"])
    else:
        del paths["importances"]
    if complete:
        figures.parallel(records, plan.space, paths["parallel"], name)
    else:
        del paths["parallel"]
    return list(paths.values())


def _page(plan: Plan, records: Sequence[Record], result: dict[str, Any] | None, pictures: Sequence[Path]) -> str:
    base = plan.base
    title = f"{base.algorithm} on {base.env.env_id}"
    about = (
        f"{len(records)} trials of {plan.seeds} seeds x {base.total_timesteps:,} agent steps. "
        f"Objective: {plan.objective} of {base.evaluation_episodes} whole episodes per seed, raw returns; "
        f"{plan.evaluations} evaluations per run. Sampler {plan.sampler}, pruner {plan.pruner}. "
        "Trial 0 is the defaults."
    )
    parts = [html.paragraph(about)]
    if result is not None:
        parts += [html.paragraph(f"{result['statement']}.", bold=True), *_final_table(result)]
    for path in pictures:
        caption = CAPTIONS[path.stem]
        parts += [html.section(caption), html.image(path, caption)]
    parts += [html.section("Trials"), _trial_table(plan, records)]
    return html.page(title, title, parts)


def _final_table(result: dict[str, Any]) -> list[str]:
    level = f"{100 * result['difference_confidence']:.3g} %"
    heads = ["", result["objective"], "95 % interval", "episodes", "to the defaults", f"interval, {level}", "verdict"]
    rows = []
    for entry in result["candidates"]:
        row = [entry["label"], _number(entry["estimate"]), _interval(entry["interval"])]
        row.append(f"{_number(entry['episode_mean'])} +- {_number(entry['episode_std'])}")
        if "verdict" in entry:
            row += [f"{entry['difference']:+.1f}", _interval(entry["difference_interval"]), entry["verdict"]]
        rows.append(row)
    comparisons = len(result["candidates"]) - 1
    note = (
        f"Each candidate is trained on {len(result['seeds'])} seeds that the search never used, and all are evaluated "
        f"on the same episodes: {result['objective']} is over {result['objective_episodes']}; the column of episodes "
        f"(mean +- std) is over {result['episodes_per_seed']} held-out episodes per seed. 95 % intervals are "
        "percentile bootstraps over seeds: too narrow with few seeds (90 % coverage with 10, 84 % with 5). "
        "Differences are means over seeds of the difference on the same seed, with intervals of the exact sign-flip "
        f"test at the level for {comparisons} comparisons (Bonferroni): if no candidate differs from the defaults, "
        "the probability of any verdict of better or worse is at most 5 %. The highest estimate of the table is "
        "biased upwards, because it is the highest; the sentence above corrects it (leave-one-out over seeds)."
    )
    return [html.table(heads, rows, numbers=heads[1:-1]), html.paragraph(note, quiet=True)]


def _trial_table(plan: Plan, records: Sequence[Record]) -> str:
    options = [*plan.space, *plan.fixed]
    heads = ["trial", plan.objective, "state", "seconds", *options]
    rows = []
    for record in sorted(records, key=lambda r: (r.state != "complete", -(r.value if r.value is not None else -1e99))):
        value = _number(record.value) if record.value is not None else ""
        state = f"{record.state}: {record.note}" if record.note else record.state
        row = [str(record.number), value, state, f"{record.seconds:.0f}"]
        rows.append(row + [_number(record.options[name]) for name in options])
    return html.table(heads, rows, numbers={"trial", plan.objective, "seconds", *options})


def _number(value: Any) -> str:
    return (
        f"{value:.4g}"
        if isinstance(value, float)
        else shlex.join(map(str, value))
        if _is_sequence(value)
        else str(value)
    )


def _is_sequence(value: Any) -> bool:
    return isinstance(value, tuple | list)


def _interval(pair: Sequence[float]) -> str:
    return f"[{pair[0]:.1f}, {pair[1]:.1f}]" if all(map(math.isfinite, pair)) else ""


def _finite(value: Any) -> Any:
    """Return a JSON-able value with None in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if _is_sequence(value):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
