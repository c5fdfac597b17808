"""Scores of the presets on small worlds over several seeds, each an ordinary run judged on 100 fresh episodes.

    python benchmarks/classic.py [--only dqn/CartPole-v1 ...] [--seeds 5] [--workers 2] [--runs runs/classic]

Runs that are finished already are not trained again. Written: results/classic/scores.json and table.md.
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from q2pi.equations.statistics import bootstrap_interval, mean
from q2pi.rundir import RunDir

RESULTS = Path(__file__).parent.parent / "results" / "classic"
EPISODES = 100
TASKS = {
    "q_learning/Taxi-v3": "",
    "q_learning/q2pi/FrozenLakeNoSlip-v1": "",
    "dqn/CartPole-v1": "RL Zoo DQN 500 (50k steps), CleanRL DQN 488.7 (500k)",
    "reinforce/CartPole-v1": "",
    "actor_critic/CartPole-v1": "",
    "pqn/CartPole-v1": "",
    "ppo/CartPole-v1": "RL Zoo PPO 500 (100k), CleanRL PPO 490.0 (500k)",
    "ppo/Acrobot-v1": "CleanRL PPO -86.4 (500k)",
    "ppo/LunarLander-v3": "RL Zoo PPO 242.1 (1M, v2)",
    "ppo/Pendulum-v1": "",
    "ppo/MountainCarContinuous-v0": "",
}
"""algorithm/environment -> published scores to stand beside ours."""


def folder_of(root: Path, task: str, seed: int) -> Path:
    """Return the run folder of one task and seed."""
    return root / task.replace("/", "-") / str(seed)


def train(root: Path, task: str, seed: int) -> None:
    """Train one run in a process of its own, on one thread, unless it is finished."""
    folder = folder_of(root, task, seed)
    if (folder / "evaluation.json").exists():
        return
    algorithm, env_id = task.split("/", 1)
    command = [sys.executable, "-m", "q2pi.cli", "train", algorithm, "--env-id", env_id, "--seed", str(seed)]
    command += ["--run-dir", str(folder), "--threads", "1", "--evaluation-episodes", str(EPISODES)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    report = json.loads((folder / "evaluation.json").read_text())
    print(f"{task} seed {seed}: mean {report['statistics']['mean']:.2f}", flush=True)


def summarise(root: Path, task: str, seeds: list[int]) -> dict[str, object]:
    """Return the scores of one task: each seed's mean over its episodes, and their mean with its interval."""
    reports, seconds = [], []
    for seed in seeds:
        run = RunDir.open(folder_of(root, task, seed))
        reports.append(json.loads(run.evaluation_file.read_text()))
        seconds.append(run.rows("train")[-1]["elapsed"])
    means = [report["statistics"]["mean"] for report in reports]
    spreads = [report["statistics"]["mean_minus_std"] for report in reports]
    return {
        "agent_steps": reports[0]["step"],
        "policy": reports[0]["protocol"]["policy"],
        "episodes_per_seed": EPISODES,
        "mean_by_seed": means,
        "mean": float(np.mean(means)),
        "interval_over_seeds": list(bootstrap_interval(np.array(means), mean)),
        "lowest_mean_minus_std": min(spreads),
        "minutes_per_seed": float(np.median(seconds)) / 60,
        "published": TASKS[task],
    }


def table(scores: dict[str, dict]) -> str:
    """Return the scores as a Markdown table."""
    head = [
        "Made by `python benchmarks/classic.py`. Means over 100 fresh episodes per seed; 95 % interval over seeds.",
        "Minutes are wall-clock per seed on one thread, evaluation included, two runs side by side.",
        "",
        "| algorithm, environment | steps | seeds | mean [interval] | each | lowest mean - std | minutes | published |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = []
    for task, score in scores.items():
        low, high = score["interval_over_seeds"]
        each = ", ".join(f"{value:.1f}" for value in score["mean_by_seed"])
        rows.append(
            f"| {task.replace('/', ', ', 1)} | {score['agent_steps']:,} | {len(score['mean_by_seed'])} "
            f"| {score['mean']:.1f} [{low:.1f}, {high:.1f}] | {each} | {score['lowest_mean_minus_std']:.1f} "
            f"| {score['minutes_per_seed']:.1f} | {score['published']} |"
        )
    return "\n".join(head + rows) + "\n"


def main() -> None:
    """Train what is missing, then write the scores of everything that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=sorted(TASKS), default=sorted(TASKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/classic"))
    options = parser.parse_args()
    seeds = list(range(1, options.seeds + 1))
    with ThreadPoolExecutor(options.workers) as pool:
        jobs = [pool.submit(train, options.runs, task, seed) for task in options.only for seed in seeds]
        for job in jobs:
            job.result()
    scores = {
        task: summarise(options.runs, task, seeds)
        for task in TASKS
        if all((folder_of(options.runs, task, seed) / "evaluation.json").exists() for seed in seeds)
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    (RESULTS / "table.md").write_text(table(scores))
    print(table(scores))


if __name__ == "__main__":
    main()
