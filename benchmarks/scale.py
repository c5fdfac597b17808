"""Costs of actors on Ray on this machine: bytes per row, weight broadcast, learner's rows per second, start of Ray.

    python benchmarks/scale.py [--steps 4000]

Double DQN on Space Invaders with the preset's network, two CPU cores. Written: results/scale/measured.json, which
`scale_simulation.py` reads. Run it on a machine that is otherwise idle: the report has the load before it started.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from q2pi.algorithms.registry import default_config
from q2pi.config import ResolvedConfig, override, resolve, to_table
from q2pi.parallel.executor import Job
from q2pi.runs.ray import RayCluster
from q2pi.runs.ray_actors import RayPool
from q2pi.runs.ray_connection import connect, disconnect
from q2pi.training.actors import Actor, Actors, Rows
from q2pi.training.events import Finished
from q2pi.training.loop import run

RESULTS = Path(__file__).parent.parent / "results" / "scale"
OPTIONS = {
    "env_id": "SpaceInvaders",
    "num_envs": 4,
    "double": True,
    "device": "cpu",
    "threads": 1,
    "evaluation_episodes": 0,
    "checkpoint_frequency": 0,
    "buffer_size": 50_000,
}
MESSAGES = 20


def echo(arguments: dict[str, Any], emit: Any, stop: Any) -> dict[str, Any]:
    """Task of a job that does nothing."""
    return arguments


def config(steps: int, **changes: Any) -> ResolvedConfig[Any]:
    """Return a run of `steps` agent steps that learns from its first quarter on."""
    options = OPTIONS | {"total_timesteps": steps, "learning_starts": steps // 4} | changes
    return resolve(override(default_config("dqn"), options))


def timed(task: Any) -> tuple[float, Any]:
    """Return (core seconds of this process, result) of a call."""
    start = time.process_time()
    result = task()
    return time.process_time() - start, result


class Requested:
    """A pool without actors, for the learner's own costs: it hands out messages that were collected before."""

    def __init__(self, rows: list[Rows]) -> None:
        self.rows = rows

    def start(self, table: dict[str, Any], index: int, seed: int) -> None: ...

    def publish(self, version: int, weights: Any) -> None: ...

    def request(self, index: int, step: int) -> None: ...

    def receive(self) -> tuple[int, Rows]:
        return 0, self.rows.pop(0)

    def close(self) -> None: ...


def parts(steps: int) -> dict[str, Any]:
    """Measure an actor's message, and the learner's time to read it and to learn from it."""
    made = config(steps, actors=1)
    actor = Actor(to_table(made), 0, 1)
    weights = {name: tensor.numpy() for name, tensor in actor.agent.acting_network.state_dict().items()}
    # epsilon falls with the step: late steps have a forward pass each, which is the greater cost
    late = [timed(lambda index=index: actor.collect(steps, index, weights))[0] for index in range(MESSAGES + 2)]
    actor.close()
    # Random actions (step 0: epsilon is 1): an untrained network repeats one action, and the frames of all environments
    # would be the same.
    exploring = Actor(to_table(made), 0, 1)
    rows = [exploring.collect(0, index, weights) for index in range(MESSAGES + 2)]
    exploring.close()
    count = rows[0].reward.size
    learner = Actors(made, Requested(list(rows)))
    agent, _, _ = learner.start(None)
    read = []
    for _ in range(MESSAGES):
        seconds, _ = timed(lambda: [agent.observe(*learner.recv()) for _ in range(rows[0].reward.shape[0])])
        read.append(seconds)
    first = made.hyper.learning_starts
    agent.learn(first + 4)
    due = [timed(lambda index=index: agent.learn(first + 4 + (index + 1) * count))[0] for index in range(5)]
    frame = int(np.prod(agent.spec.frame_shape))
    return {
        "rows": count,
        "collect": median(late[2:]),
        "read": median(read),
        "learn": median(due),
        "message_bytes": int(median(message.nbytes for message in rows[2:])),
        "weight_bytes": sum(array.nbytes for array in weights.values()),
        "raw_bytes_per_row": frame + 8 + 4 + 3,
    }


def broadcast(steps: int) -> dict[str, float]:
    """Measure a version of the weights: put into the object store by the learner, loaded by two actors."""
    made = config(steps, actors=2, actor_steps=1)
    connect("local", 2)
    try:
        pool = RayPool()
        source = Actors(dataclasses.replace(made, actor_steps=0), pool)
        source.start(None)
        puts, trips, old = [], [], []
        for index in range(MESSAGES):
            start = time.perf_counter()
            source._publish()
            puts.append(time.perf_counter() - start)
            for times in (trips, old):  # the first request loads the new weights, the second has them
                start = time.perf_counter()
                for actor in range(2):
                    pool.request(actor, index)
                for _ in range(2):
                    pool.receive()
                times.append(time.perf_counter() - start)
        pool.close()
    finally:
        disconnect()
    return {"put": median(puts), "load": max(0.0, median(trips) - median(old)), "round_trip": median(old)}


def rates(steps: int) -> dict[str, Any]:
    """Measure whole runs: without actors, with one, and with two."""
    results = {}
    for count in (0, 1, 2):
        made = config(steps, actors=count)
        begin = time.perf_counter()
        if count:
            connect("local", count)
        connected = time.perf_counter()
        times = []
        try:
            source = Actors(made, RayPool()) if count else None
            for event in run(made, source=source):
                times.append((event.step, time.perf_counter()))
                if isinstance(event, Finished):
                    seconds = event.seconds
        finally:
            if count:
                disconnect()
        learning = [(step, at) for step, at in times if step >= steps // 3]
        (first, since), (last, until) = learning[0], learning[-1]
        results[f"{count} actors"] = {
            "rows_per_second": (last - first) / (until - since),
            "seconds_to_connect": connected - begin,
            "seconds": seconds,
        }
    return results


def overhead() -> dict[str, float]:
    """Measure what Ray costs at small scale: the start of a cluster, and a job that does nothing."""
    begin = time.perf_counter()
    with RayCluster("local", cpus=1) as cluster:
        started = time.perf_counter()
        list(cluster.run([Job("first", "scale:echo", {})]))
        first = time.perf_counter()
        list(cluster.run([Job("second", "scale:echo", {})]))
        second = time.perf_counter()
    from q2pi.parallel.local import LocalProcesses

    end = time.perf_counter()
    list(LocalProcesses(1).run([Job("local", "scale:echo", {})]))
    return {
        "start": started - begin,
        "first_job": first - started,
        "next_job": second - first,
        "job_without_ray": time.perf_counter() - end,
    }


def main() -> None:
    """Measure everything and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4_000, help="agent steps of each whole run")
    options = parser.parse_args()
    load = os.getloadavg()
    costs = parts(options.steps)
    weights = broadcast(options.steps)
    costs["publish"] = weights["put"]
    report = {
        "command": f"python benchmarks/scale.py --steps {options.steps}",
        "load_before": load,
        "cores": os.cpu_count(),
        "bytes_per_row": costs["message_bytes"] / costs["rows"],
        "raw_bytes_per_row": costs.pop("raw_bytes_per_row"),
        "learner_rows_per_second": costs["rows"] / (costs["read"] + costs["learn"]),
        "weight_broadcast_milliseconds": {name: 1_000 * seconds for name, seconds in weights.items()},
        "costs": costs,
        "runs": rates(options.steps),
        "overhead_seconds": overhead(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "measured.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
