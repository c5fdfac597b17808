"""Scores of the presets on small environments over several seeds, each an ordinary run evaluated on 100 new episodes.

    python benchmarks/classic.py [--only dqn/CartPole-v1 ...] [--seeds 5] [--workers 2] [--runs runs/classic]

Runs that are finished already are not trained again, those cut short are continued; scores of tasks that have no runs
there stay as they are. Written: results/classic/scores.json and table.md.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from jobs import run_all

from q2pi.config import override, resolve
from q2pi.parallel.executor import Job
from q2pi.runs.execute import is_finished, run_job
from q2pi.runs.folder import RunFolder
from q2pi.statistics.scores import bootstrap_interval, mean
from q2pi.training.presets import configure

RESULTS = Path(__file__).parent.parent / "results" / "classic"
EPISODES = 100
TASKS = {
    "q_learning/Taxi-v3": "",
    "q_learning/q2pi/FrozenLakeNoSlip-v1": "",
    "dqn/CartPole-v1": "RL Zoo DQN 500 (50k steps), CleanRL DQN 488.7 (500k)",
    "reinforce/CartPole-v1": "",
    "a2c/CartPole-v1": "",
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


def training(root: Path, task: str, seed: int) -> Job:
    """Return the job that trains one run on one thread, or what is left of it."""
    config, _ = configure(*task.split("/", 1))
    options = {"seed": seed, "threads": 1, "evaluation_episodes": EPISODES}
    return run_job(f"{task} seed {seed}", folder_of(root, task, seed), resolve(override(config, options)))


def summarise(root: Path, task: str, seeds: list[int]) -> dict[str, object]:
    """Return the scores of one task: each seed's mean over its episodes, and their mean with its interval."""
    reports, seconds = [], []
    for seed in seeds:
        run = RunFolder.open(folder_of(root, task, seed))
        reports.append(json.loads(run.evaluation_file.read_text()))
        seconds.append(run.rows("train")[-1]["wall_seconds"])
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
        "Made by `python benchmarks/classic.py`. Means over 100 new episodes per seed; 95 % interval over seeds.",
        "Minutes are wall-clock per seed on one thread, evaluation included, two runs in parallel.",
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
    run_all([training(options.runs, task, seed) for task in options.only for seed in seeds], options.workers)
    file = RESULTS / "scores.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    known |= {
        task: summarise(options.runs, task, seeds)
        for task in TASKS
        if all(is_finished(folder_of(options.runs, task, seed)) for seed in seeds)
    }
    scores = {task: known[task] for task in TASKS if task in known}
    RESULTS.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(scores, indent=1) + "\n")
    (RESULTS / "table.md").write_text(table(scores))
    print(table(scores))


if __name__ == "__main__":
    main()
