"""Scores of the presets on small environments over several seeds, beside published ones.

    q2pi sweep benchmarks/classic.toml --workers 2
    python benchmarks/classic.py runs/classic [--out results/classic]

Each run is evaluated on 100 new episodes at the end of its budget. Scores of tasks that have no finished run in the
folder stay as they are.
Written: scores.json and table.md.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from finished_runs import finished_runs

from q2pi.runs.history import History, evaluation_policy
from q2pi.statistics.scores import bootstrap_interval, mean

COMMAND = "q2pi sweep benchmarks/classic.toml --workers 2 && python benchmarks/classic.py runs/classic"
RESULTS = Path(__file__).parent.parent / "results" / "classic"
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


def summary(task: str, histories: list[History]) -> dict[str, object]:
    """Return the scores of one task: each seed's mean over its episodes, and their mean with its interval."""
    statistics = [history.evaluations[history.total_timesteps] for history in histories]
    means = [each["mean"] for each in statistics]
    return {
        "agent_steps": histories[0].total_timesteps,
        "policy": evaluation_policy(histories[0].run),
        "episodes_per_seed": statistics[0]["n"],
        "mean_by_seed": means,
        "mean": float(np.mean(means)),
        "interval_over_seeds": list(bootstrap_interval(np.array(means), mean)),
        "lowest_mean_minus_std": min(each["mean_minus_std"] for each in statistics),
        "minutes_per_seed": float(np.median([history.train[-1]["wall_seconds"] for history in histories])) / 60,
        "published": TASKS[task],
    }


def table(scores: dict[str, dict]) -> str:
    """Return the scores as a Markdown table."""
    head = [
        f"Made by `{COMMAND}`.",
        "Means over 100 new episodes per seed; 95 % interval over seeds.",
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
            f"| {_label(task)} | {score['agent_steps']:,} | {len(score['mean_by_seed'])} "
            f"| {score['mean']:.1f} [{low:.1f}, {high:.1f}] | {each} | {score['lowest_mean_minus_std']:.1f} "
            f"| {score['minutes_per_seed']:.1f} | {score['published']} |"
        )
    return "\n".join(head + rows) + "\n"


def _label(task: str) -> str:
    """Return the name of a task's row; the preset of dqn is Double DQN."""
    algorithm, env_id = task.split("/", 1)
    return f"{'dqn (Double DQN)' if algorithm == 'dqn' else algorithm}, {env_id}"


def main() -> None:
    """Read the runs and write the scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder of the sweep's runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    by_task: dict[str, list[History]] = {}
    for history in finished_runs(options.runs):
        by_task.setdefault(f"{history.algorithm}/{history.env_id}", []).append(history)
    file = options.out / "scores.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    known |= {task: summary(task, by_task[task]) for task in TASKS if task in by_task}
    scores = {task: known[task] for task in TASKS if task in known}
    options.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(scores, indent=1) + "\n")
    (options.out / "table.md").write_text(table(scores))
    print(table(scores))


if __name__ == "__main__":
    main()
