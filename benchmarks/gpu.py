"""The GPU programme in one call of under nine minutes: is it right, how fast is it, does it learn.

    python benchmarks/gpu.py [--out results/gpu] [--minutes 5]
    python benchmarks/gpu.py --device cpu --quick --out gpu            the same programme in small, without a GPU

Written: correctness.json (losses of the same updates on the CPU and on the device), speed.json (agent steps per second
of each variant, of emulators and of updates alone, and of Stable-Baselines3's DQN on the same device where it is
installed), and for a training run on Space Invaders its config, curve, evaluation and figure.
"""

import argparse
import importlib.util
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from publish import curve, write_rows

from q2pi.config import override, resolve
from q2pi.envs.make import make_envs
from q2pi.reports.learning_curves import learning_curves
from q2pi.runs import benchmark as bench
from q2pi.runs.execute import execute
from q2pi.runs.folder import RunFolder
from q2pi.training.events import Finished, Progress
from q2pi.training.loop import run
from q2pi.training.presets import configure

VARIANTS = [(32, "fp32"), (8, "bf16"), (32, "bf16"), (128, "bf16")]
"""Parallel environments and precision."""


def losses(device: str, updates: int) -> list[float]:
    """Return the loss of each update of a run whose actions are all random, so that every device sees the same data."""
    config = bench.base_config({"device": device, "precision": "fp32", "num_envs": 4})
    options = {"total_timesteps": bench.STARTS + 4 * updates, "log_frequency": 4, "start_e": 1.0, "end_e": 1.0}
    rows = [event.metrics for event in run(resolve(override(config, options))) if isinstance(event, Progress)]
    return [row["loss"] for row in rows if row.get("updates")]


def correctness(device: str, updates: int) -> dict[str, Any]:
    """Return the losses on the CPU and on the device."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    cpu, other = losses("cpu", updates), losses(device, updates)
    differences = [abs(a - b) / max(abs(a), 1e-6) for a, b in zip(cpu, other, strict=True)]
    return {
        "updates": len(cpu),
        "largest_relative_difference_of_the_first_10": max(differences[:10]),
        "largest_relative_difference": max(differences),
        "cpu": cpu,
        device: other,
    }


def alone(device: str, games: int, steps: int) -> dict[str, Any]:
    """Return the bounds on speed: the emulators without learning, and updates without emulators."""
    config = bench.base_config({"device": device, "precision": "bf16"})
    emulators = make_envs(config.env, games, 1)
    emulators.reset()
    actions = np.random.default_rng(0)
    began = time.perf_counter()
    for _ in range(steps // games):
        emulators.send(actions.integers(emulators.action_space.n, size=games))
        emulators.recv()
    rate = steps // games * games / (time.perf_counter() - began)
    emulators.close()
    update = bench.update(config, max(10, steps // 50))
    return {"emulators": {"num_envs": games, "steps_per_second": rate}, "update": update}


def peer(device: str, steps: int) -> float | None:
    """Return agent steps per second of Stable-Baselines3's DQN, one game, if it is installed."""
    if importlib.util.find_spec("stable_baselines3") is None:
        return None
    from candidates import sb3_dqn

    return sb3_dqn(steps, torch.get_num_threads(), device)


def train(device: str, games: int, precision: str, seconds: float, rate: float, out: Path) -> dict[str, Any]:
    """Train Double DQN under the machado protocol for about `seconds` and keep its evidence."""
    steps = max(4_000, int(seconds * rate) // 1_000 * 1_000)
    config, _ = configure("dqn", "SpaceInvaders", "machado")
    options: dict[str, Any] = {"total_timesteps": steps, "num_envs": games, "device": device, "precision": precision}
    options["double"] = True
    options |= {"buffer_size": min(1_000_000, steps), "learning_starts": min(20_000, steps // 4)}
    options |= {"exploration_fraction": min(1.0, 250_000 / steps), "checkpoint_frequency": 0}
    folder = out / "run"
    last = execute(resolve(override(config, options)), folder)
    assert isinstance(last, Finished), f"{folder} holds a finished run: remove it or name another --out"
    seconds_spent = sum(last.seconds.values())
    ran = RunFolder.open(folder)
    for file in (ran.config_file, ran.evaluation_file):
        shutil.copy(file, out / file.name)
    write_rows(out / "curve.csv", curve(ran))
    learning_curves([ran], out / "learning_curve.png")
    return {"agent_steps": steps, "seconds": seconds_spent, "steps_per_second": steps / seconds_spent}


def main() -> None:
    """Run the three parts and write the result of each at once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--minutes", type=float, default=5.0, help="of the training run")
    parser.add_argument("--quick", action="store_true", help="everything in small")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    def keep(name: str, result: Any) -> None:
        (options.out / name).write_text(json.dumps(result, indent=1) + "\n")
        print(f"{name} after {time.perf_counter() - began:.0f} s", flush=True)

    began = time.perf_counter()
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    keep("correctness.json", {"device": name} | correctness(options.device, 10 if options.quick else 200))
    steps = 200 if options.quick else 20_000
    speeds: list[dict[str, Any]] = []
    report: dict[str, Any] = {"device": name, "cores": os.cpu_count(), "variants": speeds}
    report["alone"] = alone(options.device, 32, steps)
    report["peer"] = [peer(options.device, max(100, steps // 20))]
    for games, precision in VARIANTS[:1] if options.quick else VARIANTS:
        config = bench.base_config({"device": options.device, "precision": precision, "num_envs": games})
        speeds.append(bench.training(config, steps))
        print(f"{games} games, {precision}: {speeds[-1]['steps_per_second']:.0f} agent steps/s", flush=True)
        keep("speed.json", report)
    report["peer"].append(peer(options.device, max(100, steps // 20)))
    keep("speed.json", report)
    best = max(speeds, key=lambda measures: measures["steps_per_second"])
    seconds = 10.0 if options.quick else 60 * options.minutes
    keep(
        "training.json",
        train(options.device, best["num_envs"], best["precision"], seconds, best["steps_per_second"], options.out),
    )


if __name__ == "__main__":
    main()
