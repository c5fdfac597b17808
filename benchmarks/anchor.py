"""Training returns of one or several seeds beside published ones: a table with intervals over seeds, and a figure.

    python benchmarks/publish.py RUN results/NAME/seed_1                                  # and so on for each seed
    python benchmarks/anchor.py results/NAME --published "Dopamine DQN (Adam + MSE), 5 seeds"

A window is what the published runs use: the 250,000 agent steps that end at the point. Intervals are 95 % t intervals
over the seeds. Read: the folders seed_*. Written: returns.csv, returns.png.
"""

import argparse
import csv
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from publish import write_rows
from published import SPACE_INVADERS, WIDTH
from scipy.stats import t


def read_returns(folder: Path) -> dict[int, float]:
    """Return the mean raw return of the episodes that ended in each window, by its last agent step."""
    with (folder / "training_returns.csv").open() as file:
        return {int(float(row["agent_steps"])): float(row["mean_return"]) for row in csv.DictReader(file)}


def statistics(values: Sequence[float]) -> dict[str, float]:
    """Return the mean over seeds and its 95 % t interval."""
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    middle = float(np.mean(values))
    return {"mean": middle, "low": middle - half, "high": middle + half}


def main() -> None:
    """Read the seeds and write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--published", choices=sorted(SPACE_INVADERS), required=True)
    options = parser.parse_args()
    seeds = {folder.name: read_returns(folder) for folder in sorted(options.results.glob("seed_*"))}
    if not seeds:
        parser.error(f"{options.results} has no folder seed_*: write one with benchmarks/publish.py")
    published = {(k + 1) * WIDTH: statistics(values) for k, values in enumerate(SPACE_INVADERS[options.published])}
    rows: list[dict[str, float]] = []
    for end in sorted(set.intersection(*map(set, seeds.values()))):
        row = {name: windows[end] for name, windows in seeds.items()}
        row |= statistics(list(row.values())) if len(row) > 1 else {}
        row |= {f"published_{name}": value for name, value in published.get(end, {}).items()}
        rows.append({"agent_steps": end} | {name: round(value, 1) for name, value in row.items()})
        print(rows[-1])
    write_rows(options.results / "returns.csv", rows)
    algorithm = tomllib.loads((options.results / next(iter(seeds)) / "config.toml").read_text())["algorithm"]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, windows in seeds.items():
        label = f"q2pi {algorithm}, {name.replace('_', ' ')}"
        axes.plot(list(windows), list(windows.values()), "o-", color="#2f6f9f", alpha=0.6, label=label)
    middle = [found["mean"] for found in published.values()]
    half = [found["high"] - found["mean"] for found in published.values()]
    axes.errorbar(list(published), middle, yerr=half, fmt="s--", color="black", capsize=3, label=options.published)
    axes.set(xlabel="agent steps", ylabel="mean training return of the last 250,000 steps", ylim=(0, None))
    axes.legend()
    figure.savefig(options.results / "returns.png", dpi=130)


if __name__ == "__main__":
    main()
