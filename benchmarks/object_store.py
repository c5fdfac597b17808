"""Bytes in Ray's object store, and memory of the processes, while two actors feed a learner for many minutes.

    python benchmarks/object_store.py [--minutes 20]

Double DQN on Space Invaders, two actors with two environments each, messages of 8 rows, so that many messages pass. The
replay is full before the first half ends. Written: results/scale/object_store.json.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import psutil

from q2pi.algorithms.registry import default_config
from q2pi.config import override, resolve
from q2pi.runs.ray_actors import RayPool
from q2pi.runs.ray_connection import connect, disconnect
from q2pi.training.actors import Actors
from q2pi.training.loop import run

RESULTS = Path(__file__).parent.parent / "results" / "scale"
OPTIONS = {
    "env_id": "SpaceInvaders",
    "double": True,
    "device": "cpu",
    "threads": 1,
    "actors": 2,
    "num_envs": 2,
    "actor_steps": 4,
    "train_frequency": 16,
    "learning_starts": 1_000,
    "buffer_size": 5_000,
    "total_timesteps": 10_000_000,
    "evaluation_episodes": 0,
    "checkpoint_frequency": 0,
}
SECONDS = 10.0
"""Seconds between two samples."""


class Sampled(RayPool):
    """A pool that samples the object store and the memory of the processes."""

    def __init__(self) -> None:
        super().__init__()
        self.messages = 0
        self.begin = self.next = time.monotonic()
        self.samples: list[dict[str, float]] = []

    def receive(self) -> Any:
        received = super().receive()
        self.messages += 1
        if time.monotonic() >= self.next:
            self.next += SECONDS
            self.samples.append(self.sample())
            print(self.samples[-1], flush=True)
        return received

    def sample(self) -> dict[str, float]:
        import ray

        total, free = ray.cluster_resources(), ray.available_resources()
        actors = [psutil.Process(ray.get(actor.pid.remote())).memory_info().rss for actor in self.actors.values()]
        return {
            "seconds": time.monotonic() - self.begin,
            "messages": self.messages,
            "store_bytes": total["object_store_memory"] - free.get("object_store_memory", 0.0),
            "learner_bytes": psutil.Process().memory_info().rss,
            "actor_bytes": max(actors),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="minutes to train")
    minutes = parser.parse_args().minutes
    connect("local", 2)
    try:
        pool = Sampled()
        config = resolve(override(default_config("dqn"), OPTIONS))
        events = run(config, source=Actors(config, pool))
        for _ in events:
            if time.monotonic() - pool.begin > 60 * minutes:
                break
        events.close()
    finally:
        disconnect()
    half = len(pool.samples) // 2
    greatest = {
        f"{name}, {part} half": max(sample[name] for sample in samples)
        for name in ("store_bytes", "learner_bytes", "actor_bytes")
        for part, samples in (("first", pool.samples[:half]), ("second", pool.samples[half:]))
    }
    report = {
        "command": f"python benchmarks/object_store.py --minutes {minutes:g}",
        "messages": pool.messages,
        "greatest": greatest,
        "samples": pool.samples,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "object_store.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(greatest, indent=1))


if __name__ == "__main__":
    main()
