"""What a baseline and more episodes per update buy REINFORCE: episodes until CartPole-v1 is nearly solved.

    python benchmarks/reinforce.py [--seeds 5] [--steps 150000] [--workers 2] [--runs runs/reinforce]

A run ends when the mean return of its newest 20 training episodes reaches 400, or with its budget. One thing is changed
at a time from the preset (returns to go, a learned value as the baseline, 8 episodes per update, Adam 3e-3).
Written: results/reinforce/episodes_needed.json, .png and table.md.
"""

import argparse
import json
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from jobs import run_all

from q2pi.config import override, resolve
from q2pi.parallel.executor import Emit, Job, Message, Stop
from q2pi.reports.style import COLOURS
from q2pi.runs.execute import execute, is_finished
from q2pi.runs.folder import RunFolder
from q2pi.training.events import EpisodeEnded, Event
from q2pi.training.presets import configure

RESULTS = Path(__file__).parent.parent / "results" / "reinforce"
TARGET, NEWEST = 400.0, 20
WEIGHTS: dict[str, dict[str, Any]] = {
    "whole return, no baseline": {"return_kind": "whole", "baseline": "none"},
    "to go, no baseline": {"baseline": "none"},
    "to go, batch mean": {"baseline": "batch_mean"},
    "to go, learned value": {},
}
EPISODES: dict[str, dict[str, Any]] = {f"{count} per update": {"episodes_per_update": count} for count in (1, 4, 8, 32)}
EPISODES["8 per update"] = {}
SETTINGS = {("weights", name): options for name, options in WEIGHTS.items()}
SETTINGS |= {("episodes", name): options for name, options in EPISODES.items() if options}
SAME = {("episodes", "8 per update"): ("weights", "to go, learned value")}
"""The preset itself stands in both comparisons; it is trained once."""


def needed(folder: Path) -> tuple[int, int] | None:
    """Return (episodes, agent steps) at which the newest episodes first reached `TARGET`; None if they did not."""
    newest: deque[float] = deque(maxlen=NEWEST)
    for count, row in enumerate(RunFolder(folder).rows("episode"), start=1):
        newest.append(row["return"])
        if len(newest) == NEWEST and np.mean(newest) >= TARGET:
            return count, row["step"]
    return None


class NewestReturns:
    """A sink that keeps the newest training returns of a run, those of an interrupted run included."""

    def __init__(self, folder: Path) -> None:
        self.returns = deque((row["return"] for row in RunFolder(folder).rows("episode")), maxlen=NEWEST)

    def is_solved(self) -> bool:
        """Return whether the mean of the newest returns has reached the target."""
        return len(self.returns) == NEWEST and float(np.mean(self.returns)) >= TARGET

    def write(self, event: Event) -> None:
        if isinstance(event, EpisodeEnded):
            self.returns.append(event.episode.episode_return)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def train(arguments: dict[str, Any], emit: Emit, stop: Stop) -> Message:
    """Task: train one run until it reaches the target or its budget; return (episodes, agent steps) at the target."""
    folder = Path(arguments["folder"])
    if needed(folder) is None and not is_finished(folder):
        config, _ = configure("reinforce", "CartPole-v1", "classic")
        newest = NewestReturns(folder)
        execute(
            resolve(override(config, arguments["options"])),
            folder,
            sinks=[newest],
            stop=lambda: newest.is_solved() or stop(),
        )
    return {"needed": needed(folder)}


def training(options: dict[str, Any], seed: int, steps: int, folder: Path) -> Job:
    """Return the job of one run."""
    own = {"total_timesteps": steps, "seed": seed, "threads": 1, "evaluation_episodes": 0}
    arguments = {"folder": str(folder), "options": own | options}
    return Job(f"{folder.parent.name} seed {seed}", "reinforce:train", arguments, threads=1)


def folder_of(root: Path, key: tuple[str, str], seed: int) -> Path:
    """Return the run folder of one setting and seed."""
    return root / SAME.get(key, key)[1].replace(", ", "-").replace(" ", "_") / str(seed)


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
    figure.axes[0].set_ylabel(f"episodes until {NEWEST} newest average {TARGET:.0f}")
    figure.supxlabel(
        "a dot is a seed, a line their median, a triangle a seed that its budget did not bring there", fontsize=9
    )
    figure.savefig(path, dpi=140)


def table(report: dict) -> str:
    """Return the report as a Markdown table."""
    head = [
        f"Made by `{report['command']}`: CartPole-v1, {report['seeds']} seeds, "
        f"at most {report['budget']:,} agent steps each.",
        f"Episodes until the newest {NEWEST} have a mean return of {TARGET:.0f}; a dash if the budget was not enough.",
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
    """Train what is missing, then count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=150_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/reinforce"))
    options = parser.parse_args()
    seeds = range(1, options.seeds + 1)
    jobs = [
        training(settings, seed, options.steps, folder_of(options.runs, key, seed))
        for key, settings in SETTINGS.items()
        for seed in seeds
    ]
    run_all(jobs, options.workers)
    report: dict[str, Any] = {
        "command": f"python benchmarks/reinforce.py --seeds {options.seeds} --steps {options.steps}",
        "seeds": options.seeds,
        "budget": options.steps,
        "settings": {},
    }
    for group, names in (("weights", WEIGHTS), ("episodes", EPISODES)):
        report["settings"][group] = {}
        for name in names:
            folders = [folder_of(options.runs, (group, name), seed) for seed in seeds]
            found = [needed(folder) or (None, None) for folder in folders]
            report["settings"][group][name] = {
                "episodes": [episodes for episodes, _ in found],
                "agent_steps": [steps for _, steps in found],
                "most_episodes": max(len(RunFolder(folder).rows("episode")) for folder in folders),
            }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "episodes_needed.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "table.md").write_text(table(report))
    draw(report, RESULTS / "episodes_needed.png")
    print(table(report))


if __name__ == "__main__":
    main()
