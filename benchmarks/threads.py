"""Speed of DQN on Space Invaders by --threads, on idle cores and beside busy processes, in alternating rounds.

    python benchmarks/threads.py

Each measurement is a process of its own: it trains DQN for a warm-up, then times `--steps` agent steps. `--threads 0`
chooses as `q2pi train` does, at the load of its moment. The busy processes are started and ended here. Written:
results/benchmarks/threads.json and threads.md. Quit other programs first.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent.parent / "results" / "benchmarks"
THREADS = (1, 2, 0)
CONDITIONS = {"idle": 0, "beside two busy processes": 2}
"""Condition -> number of busy processes."""


def measure(threads: int, steps: int) -> dict[str, Any]:
    """Return the measurements of training with a value of --threads, and the number that it stands for."""
    from q2pi.runs.benchmark import base_config, training
    from q2pi.runs.threads import choose_threads

    config = base_config({"precision": "fp32", "device": "cpu"}, double=False)
    choice = choose_threads(dataclasses.replace(config, threads=threads))
    measures = training(dataclasses.replace(config, threads=choice.threads), steps)
    learning = measures["share"]["learn"] / measures["steps_per_second"]
    return {
        "threads": choice.threads,
        "steps_per_second": measures["steps_per_second"],
        "learn_ms_per_step": 1e3 * learning,
    }


def measured(threads: int, steps: int) -> dict[str, Any]:
    """Return `measure` from a process of its own: OpenMP keeps the threads that it has once made."""
    command = [sys.executable, __file__, "--measure", str(threads), "--steps", str(steps)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


@contextmanager
def busy(number: int) -> Iterator[None]:
    """Keep `number` processes busy."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in others:
            process.kill()
            process.wait()


def table(report: dict[str, Any]) -> str:
    """Return the medians of a report as a Markdown table."""
    lines = [
        f"DQN on Space Invaders, 8 environments, fp32, {report['steps']:,} agent steps after learning has started, "
        f"{report['rounds']} alternating rounds, medians; `python benchmarks/threads.py`.",
        "",
        "| load | `--threads` | threads used | agent steps/s | ms of learning per agent step |",
        "|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        used = " or ".join(map(str, sorted(set(row["used"]))))
        lines.append(
            f"| {row['condition']} | {row['threads']} | {used} | {median(row['steps_per_second']):,.0f} "
            f"| {median(row['learn_ms_per_step']):.2f} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every value of --threads under every load in turn, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1_000, help="agent steps to time in each measurement")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options.steps)))
        return
    rows: list[dict[str, Any]] = [
        {"condition": condition, "threads": threads, "used": [], "steps_per_second": [], "learn_ms_per_step": []}
        for condition in CONDITIONS
        for threads in THREADS
    ]
    for index in range(options.rounds):
        for row in rows:
            with busy(CONDITIONS[row["condition"]]):
                found = measured(row["threads"], options.steps)
            row["used"].append(found["threads"])
            row["steps_per_second"].append(round(found["steps_per_second"], 2))
            row["learn_ms_per_step"].append(round(found["learn_ms_per_step"], 3))
            print(f"round {index + 1}: {row['condition']}, --threads {row['threads']}: {found}", flush=True)
    report = {"rounds": options.rounds, "steps": options.steps, "rows": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "threads.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / "threads.md").write_text(table(report))
    print(table(report))


if __name__ == "__main__":
    main()
