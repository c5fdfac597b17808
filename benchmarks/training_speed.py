"""Training speed of DQN on Space Invaders beside Stable-Baselines3, in one session, alternating.

    make bench

Both train the same algorithm: the Nature network, batch 32, one update per 4 agent steps, Adam, epsilon 0.05, fp32, the
same number of threads, on the same machine. Each contender runs in a process of its own; counted is the time between
two agent-step counts after learning has begun and warmed up. Rounds alternate, so a drift of the machine meets both.
Written: results/benchmarks/training_speed.json and .png. Absolute numbers are of one machine; quote the ratios.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent.parent / "results" / "benchmarks"
STARTS, WARM_UP = 1_000, 400
CONTENDERS = {
    "Stable-Baselines3 DQN, 1 game": ("sb3", {}),
    "q2pi DQN, fp32, 1 game": ("q2pi", {"num_envs": 1, "precision": "fp32"}),
    "q2pi DQN, fp32, 8 games": ("q2pi", {"num_envs": 8, "precision": "fp32"}),
    "q2pi DQN, bf16, 8 games": ("q2pi", {"num_envs": 8, "precision": "bf16"}),
}


def q2pi_speed(steps: int, threads: int, num_envs: int, precision: str) -> float:
    """Return agent steps per second of our loop while it learns."""
    from q2pi.api import override
    from q2pi.loop import Progress, run
    from q2pi.presets import configure

    config, _ = configure("dqn", "SpaceInvaders", "nature")
    options = {
        "total_timesteps": STARTS + WARM_UP + steps,
        "num_envs": num_envs,
        "precision": precision,
        "threads": threads,
        "log_frequency": 200,
        "checkpoint_frequency": 0,
        "evaluation_frequency": 0,
        "evaluation_episodes": 0,
        "learning_starts": STARTS,
        "buffer_size": 10_000,
        "double": False,
        "start_e": 0.05,
        "end_e": 0.05,
    }
    began = (0, 0.0)
    for event in run(override(config, options)):
        if isinstance(event, Progress):
            now = (event.step, time.perf_counter())
            if event.step <= STARTS + WARM_UP:
                began = now
    return (now[0] - began[0]) / (now[1] - began[1])


def sb3_speed(steps: int, threads: int) -> float:
    """Return agent steps per second of Stable-Baselines3's DQN while it learns."""
    import ale_py
    import gymnasium
    import torch
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    gymnasium.register_envs(ale_py)
    torch.set_num_threads(threads)
    times: dict[int, float] = {}

    class Stopwatch(BaseCallback):
        def _on_step(self) -> bool:
            times[self.num_timesteps] = time.perf_counter()
            return True

    env = VecFrameStack(make_atari_env("SpaceInvadersNoFrameskip-v4", n_envs=1, seed=1), n_stack=4)
    model = DQN(
        "CnnPolicy",
        env,
        learning_rate=1e-4,
        buffer_size=10_000,
        learning_starts=STARTS,
        batch_size=32,
        train_freq=4,
        gradient_steps=1,
        target_update_interval=1_000,
        exploration_initial_eps=0.05,
        exploration_final_eps=0.05,
        optimize_memory_usage=False,
        seed=1,
        device="cpu",
    )
    total = STARTS + WARM_UP + steps
    model.learn(total, callback=Stopwatch())
    return steps / (times[total] - times[STARTS + WARM_UP])


def measure(name: str, peer_python: str, steps: int, threads: int) -> float:
    """Run one contender in a process of its own and return its agent steps per second."""
    python = peer_python if CONTENDERS[name][0] == "sb3" else sys.executable
    command = [python, __file__, "--contender", name, "--steps", str(steps), "--threads", str(threads)]
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
        axes.barh(place, middle, color="#9aa5b1" if "Stable" in name else "#2f6f9f", height=0.6)
        axes.plot([min(rounds), max(rounds)], [place, place], color="black", linewidth=1.5)
        ratio = report["ratio_to_peer"].get(name)
        axes.text(
            max(rounds) * 1.02, place, f"{middle:.0f}" + (f"  ({ratio['median']:.2f}x)" if ratio else ""), va="center"
        )
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_xlabel("agent steps per second while learning (median, range)")
    axes.margins(x=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"DQN on Space Invaders, batch 32, an update per 4 steps, {report['threads']} threads", fontsize=11)
    figure.savefig(path, dpi=140)


def main() -> None:
    """Measure every contender in turn, several rounds, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has stable-baselines3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2_000, help="agent steps that are timed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        kind, settings = CONTENDERS[options.contender]
        speed = sb3_speed if kind == "sb3" else q2pi_speed
        print(speed(options.steps, options.threads, **settings))
        return
    speeds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for number in range(options.rounds):
        for name in CONTENDERS:
            speeds[name].append(measure(name, options.peer_python, options.steps, options.threads))
            print(f"round {number + 1}  {name:<32} {speeds[name][-1]:6.1f} agent steps/s", flush=True)
    peer = next(iter(CONTENDERS))
    ratios = {
        name: [a / b for a, b in zip(speeds[name], speeds[peer], strict=True)] for name in CONTENDERS if name != peer
    }
    report = {
        "command": "make bench",
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "threads": options.threads,
        "timed_steps": options.steps,
        "steps_per_second": speeds,
        "ratio_to_peer": {
            name: {"median": float(np.median(r)), "min": min(r), "max": max(r)} for name, r in ratios.items()
        },
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "training_speed.json").write_text(json.dumps(report, indent=1) + "\n")
    draw(report, RESULTS / "training_speed.png")
    for name, ratio in report["ratio_to_peer"].items():
        print(f"{name:<32} {ratio['median']:.2f}x  [{ratio['min']:.2f}, {ratio['max']:.2f}]")


if __name__ == "__main__":
    main()
