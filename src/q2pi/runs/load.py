"""The agent of a run folder."""

from pathlib import Path
from typing import Any

from q2pi.algorithms.base import Agent
from q2pi.algorithms.registry import build_agent, restore
from q2pi.config import ResolvedConfig, resolve
from q2pi.envs import make_envs
from q2pi.evaluation.evaluate import Evaluation, evaluate
from q2pi.runs.folder import RunFolder


def load_agent(folder: RunFolder) -> tuple[Agent, ResolvedConfig[Any], int, list[str]]:
    """Return (agent, config, agent steps, warnings) of a run's newest checkpoint, without its replay.

    The agent can act and be judged; to train on, `q2pi.loop.run` takes the whole state.
    """
    config = resolve(folder.config())
    step, state, _, warnings = folder.newest_checkpoint()
    envs = make_envs(config.env, config.num_envs, config.seed)
    agent = build_agent(config, envs)
    envs.close()
    state["agent"].pop("replay", None)
    restore(agent, state)
    return agent, config, step, warnings


def evaluate_run(path: Path | str, episodes: int, seed: int) -> Evaluation:
    """Evaluate a run's newest checkpoint on whole episodes with fixed seeds, apart from the training's environments."""
    agent, config, step, _ = load_agent(RunFolder.open(path))
    return evaluate(agent, config.env, step=step, episodes=episodes, seed=seed)
