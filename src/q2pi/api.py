"""The Python interface: what `import q2pi` offers."""

from pathlib import Path
from typing import Any

from q2pi import envs
from q2pi.algorithms.base import Agent
from q2pi.config import from_table, override
from q2pi.envs.spec import EnvSpec
from q2pi.envs.vector import VectorEnv
from q2pi.evaluation.evaluate import EVALUATION_SEED, Evaluation
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import evaluate_run, load_agent
from q2pi.runs.recorder import record
from q2pi.training.events import Started
from q2pi.training.loop import prepare, run
from q2pi.training.presets import configure


def train(
    algorithm: str = "dqn",
    *,
    env_id: str | None = None,
    preset: str | None = None,
    run_dir: str | Path | None = None,
    **options: Any,
) -> Agent:
    """Train an agent and return it.

    Args:
        algorithm: name of the algorithm.
        env_id: a game or a Gymnasium id.
        preset: name of a preset or path of a TOML file; None chooses by environment.
        run_dir: where the run is recorded; None records nothing.
        options: any option of the command line under its own name, such as `total_timesteps`, `seed`, `learning_rate`.

    Raises:
        UserError: an option that is unknown or out of its bounds.
    """
    config, _ = configure(algorithm, env_id, preset)
    config = prepare(override(config, options))
    events = run(config)
    if run_dir is not None:
        events = record(events, RunFolder.create(run_dir, config))
    agent: Agent | None = None
    for event in events:
        if isinstance(event, Started):
            agent = event.agent
    assert agent is not None
    return agent


def load(run_dir: str | Path) -> Agent:
    """Return the agent of a run's newest checkpoint, ready to `predict`.

    Raises:
        UserError: no run, no intact checkpoint, or one of another version.
    """
    return load_agent(RunFolder.open(run_dir))[0]


def evaluate(run_dir: str | Path, *, episodes: int = 30, seed: int = EVALUATION_SEED) -> Evaluation:
    """Judge a run's newest checkpoint on whole episodes with fixed seeds, apart from the training's environments."""
    return evaluate_run(run_dir, episodes, seed)


def make_envs(env_id: str = "SpaceInvaders", num_envs: int = 1, *, seed: int = 1, **options: Any) -> VectorEnv:
    """Return a vector of seeded games, preprocessed as for training; options are the fields of `EnvSpec`."""
    return envs.make_envs(from_table(EnvSpec(), {"env_id": env_id, **options}, "make_envs"), num_envs, seed)
