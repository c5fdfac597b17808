"""Training speed on Space Invaders and on CartPole beside the peers, in one run, alternating.

    make bench                                     DQN beside Stable-Baselines3 and CleanRL's loop
    make bench TASK=ppo                            PPO beside Stable-Baselines3
    make bench TASK=classic                        DQN, PPO and A2C on CartPole, one thread, beside Stable-Baselines3

On Space Invaders all train the same algorithm: DQN with batch 32, one update per 4 agent steps, Adam, epsilon 0.05, or
PPO with the RL Zoo's settings (candidates.py); on CartPole all have the RL Zoo's settings, and DQN stands beside a bare
torch loop, too (classic_candidates.py). Each candidate runs in a process of its own; counted is the time between two
agent-step counts after learning has begun and warmed up. Rounds alternate, so a drift of the machine meets all.
Written: results/benchmarks/training_speed.json and .png (ppo_speed, classic_speed). Absolute numbers are of one
machine; quote the ratios, which are to the nearest row of Stable-Baselines3 above.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from candidates import ATARI
from classic_candidates import CLASSIC

CANDIDATES = ATARI | {"classic": CLASSIC}
BARE_LOOP = "bare torch loop of"
PEERS = ("Stable-Baselines3", "CleanRL", "bare torch loop")
"""What the names of candidates begin with that are not ours; they run in the peers' environment."""
RESULTS = Path(__file__).parent.parent / "results" / "benchmarks"
TASKS = {
    "dqn": ("training_speed", "DQN on Space Invaders, batch 32, an update per 4 steps", 2_000, 2),
    "ppo": ("ppo_speed", "PPO on Space Invaders, 8 games x 128 steps, 4 epochs of 4 minibatches", 4_096, 2),
    "classic": ("classic_speed", "DQN, PPO and A2C on CartPole with the RL Zoo's settings", 10_240, 1),
}
"""For each task: name of its files, title, agent steps that are timed, threads."""


def measure(task: str, name: str, peer_python: str, steps: int, threads: int) -> float:
    """Run one candidate in a process of its own and return its agent steps per second."""
    python = peer_python if name.startswith(PEERS) else sys.executable
    command = [python, __file__, "--task", task, "--candidate", name, "--steps", str(steps), "--threads", str(threads)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.splitlines()[-1])


def draw(report: dict, path: Path) -> None:
    """Draw the medians with their ranges, and the ratio to the peer beside each."""
    from matplotlib.figure import Figure

    names = list(report["steps_per_second"])
    figure = Figure(figsize=(8, 0.6 * len(names) + 1.4), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(reversed(names)):
        rounds = report["steps_per_second"][name]
        middle = statistics.median(rounds)
        axes.barh(place, middle, color="#9aa5b1" if name.startswith(PEERS) else "#2f6f9f", height=0.6)
        axes.plot([min(rounds), max(rounds)], [place, place], color="black", linewidth=1.5)
        ratio = report["ratio_to_peer"].get(name)
        axes.text(
            max(rounds) * 1.02, place, f"{middle:.0f}" + (f"  ({ratio['median']:.2f}x)" if ratio else ""), va="center"
        )
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_xlabel("agent steps per second while learning (median, range)")
    axes.margins(x=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{report['title']}, {report['threads']} threads", fontsize=10)
    figure.savefig(path, dpi=140)


def spread(speeds: list[float], base: list[float]) -> dict[str, float]:
    """Return median and range of the ratios of paired rounds."""
    ratios = [a / b for a, b in zip(speeds, base, strict=True)]
    return {"median": float(np.median(ratios)), "min": min(ratios), "max": max(ratios)}


def main() -> None:
    """Measure every candidate in turn, several rounds, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has stable-baselines3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--task", choices=sorted(TASKS), default="dqn")
    parser.add_argument("--steps", type=int, help="agent steps that are timed")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--candidate", help=argparse.SUPPRESS)
    options = parser.parse_args()
    file, title, steps, threads = TASKS[options.task]
    steps, threads, candidates = options.steps or steps, options.threads or threads, CANDIDATES[options.task]
    if options.candidate:
        print(candidates[options.candidate](steps, threads))
        return
    speeds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(options.rounds):
        for name in candidates:
            speeds[name].append(measure(options.task, name, options.peer_python, steps, threads))
            print(f"round {number + 1}  {name:<32} {speeds[name][-1]:6.1f} agent steps/s", flush=True)
    to_peer, to_bare_loop = {}, {}
    for name in candidates:
        if name.startswith("Stable-Baselines3"):
            peer = name
        else:
            to_peer[name] = spread(speeds[name], speeds[peer])
        if (bare := name.replace("q2pi", BARE_LOOP)) != name and bare in speeds:
            to_bare_loop[name] = spread(speeds[name], speeds[bare])
    changed = ("" if options.task == "dqn" else f" TASK={options.task}", f" ROUNDS={options.rounds}")
    report = {
        "command": "make bench" + "".join(changed),
        "title": title,
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "threads": threads,
        "timed_steps": steps,
        "steps_per_second": speeds,
        "ratio_to_peer": to_peer,
        "ratio_to_bare_loop": to_bare_loop,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{file}.json").write_text(json.dumps(report, indent=1) + "\n")
    draw(report, RESULTS / f"{file}.png")
    for base, ratios in (("the peer", to_peer), ("the bare loop", to_bare_loop)):
        for name, ratio in ratios.items():
            print(f"{name:<32} {ratio['median']:.2f} [{ratio['min']:.2f}, {ratio['max']:.2f}] times {base}")


if __name__ == "__main__":
    main()
