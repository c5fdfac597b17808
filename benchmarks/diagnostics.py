"""What `q2pi train --diagnostics` costs: its share of a run's CPU seconds.

    python benchmarks/diagnostics.py [--rounds 3] [--out diagnostics.json]

A row of diagnostics is written with each row of metrics, at the frequency of the preset. Two numbers per task: the CPU
seconds that the diagnostics themselves count (`seconds` of diagnostics.csv) over those of the whole training, and the
CPU seconds of a run with diagnostics over those of the same run without, alternating, median over rounds. Training
without evaluations and on one thread, so that the share is not made smaller by other work.
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


def seconds(algorithm: str, env_id: str, options: dict[str, Any], file: Path | None) -> float:
    """Train once, with diagnostics if there is a file for them; return the CPU seconds of the training."""
    config, _ = configure(algorithm, env_id)
    made = resolve(override(config, COMMON | options))
    start = time.process_time()
    execute(made, None, sinks=[] if file is None else [Monitor(file)])
    return time.process_time() - start


def measure(algorithm: str, env_id: str, options: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Return the shares of one task."""
    shares, ratios, rows = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            file = Path(folder) / f"{number}.csv"
            without = seconds(algorithm, env_id, options, None)
            with_diagnostics = seconds(algorithm, env_id, options, file)
            found = list(csv.DictReader(file.open()))
            rows = len(found)
            shares.append(float(found[-1]["seconds"]) / with_diagnostics)
            ratios.append(with_diagnostics / without)
    return {"rows": rows, "share": statistics.median(shares), "shares": shares, "ratio": statistics.median(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="file for the numbers")
    options = parser.parse_args()
    found = {name: measure(*task, options.rounds) for name, task in TASKS.items()}
    for name, numbers in found.items():
        print(f"{name}: {numbers['share']:.2%} of the CPU seconds, {numbers['ratio']:.3f} times those without")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
