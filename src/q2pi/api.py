"""The Python interface: what `import q2pi` offers."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from q2pi.algorithms.base import Agent
from q2pi.build import build_agent, restore
from q2pi.config import RunConfig, from_table
from q2pi.envs import make_games
from q2pi.envs.games import VectorGames
from q2pi.envs.spec import EnvSpec
from q2pi.errors import UserError
from q2pi.evaluation import EVALUATION_SEED, Evaluation
from q2pi.evaluation import evaluate as judge
from q2pi.loop import Started, prepare, run
from q2pi.presets import configure
from q2pi.rundir import RunDir, record


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
        events = record(events, RunDir.create(run_dir, config))
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
    return load_agent(RunDir.open(run_dir))[0]


def load_agent(folder: RunDir) -> tuple[Agent, RunConfig[Any], int, list[str]]:
    """Return (agent, config, agent steps, warnings) of a run's newest checkpoint, without its replay.

    The agent can act and be judged; to train on, `q2pi.loop.run` takes the whole state.
    """
    config = prepare(folder.config())
    step, state, _, warnings = folder.newest_checkpoint()
    games = make_games(config.env, config.num_envs, config.seed)
    agent = build_agent(config, games)
    games.close()
    state["agent"].pop("replay", None)
    restore(agent, state)
    return agent, config, step, warnings


def evaluate(run_dir: str | Path, *, episodes: int = 30, seed: int = EVALUATION_SEED) -> Evaluation:
    """Judge a run's newest checkpoint on whole episodes with fixed seeds, apart from the training's environments."""
    agent, config, step, _ = load_agent(RunDir.open(run_dir))
    return judge(agent, config.env, step=step, episodes=episodes, seed=seed)


def make_envs(env_id: str = "SpaceInvaders", num_envs: int = 1, *, seed: int = 1, **options: Any) -> VectorGames:
    """Return a vector of seeded games, preprocessed as for training; options are the fields of `EnvSpec`."""
    return make_games(from_table(EnvSpec(), {"env_id": env_id, **options}, "make_envs"), num_envs, seed)


def override(config: RunConfig[Any], options: Mapping[str, Any]) -> RunConfig[Any]:
    """Return `config` with options replaced by name, whichever of its three parts each belongs to.

    Raises:
        UserError: an option that none of them has.
    """
    for name, value in options.items():
        for part in ("", "env", "hyper"):
            owner = getattr(config, part) if part else config
            if name in {field.name for field in dataclasses.fields(owner)} - {"env", "hyper"}:
                config = from_table(config, {part: {name: value}} if part else {name: value}, "options")
                break
        else:
            raise UserError(f"unknown option {name!r} of {config.algorithm}")
    return config
