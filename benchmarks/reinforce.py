"""What a baseline and more episodes per update gain REINFORCE: episodes until CartPole-v1 is nearly solved.

    q2pi sweep benchmarks/reinforce.toml --workers 2
    python benchmarks/reinforce.py runs/reinforce [--out results/reinforce]

Every run trains its whole budget. Counted are the episodes until the newest 20 training episodes have a mean return of
400. The preset has returns to go, a learned value as the baseline, 8 episodes per update and Adam 3e-3; one option is
changed at a time.
Written: episodes_needed.json, episodes_needed.png and table.md.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from finished_runs import finished_runs, seeds_of

from q2pi.reports.style import COLOURS
from q2pi.runs.history import History

RESULTS = Path(__file__).parent.parent / "results" / "reinforce"
COMMAND = "q2pi sweep benchmarks/reinforce.toml && python benchmarks/reinforce.py runs/reinforce"
NEARLY_SOLVED, NEWEST = 400.0, 20
WEIGHTS = {
    "whole return, no baseline": "reinforce-baseline=none-return_kind=whole",
    "to go, no baseline": "reinforce-baseline=none-return_kind=to_go",
    "to go, batch mean": "reinforce-baseline=batch_mean",
    "to go, learned value": "reinforce-baseline=value",
}
EPISODES = {f"{count} per update": f"reinforce-episodes_per_update={count}" for count in (1, 4, 8, 32)}
EPISODES["8 per update"] = WEIGHTS["to go, learned value"]
"""Setting -> the sweep's folder of its runs. The preset itself is in both comparisons; the sweep trains it once."""


def needed(history: History) -> tuple[int, int] | tuple[None, None]:
    """Return (episodes, agent steps) at which the newest episodes first reached `NEARLY_SOLVED`, or two None."""
    if len(history.returns) < NEWEST:
        return None, None
    means = np.convolve(history.returns, np.ones(NEWEST) / NEWEST, "valid")
    reached = np.flatnonzero(means >= NEARLY_SOLVED)
    if not len(reached):
        return None, None
    last = int(reached[0]) + NEWEST - 1
    return last + 1, int(history.steps[last])


def summary(histories: list[History]) -> dict[str, Any]:
    """Return what each seed of one setting needed, and the most episodes that any of them played."""
    found = [needed(history) for history in histories]
    return {
        "episodes": [episodes for episodes, _ in found],
        "agent_steps": [steps for _, steps in found],
        "most_episodes": max(len(history.returns) for history in histories),
    }


def draw(report: dict, path: Path) -> None:
    """Draw the episodes that each seed needed; a triangle where the budget was not enough."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    titles = {
        "weights": "weight of each log-probability (8 episodes per update)",
        "episodes": "episodes per update (M)",
    }
    for axes, (group, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        names = list(report["settings"][group])
        for place, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
            found = report["settings"][group][name]["episodes"]
            spread = np.linspace(-0.15, 0.15, len(found))
            for x, count in zip(place + spread, found, strict=True):
                lost = report["settings"][group][name]["most_episodes"]
                axes.plot(x, count or lost, "o" if count else "^", color=colour, fillstyle="full" if count else "none")
            middle = float(np.median([count or np.inf for count in found]))
            if np.isfinite(middle):
                axes.hlines(middle, place - 0.3, place + 0.3, color="black", linewidth=1.5)
        labels = [name.replace(", ", ",\n") if group == "weights" else name.split()[0] for name in names]
        axes.set_xticks(range(len(names)), labels, fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    figure.axes[0].set_ylabel(f"episodes until {NEWEST} newest average {NEARLY_SOLVED:.0f}")
    figure.supxlabel(
        "a dot is a seed, a line their median, a triangle a seed that its budget did not bring there", fontsize=9
    )
    figure.savefig(path, dpi=140)


def table(report: dict) -> str:
    """Return the report as a Markdown table."""
    head = [
        f"Made by `{report['command']}`.",
        f"CartPole-v1, {seeds_of(report['seeds'])}, {report['budget']:,} agent steps each.",
        f"Episodes until the newest {NEWEST} have a mean return of {NEARLY_SOLVED:.0f}; a dash if the budget did not "
        "suffice.",
        "",
        "| setting | episodes, each seed | median | agent steps, median |",
        "|---|---|---|---|",
    ]
    rows = []
    for group in report["settings"].values():
        for name, found in group.items():
            each = ", ".join(str(count) if count else "-" for count in found["episodes"])
            middles = [np.median([value or np.inf for value in found[key]]) for key in ("episodes", "agent_steps")]
            shown = [f"{middle:,.0f}" if np.isfinite(middle) else "-" for middle in middles]
            rows.append(f"| {name} | {each} | {shown[0]} | {shown[1]} |")
    return "\n".join(head + rows) + "\n"


def main() -> None:
    """Count, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder of the sweep's runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    folders: dict[str, list[History]] = {}
    for history in finished_runs(options.runs):
        folders.setdefault(history.run.path.parent.name, []).append(history)
    settings = {
        group: {name: summary(folders[folder]) for name, folder in names.items() if folder in folders}
        for group, names in (("weights", WEIGHTS), ("episodes", EPISODES))
    }
    report: dict[str, Any] = {
        "command": COMMAND,
        "seeds": max(map(len, folders.values())),
        "budget": max(history.total_timesteps for several in folders.values() for history in several),
        "settings": settings,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "episodes_needed.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / "table.md").write_text(table(report))
    draw(report, options.out / "episodes_needed.png")
    print(table(report))


if __name__ == "__main__":
    main()
