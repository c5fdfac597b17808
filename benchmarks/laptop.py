"""`pqn_laptop` on Pong and Space Invaders, and Stable-Baselines3's DQN given the same core minutes.

    python benchmarks/laptop.py --peer-python .venv-peers/bin/python [--games Pong] [--seeds 3] [--runs runs/laptop]

Runs of ours come one after another, each with two cores; runs of the peer two at a time, each with one core and twice
the minutes of ours. Evaluated on 30 whole games with raw scores, up to 30 no-ops, no sticky actions and epsilon 0.01,
for all. The peer has the RL Zoo's settings for Atari but for a warm-up of 5,000 steps: the Zoo's 100,000 are more than
it plays in its time; its schedule falls over the steps that it is expected to play. The seeds of ours were used for
nothing else before.

Written into results/laptop: what each run gave (runs/, and a run that is there is not made again: delete its file to
make it anew), scores.json and table.md, where games that are not asked for keep their rows, a picture of each game.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent.parent / "results" / "laptop"
GAMES = {"Pong": "Pong", "SpaceInvaders": "Space Invaders"}
EPISODES, WINDOW = 30, 40
OURS, PEER = "q2pi", "Stable-Baselines3 DQN"
FIRST_SEED = {(OURS, "Pong"): 141, (OURS, "SpaceInvaders"): 151}
"""First seed of a candidate in a game; 1 elsewhere."""
AT_A_TIME = {OURS: 1, PEER: 2}
EVAL_EPSILON = 0.01
"""Exploration rate of both during evaluation."""
PEER_SPEED = 85
"""Agent steps per second that Stable-Baselines3's DQN is expected to make on one core."""


def q2pi(game: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train the preset, or what is left of it; return its minutes, steps, training returns and scores."""
    from q2pi.config import override, resolve
    from q2pi.runs.execute import execute
    from q2pi.runs.folder import RunFolder
    from q2pi.training.presets import configure

    config, _ = configure("pqn_laptop", game)
    options = {"seed": seed, "evaluation_episodes": EPISODES, "eval_epsilon": EVAL_EPSILON}
    execute(resolve(override(config, options)), folder)
    run = RunFolder.open(folder)
    rows, episodes = run.rows("train"), run.rows("episode")
    evaluating = np.cumsum([row["seconds"].get("evaluate", 0.0) for row in rows])
    training = (np.array([row["wall_seconds"] for row in rows]) - evaluating) / 60
    minutes = np.interp([row["step"] for row in episodes], [row["step"] for row in rows], training)
    return {
        "minutes": training[-1],
        "steps": rows[-1]["step"],
        "returns": [[round(minute, 3), row["return"]] for minute, row in zip(minutes, episodes, strict=True)],
        "scores": json.loads(run.evaluation_file.read_text())["scores"],
    }


def sb3(game: str, seed: int, minutes: float) -> dict[str, Any]:
    """Train Stable-Baselines3's DQN for some minutes; return what `q2pi` returns."""
    import ale_py
    import gymnasium
    import torch
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecFrameStack

    gymnasium.register_envs(ale_py)
    torch.set_num_threads(1)
    env_id = f"{game}NoFrameskip-v4"
    begun, returns = time.perf_counter(), []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            passed = (time.perf_counter() - begun) / 60
            ended = [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
            returns.extend([round(passed, 3), score] for score in ended)
            return passed < minutes

    settings = {"learning_rate": 1e-4, "batch_size": 32, "train_freq": 4, "gradient_steps": 1}
    exploration = {"exploration_fraction": 0.1, "exploration_final_eps": 0.01}
    replay = {"buffer_size": 100_000, "learning_starts": 5_000, "target_update_interval": 1_000}
    games = VecFrameStack(make_atari_env(env_id, n_envs=1, seed=seed), n_stack=4)
    model = DQN("CnnPolicy", games, **settings, **exploration, **replay, seed=seed, device="cpu")
    model.learn(int(60 * minutes * PEER_SPEED), callback=Watch())
    spent = (time.perf_counter() - begun) / 60
    model.exploration_rate = EVAL_EPSILON
    whole = {"terminal_on_life_loss": False, "clip_reward": False}
    eval_env = VecFrameStack(make_atari_env(env_id, n_envs=1, seed=1_000 + seed, wrapper_kwargs=whole), n_stack=4)
    scores, _ = evaluate_policy(model, eval_env, EPISODES, deterministic=False, return_episode_rewards=True)
    return {"minutes": spent, "steps": model.num_timesteps, "returns": returns, "scores": scores}


def made(name: str, game: str, seed: int, minutes: float, options: argparse.Namespace) -> dict[str, Any]:
    """Return what a run gave, made in a process of its own unless its file is there."""
    file = RESULTS / "runs" / f"{game}-{seed}-{'ours' if name == OURS else 'peer'}.json"
    if not file.exists():
        python = sys.executable if name == OURS else options.peer_python
        wanted = ["--make", name, "--games", game, "--seed", str(seed), "--minutes", str(minutes)]
        command = [python, __file__, *wanted, "--runs", str(options.runs)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
        file.write_text(output.splitlines()[-1] + "\n")
    result = json.loads(file.read_text())
    print(f"{game} seed {seed} {name}: {np.mean(result['scores']):.1f} in {result['minutes']:.1f} min", flush=True)
    return result


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the scores of several seeds."""
    from q2pi.statistics.scores import bootstrap_interval, mean

    means = np.array([np.mean(run["scores"]) for run in runs])
    pooled = np.concatenate([run["scores"] for run in runs])
    return {
        "minutes": [round(run["minutes"], 1) for run in runs],
        "agent_steps": [run["steps"] for run in runs],
        "mean": float(means.mean()),
        "interval_over_seeds": list(bootstrap_interval(means, mean)),
        "mean_by_seed": means.tolist(),
        "mean_minus_std_by_seed": [float(np.mean(run["scores"]) - np.std(run["scores"])) for run in runs],
        "mean_minus_std": float(pooled.mean() - pooled.std()),
    }


def table(scores: dict[str, dict[str, Any]]) -> str:
    """Return the scores as a Markdown table."""
    rows = [
        "Made by `python benchmarks/laptop.py`. 30 whole games per seed, raw scores, no sticky actions, epsilon",
        "0.01; 95 % interval over seeds. Minutes are training time without evaluation: ours on two cores, the peer's "
        "on one of them, with another run on the other.",
        "",
        "| game | agent | minutes | agent steps | mean [interval] | each seed | mean - std | mean - std of each seed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key, row in scores.items():
        game, name = key.split("/")
        low, high = row["interval_over_seeds"]
        each, lower = (
            ", ".join(f"{value:.1f}" for value in row[kind]) for kind in ("mean_by_seed", "mean_minus_std_by_seed")
        )
        rows.append(
            f"| {GAMES[game]} | {name} | {', '.join(map(str, row['minutes']))} "
            f"| {', '.join(f'{steps:,}' for steps in row['agent_steps'])} "
            f"| {row['mean']:.1f} [{low:.1f}, {high:.1f}] | {each} | {row['mean_minus_std']:.1f} | {lower} |"
        )
    return "\n".join(rows) + "\n"


def draw(game: str, results: dict[str, list[dict[str, Any]]]) -> None:
    """Draw training returns against minutes: a line for each seed, each point the mean of the last 40 episodes."""
    from q2pi.reports.style import COLOURS, new_figure, save_figure

    figure = new_figure(5.2, 3.6)
    axes = figure.subplots()
    for name, colour in ((OURS, COLOURS[0]), (PEER, COLOURS[1])):
        label = f"{name}, {'two cores' if name == OURS else 'one core'}"
        for index, run in enumerate(results[f"{game}/{name}"]):
            minutes, returns = np.array(run["returns"]).T
            width = min(WINDOW, len(returns))
            smooth = np.convolve(returns, np.ones(width) / width, "valid")
            axes.plot(minutes[width - 1 :], smooth, color=colour, linewidth=1.2, label=None if index else label)
    axes.set_title(GAMES[game], loc="left", fontsize=10)
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("training return, mean of 40 games")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, RESULTS / f"{game}.png")


def main() -> None:
    """Make what is missing, ours first, and write the scores of everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has stable-baselines3")
    parser.add_argument("--games", nargs="*", choices=sorted(GAMES), default=list(GAMES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/laptop"), help="where the run folders of ours go")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--minutes", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        game, seed = options.games[0], options.seed
        ours = options.make == OURS
        folder = options.runs / f"{game}-{seed}"
        print(json.dumps(q2pi(game, seed, folder) if ours else sb3(game, seed, options.minutes)))
        return
    (RESULTS / "runs").mkdir(parents=True, exist_ok=True)
    results: dict[str, list[dict[str, Any]]] = {}
    for name in (OURS, PEER):
        jobs: dict[str, Any] = {}
        with ThreadPoolExecutor(AT_A_TIME[name]) as pool:
            for game in options.games:
                minutes = 2 * max((run["minutes"] for run in results.get(f"{game}/{OURS}", [])), default=0.0)
                first = FIRST_SEED.get((name, game), 1)
                seeds = range(first, first + options.seeds)
                jobs[f"{game}/{name}"] = [pool.submit(made, name, game, seed, minutes, options) for seed in seeds]
        results |= {key: [job.result() for job in several] for key, several in jobs.items()}
    file = RESULTS / "scores.json"
    scores = json.loads(file.read_text()) if file.exists() else {}
    scores = dict(sorted((scores | {key: summary(runs) for key, runs in results.items()}).items()))
    file.write_text(json.dumps(scores, indent=1) + "\n")
    (RESULTS / "table.md").write_text(table(scores))
    for game in options.games:
        draw(game, results)
    print(table(scores))


if __name__ == "__main__":
    main()
