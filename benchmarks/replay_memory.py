"""Memory and sampling time of a full replay of Space Invaders, raw or compressed.

    python benchmarks/replay_memory.py [--transitions 1000000] [--codec zstd]

Real transitions (random play of 8 games) are recorded once and fed until the ring is full. Written:
results/benchmarks/replay_memory.json, one entry per codec.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import psutil

from q2pi.envs import EnvSpec, make_games
from q2pi.replay.frames import make_store
from q2pi.replay.ring import Replay
from q2pi.replay.samplers import uniform

RESULT = Path(__file__).parent.parent / "results" / "benchmarks" / "replay_memory.json"
GAMES, RECORDED, BATCH, DRAWS = 8, 20_000, 32, 500
FRAME = (1, 84, 84)


def record() -> tuple[np.ndarray, list[tuple]]:
    """Return (first frames [N, ...], the arguments of `Replay.extend` for each step of N games)."""
    games = make_games(EnvSpec("SpaceInvaders"), GAMES, 1, threads=1)
    first = games.reset()[:, -1:].copy()
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(RECORDED // GAMES):
        action = generator.integers(games.action_space.n, size=GAMES)
        games.send(action)
        step = games.recv()
        newest, following = step.next_observation[:, -1:].copy(), step.observation[:, -1:].copy()
        goes_on = 1 - step.terminated.astype(np.float32)
        rows.append((action, np.sign(step.reward), goes_on, newest, step.ended, following))
    games.close()
    return first, rows


def main() -> None:
    """Fill one ring, draw batches from it, and write what both took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--codec", choices=["raw", "zstd"], default="zstd")
    options = parser.parse_args()
    first, rows = record()
    process = psutil.Process()
    before = process.memory_info().rss
    store = make_store(options.codec, FRAME, np.uint8)
    replay = Replay(options.transitions, GAMES, FRAME, np.uint8, stack=4, n_step=1, gamma=0.99, store=store)
    replay.begin(first)
    began = time.perf_counter()
    for step in range(options.transitions // GAMES):
        replay.extend(*rows[step % len(rows)])
    filled = time.perf_counter() - began
    grown = process.memory_info().rss - before
    times = []
    for draw in range(DRAWS):
        slots = uniform(replay, BATCH, np.random.default_rng(draw))
        began = time.perf_counter()
        replay.sample(slots)
        times.append(1e3 * (time.perf_counter() - began))
    result = {
        "command": f"python benchmarks/replay_memory.py --transitions {options.transitions} --codec {options.codec}",
        "transitions": len(replay),
        "megabytes": round(grown / 1e6, 1),
        "bytes_per_transition": round(grown / len(replay), 1),
        "sample_ms_median": round(float(np.median(times)), 3),
        "sample_ms_p90": round(float(np.percentile(times, 90)), 3),
        "extend_us_per_transition": round(1e6 * filled / options.transitions, 1),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    RESULT.write_text(json.dumps(known | {options.codec: result}, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
