"""Speed of PQN's presets for a laptop with and without concurrent updates, on two cores, in alternating rounds.

    python benchmarks/concurrent_updates.py [--rounds 3] [--rollouts 40]

Each measurement trains in bf16. The first two rollouts are not timed, nor is what follows the last: a run waits for its
last updates at its end. Written: agent steps per second of each
round and the ratio of each round, to results/benchmarks/concurrent_updates.json. Quit other programs first.
"""

import argparse
import json
from pathlib import Path
from statistics import median

from q2pi.config import override, resolve
from q2pi.training.events import Progress
from q2pi.training.loop import run
from q2pi.training.presets import configure

RESULTS = Path(__file__).parent.parent / "results" / "benchmarks"
GAMES = ("SpaceInvaders", "Pong")
WARM_UP = 2


def steps_per_second(game: str, is_concurrent: bool, rollouts: int) -> float:
    """Return agent steps per second of training with a game's preset."""
    config, _ = configure("pqn_laptop", game)
    rows = config.num_envs * config.hyper.num_steps
    options = {"total_timesteps": (WARM_UP + rollouts + 1) * rows, "log_frequency": rows, "checkpoint_frequency": 0}
    quiet = {"evaluation_episodes": 0, "precision": "bf16", "device": "cpu", "concurrent_updates": is_concurrent}
    seconds = 0.0
    for event in run(resolve(override(config, options | quiet))):
        if isinstance(event, Progress) and WARM_UP * rows < event.step <= (WARM_UP + rollouts) * rows:
            seconds += sum(event.seconds.values())
    return rollouts * rows / seconds


def main() -> None:
    """Measure both in turn, and write the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rollouts", type=int, default=40)
    options = parser.parse_args()
    report = {}
    for game in GAMES:
        rates: dict[str, list[float]] = {"concurrent": [], "in turn": []}
        for index in range(options.rounds):
            for name, found in rates.items():
                found.append(round(steps_per_second(game, name == "concurrent", options.rollouts), 1))
                print(f"{game} round {index + 1}: {name} {found[-1]:,.0f} steps/s", flush=True)
        ratios = [one / other for one, other in zip(*rates.values(), strict=True)]
        report[game] = rates | {"ratios": [round(ratio, 3) for ratio in ratios], "median_ratio": median(ratios)}
        print(f"{game}: {median(ratios):.2f} times as fast [{min(ratios):.2f}, {max(ratios):.2f}]", flush=True)
    (RESULTS / "concurrent_updates.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
