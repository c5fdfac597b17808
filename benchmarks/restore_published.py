"""Make a run folder from published weights, so that the agent can be recorded, evaluated and loaded.

    python benchmarks/restore_published.py results/space_invaders runs/space_invaders
    q2pi record runs/space_invaders --network-view --out docs/images/space_invaders.gif

Read: config.toml, weights.safetensors (half precision) and evaluation.json, as `benchmarks/publish.py` wrote them.
Written: the configuration, a checkpoint with these weights, and the evaluation's episodes as seeds and actions. The
checkpoint has no replay and no optimizer state: training cannot be resumed from it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from q2pi.algorithms.build import build_agent
from q2pi.config import resolve
from q2pi.envs.make import make_envs
from q2pi.evaluation.evaluate import EVALUATION_SEED, evaluate
from q2pi.runs import checkpoint
from q2pi.runs.folder import RunFolder
from q2pi.runs.stored_config import read_config


def load_weights(agent: Any, weights: dict[str, torch.Tensor]) -> list[str]:
    """Load published weights into every network of the agent that has exactly these names and shapes.

    Target networks and weight averages have the names and shapes of the trained network, so they are filled too.

    Returns:
        Names of the networks that were filled.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    filled = []
    for name, network in agent.networks().items():
        own = network.state_dict()
        if {key: tuple(tensor.shape) for key, tensor in own.items()} == shapes:
            network.load_state_dict({key: weights[key].to(tensor.dtype) for key, tensor in own.items()})
            filled.append(name)
    return filled


def main() -> None:
    """Read one published result and write its run folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--episodes", type=int, default=30, help="evaluation episodes to store")
    options = parser.parse_args()
    config = resolve(read_config(RunFolder(options.results)))
    step = json.loads((options.results / "evaluation.json").read_text())["step"]
    envs = make_envs(config.env, config.num_envs, config.seed)
    agent = build_agent(config, envs)
    envs.close()
    filled = load_weights(agent, load_file(options.results / "weights.safetensors"))
    if not filled:
        parser.error(f"no network of {config.algorithm} has the names and shapes in weights.safetensors")
    run = RunFolder.create(options.run, config)
    state = {name: value for name, value in agent.state().items() if name != "replay"}
    run.checkpoints.mkdir()
    checkpoint.save(run.checkpoints, step, {"step": step, "agent": state})
    evaluation = evaluate(agent, config.env, step=step, episodes=options.episodes, seed=EVALUATION_SEED)
    run.evaluation_file.write_text(json.dumps(evaluation.report(), indent=1))
    episodes = [
        {
            "return": episode.episode_return,
            "length": episode.length,
            "step": step,
            "env_index": episode.env_index,
            "episode_index": episode.episode_index,
            "seed": episode.seed,
            "actions": episode.actions.tolist(),
        }
        for episode in evaluation.episodes
    ]
    run.episodes.mkdir()
    for name in ("best", "newest"):
        (run.episodes / f"{name}.json").write_text(json.dumps(episodes))
    scores = evaluation.report()["statistics"]
    print(f"{run.path}: networks {', '.join(filled)}; mean score {scores['mean']:.1f} of {options.episodes} episodes")


if __name__ == "__main__":
    main()
