"""Seconds of training until CartPole is solved, beside Stable-Baselines3 with the RL Zoo's settings, alternating.

    python benchmarks/solve_cartpole.py --peer-python .venv-peers/bin/python

Solved: the policy's mean over 20 new episodes is at least 475. It is evaluated every 1,000 agent steps; the time of
evaluations is left out for all. One thread, one process for each run, five seeds, and each candidate its own budget,
over which its schedules fall. Written: results/benchmarks/solve_cartpole.json. Absolute seconds are of one machine.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent.parent / "results" / "benchmarks"
SOLVED, EPISODES, EVERY = 475, 20, 1_000
Solution = tuple[int, float] | None
"""Agent steps and seconds of training, or None if the budget did not suffice."""


def q2pi(seed: int, algorithm: str, preset: str) -> Solution:
    """Train with one of our presets."""
    from q2pi.config import override, resolve
    from q2pi.evaluation.evaluate import mean_return
    from q2pi.training.events import Evaluated, Progress
    from q2pi.training.loop import run
    from q2pi.training.presets import configure

    config, _ = configure(algorithm, "CartPole-v1", preset)
    asked = {"evaluation_frequency": EVERY, "evaluation_episodes": EPISODES, "log_frequency": EVERY}
    seconds, solved = 0.0, False
    options = asked | {"seed": seed, "threads": 1, "checkpoint_frequency": 0}
    for event in run(resolve(override(config, options))):
        if isinstance(event, Evaluated):
            solved = mean_return(event.evaluation.episodes) >= SOLVED
        if isinstance(event, Progress):
            seconds += sum(event.seconds.values()) - event.seconds.get("evaluate", 0.0)
            if solved:
                return event.step, seconds
    return None


def sb3(seed: int, name: str, steps: int, games: int, **settings: Any) -> Solution:
    """Train Stable-Baselines3's algorithm `name` on `games` parallel environments."""
    import stable_baselines3
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(1)
    eval_env = make_vec_env("CartPole-v1", n_envs=1, seed=1_000 + seed)
    solution: list[tuple[int, float]] = []

    class Ask(BaseCallback):
        asking, last = 0.0, 0

        def _on_step(self) -> bool:
            if self.num_timesteps - self.last >= EVERY:
                self.last, asked = self.num_timesteps, time.perf_counter()
                mean, _ = evaluate_policy(self.model, eval_env, EPISODES)
                self.asking += time.perf_counter() - asked
                if mean >= SOLVED:
                    solution.append((self.num_timesteps, time.perf_counter() - begun - self.asking))
            return not solution

    vector = make_vec_env("CartPole-v1", n_envs=games, seed=seed)
    model = getattr(stable_baselines3, name)("MlpPolicy", vector, seed=seed, device="cpu", **settings)
    begun = time.perf_counter()
    model.learn(steps, callback=Ask())
    return solution[0] if solution else None


def sb3_dqn(seed: int) -> Solution:
    """Train with the RL Zoo's hyperparams/dqn.yml."""
    replay = {"batch_size": 64, "buffer_size": 100_000, "learning_starts": 1_000, "target_update_interval": 10}
    updates = {"learning_rate": 2.3e-3, "train_freq": 256, "gradient_steps": 128, "gamma": 0.99}
    exploration = {"exploration_fraction": 0.16, "exploration_final_eps": 0.04}
    network = {"policy_kwargs": {"net_arch": [256, 256]}}
    return sb3(seed, "DQN", 50_000, 1, **replay, **updates, **exploration, **network)


def sb3_ppo(seed: int) -> Solution:
    """Train with the RL Zoo's hyperparams/ppo.yml."""
    updates = {"n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8, "ent_coef": 0.0}
    falling = {"learning_rate": lambda left: 1e-3 * left, "clip_range": lambda left: 0.2 * left}
    return sb3(seed, "PPO", 100_000, 8, **updates, **falling)


CANDIDATES: dict[str, Callable[[int], Solution]] = {
    "Stable-Baselines3 DQN, RL Zoo": sb3_dqn,
    "Stable-Baselines3 PPO, RL Zoo": sb3_ppo,
    "q2pi Double DQN, CartPole-v1-short": partial(q2pi, algorithm="dqn", preset="CartPole-v1-short"),
    "q2pi PPO, CartPole-v1 (the RL Zoo's settings)": partial(q2pi, algorithm="ppo", preset="CartPole-v1"),
    "q2pi PQN, CartPole-v1": partial(q2pi, algorithm="pqn", preset="CartPole-v1"),
}


def measure(name: str, seed: int, peer_python: str) -> Solution:
    """Train one candidate with one seed in a process of its own."""
    python = peer_python if name.startswith("Stable") else sys.executable
    command = [python, __file__, "--candidate", name, "--seed", str(seed)]
    solution = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return tuple(solution) if solution else None


def main() -> None:
    """Train every candidate in turn, seed by seed, and write what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has stable-baselines3")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--candidate", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.candidate:
        print(json.dumps(CANDIDATES[options.candidate](options.seed)))
        return
    solutions: dict[str, list[Solution]] = {name: [] for name in CANDIDATES}
    for seed in range(1, options.seeds + 1):
        for name, found in solutions.items():
            found.append(measure(name, seed, options.peer_python))
            print(f"seed {seed}  {name:<46} {found[-1]}", flush=True)
    report = {}
    for name, found in solutions.items():
        solved = [solution for solution in found if solution]
        report[name] = {
            "solved": len(solved),
            "seeds": len(found),
            "seconds": [round(seconds, 2) for _, seconds in solved],
            "agent_steps": [steps for steps, _ in solved],
            "median_seconds": round(median(seconds for _, seconds in solved), 2) if solved else None,
        }
        print(f"{name:<46} {len(solved)} of {len(found)}, median {report[name]['median_seconds']} s")
    (RESULTS / "solve_cartpole.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
