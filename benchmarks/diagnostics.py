"""What `q2pi train --diagnostics` costs: its share of a run's CPU seconds.

    python benchmarks/diagnostics.py [--rounds 3] [--out diagnostics.json]

A row of diagnostics is written with each row of metrics, at the frequency of the preset. The share is the CPU seconds
that the diagnostics themselves count (`seconds` of diagnostics.csv) over those of the whole training, without
evaluations and on one thread, so that other work does not make it smaller; median over rounds.
"""

import argparse
import csv
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from q2pi.config import override, resolve
from q2pi.lab.monitor import Monitor
from q2pi.runs.execute import execute
from q2pi.training.presets import configure

TASKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "DQN on CartPole": ("dqn", "CartPole-v1", {"total_timesteps": 20_000}),
    "PPO on CartPole": ("ppo", "CartPole-v1", {"total_timesteps": 40_000}),
    "DQN on Space Invaders": ("dqn", "SpaceInvaders", {"total_timesteps": 6_000, "learning_starts": 500}),
}
COMMON: dict[str, Any] = {"threads": 1, "device": "cpu", "evaluation_episodes": 0, "checkpoint_frequency": 0}


def measure(algorithm: str, env_id: str, options: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Return the shares of one task."""
    config, _ = configure(algorithm, env_id)
    made = resolve(override(config, COMMON | options))
    shares, rows = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            file = Path(folder) / f"{number}.csv"
            start = time.process_time()
            execute(made, None, sinks=[Monitor(file)])
            whole = time.process_time() - start
            found = list(csv.DictReader(file.open()))
            rows = len(found)
            shares.append(float(found[-1]["seconds"]) / whole)
    return {"rows": rows, "share": statistics.median(shares), "shares": shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="file for the numbers")
    options = parser.parse_args()
    found = {name: measure(*task, options.rounds) for name, task in TASKS.items()}
    for name, numbers in found.items():
        print(f"{name}: {numbers['share']:.2%} of the CPU seconds in {numbers['rows']} rows")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
