"""Seconds until a library answers: its import and its help, beside Stable-Baselines3's import, alternating.

    python benchmarks/start_up.py --peer-python .venv-peers/bin/python

Each round starts every command once, in a process of its own; the first round, which fills the caches of the disk, does
not count. Written: results/benchmarks/start_up.json. Absolute seconds are of one machine.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).parent.parent / "results" / "benchmarks"
ROUNDS = 7


def main() -> None:
    """Time every command in turn and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has stable-baselines3")
    options = parser.parse_args()
    q2pi = str(Path(sys.executable).with_name("q2pi"))
    commands = {
        "import stable_baselines3": [options.peer_python, "-c", "import stable_baselines3"],
        "import torch, gymnasium (what both stand on)": [options.peer_python, "-c", "import torch, gymnasium"],
        "import q2pi": [sys.executable, "-c", "import q2pi"],
        "q2pi --help": [q2pi, "--help"],
        "q2pi train --help": [q2pi, "train", "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(1 + ROUNDS):
        for name, command in commands.items():
            begin = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            if number:
                seconds[name].append(round(time.perf_counter() - begin, 3))
    report = {name: {"median_seconds": median(times), "seconds": times} for name, times in seconds.items()}
    for name, row in report.items():
        print(f"{name:<46} {row['median_seconds']:.2f} s")
    (RESULTS / "start_up.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
