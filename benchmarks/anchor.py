"""Training returns of one or several seeds beside a published curve: a table with intervals over seeds, and a figure.

    python benchmarks/anchor.py RUN RUN ... --out results/NAME --published "Dopamine DQN (Adam + MSE), 5 seeds"

A window is what the published curve uses: the 250,000 agent steps that end at the point. Written: returns.csv,
returns.png. `benchmarks/publish.py` keeps the evidence of each run.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from publish import PUBLISHED, write_rows
from scipy.stats import t

from q2pi.runs.folder import RunFolder

WIDTH = 250_000
POINTS = {name: points for group in PUBLISHED.values() for name, points in group.items()}


def window_means(run: RunFolder) -> dict[int, float]:
    """Return the mean raw return of the episodes that ended in each window, by its last agent step."""
    episodes = run.rows("episode")
    ends = range(WIDTH, int(run.rows("train")[-1]["step"]) + 1, WIDTH)
    return {
        end: float(np.mean([row["return"] for row in episodes if end - WIDTH < row["step"] <= end])) for end in ends
    }


def main() -> None:
    """Read the runs and write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="of different seeds")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--published", choices=sorted(POINTS), required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    runs = [RunFolder.open(run) for run in options.runs]
    tables = [run.table() for run in runs]
    seeds = {table["seed"]: window_means(run) for table, run in zip(tables, runs, strict=True)}
    published = dict(POINTS[options.published])
    rows = []
    for end in sorted(set.intersection(*map(set, seeds.values()))):
        means = np.array([windows[end] for windows in seeds.values()])
        row = {"agent_steps": end, "published": published.get(end, "")}
        row |= {f"seed_{seed}": value for seed, value in zip(seeds, means, strict=True)}
        if len(means) > 1:
            half = t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / len(means) ** 0.5
            row |= {"mean": means.mean(), "low": means.mean() - half, "high": means.mean() + half}
        rows.append({name: round(float(value), 1) if value != "" else "" for name, value in row.items()})
        print(rows[-1])
    write_rows(options.out / "returns.csv", rows)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for seed, windows in seeds.items():
        label = f"q2pi {tables[0]['algorithm']}, seed {seed}"
        axes.plot(list(windows), list(windows.values()), "o-", color="#2f6f9f", alpha=0.6, label=label)
    axes.plot(list(published), list(published.values()), "s--", color="black", label=options.published)
    axes.set(xlabel="agent steps", ylabel="mean training return of the last 250,000 steps", ylim=(0, None))
    axes.legend()
    figure.savefig(options.out / "returns.png", dpi=130)


if __name__ == "__main__":
    main()
