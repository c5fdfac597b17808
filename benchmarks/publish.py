"""Keep the evidence of a run under results/: small files, made from the run folder alone.

    python benchmarks/publish.py RUN results/NAME [--width 250000] [--published space-invaders-sticky]

Written: config.toml, curve.csv (windows of agent steps), training_returns.csv (wide windows, with intervals),
evaluation.json, evaluations.csv, the figures, and the acting network's weights in half precision. The README.md
beside them names the command that made the run.
"""

import argparse
import csv
import shutil
from pathlib import Path

import numpy as np
import torch
from published import SPACE_INVADERS, mean_curve
from safetensors.torch import save_file

from q2pi.reports.learning_curves import learning_curves, published_comparison
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint
from q2pi.statistics.scores import bootstrap_interval, mean

WINDOW = 10_000
SCALARS = ("loss", "q", "policy_loss", "value_loss", "entropy")
TRAINED = ("online", "actor_critic", "policy")
"""Names of the trained network that acts; an algorithm has one of them."""
PUBLISHED = {"space-invaders-sticky": {name: mean_curve(name) for name in SPACE_INVADERS}}
"""Group -> name -> (last agent step of a window, mean training return)."""


def write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    """Write rows of equal keys as CSV; no file if there are none."""
    if rows:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def curve(run: RunFolder, window: int = WINDOW) -> list[dict[str, float]]:
    """Return one row per window: mean raw return and length of the episodes that ended in it, mean scalars."""
    episodes, updates = run.rows("episode"), run.rows("train")
    rows = []
    for end in range(window, int(max(row["step"] for row in updates)) + 1, window):
        ended = [row for row in episodes if end - window < row["step"] <= end]
        learned = [row for row in updates if end - window < row["step"] <= end and row.get("updates")]
        count = sum(row["updates"] for row in learned)
        row = {"agent_steps": end, "episodes": len(ended)}
        for name in ("return", "length"):
            row[f"mean_{name}"] = round(sum(e[name] for e in ended) / len(ended), 3) if ended else ""
        for name in [name for name in SCALARS if any(name in update for update in updates)]:
            row[name] = round(sum(r[name] * r["updates"] for r in learned) / count, 6) if count else ""
        row["seconds"] = round(max((r["wall_seconds"] for r in learned), default=0.0), 1)
        rows.append(row)
    return rows


def training_returns(run: RunFolder, width: int) -> list[dict[str, float]]:
    """Return one row per wide window: mean raw return of its episodes and the 95 % bootstrap interval over them."""
    episodes = run.rows("episode")
    rows = []
    for end in range(width, int(run.rows("train")[-1]["step"]) + 1, width):
        returns = np.array([row["return"] for row in episodes if end - width < row["step"] <= end])
        low, high = bootstrap_interval(returns, mean)
        row = {"agent_steps": end, "episodes": len(returns), "mean_return": returns.mean(), "low": low, "high": high}
        rows.append({name: round(float(value), 1) for name, value in row.items()})
    return rows


def main() -> None:
    """Read one run and write its evidence."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--width", type=int, default=250_000, help="agent steps of a wide window")
    parser.add_argument("--published", choices=sorted(PUBLISHED), help="draw the run beside these published points")
    options = parser.parse_args()
    run, folder = RunFolder.open(options.run), options.results
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(run.config_file, folder / "config.toml")
    write_rows(folder / "curve.csv", curve(run))
    write_rows(folder / "training_returns.csv", training_returns(run, options.width))
    if run.evaluation_file.exists():
        shutil.copy(run.evaluation_file, folder / "evaluation.json")
    evaluations = [{"agent_steps": row["step"]} | row["statistics"] for row in run.rows("evaluation")]
    write_rows(folder / "evaluations.csv", evaluations)
    learning_curves([run], folder / "learning_curve.png")
    if options.published:
        picture = folder / "beside_published.png"
        published_comparison(run, PUBLISHED[options.published], picture, width=options.width)
    _, state, _, _ = load_checkpoint(run)
    network = next(state["agent"][name] for name in TRAINED if name in state["agent"])
    weights = {name.replace("/", "."): tensor.to(torch.float16) for name, tensor in network.items()}
    save_file(weights, folder / "weights.safetensors")
    (folder / "weights.safetensors").chmod(0o644)
    print(folder)


if __name__ == "__main__":
    main()
