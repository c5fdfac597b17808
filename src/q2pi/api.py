"""The Python interface: the functions of `import q2pi`.

What loads torch is imported within the functions that need it, so that `q2pi.make_envs` works without.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from q2pi.config import from_table, override, resolve
from q2pi.envs import make
from q2pi.envs.spec import EnvSpec
from q2pi.envs.vector import VectorEnv
from q2pi.evaluation.evaluate import EVALUATION_SEED, Evaluation
from q2pi.runs.folder import RunFolder
from q2pi.training.events import Event, Started
from q2pi.training.presets import configure

if TYPE_CHECKING:
    from q2pi.algorithms.base import Agent
    from q2pi.runs.sinks import Sink


def train(
    algorithm: str = "dqn",
    *,
    env_id: str | None = None,
    preset: str | None = None,
    run_dir: str | Path | None = None,
    sinks: "Sequence[Sink]" = (),
    **options: Any,
) -> "Agent":
    """Train an agent and return it.

    Args:
        algorithm: name of the algorithm.
        env_id: an Atari game or a Gymnasium id.
        preset: name of a preset or path of a TOML file; None uses the default for the environment.
        run_dir: new folder for the run's files; None writes nothing.
        sinks: loggers that receive the run's events, see `q2pi.runs.sinks`.
        options: the command line's options by name, such as `total_timesteps`, `seed`, `learning_rate`; `from_run` is
            the folder of a run whose weights this run starts from.

    Raises:
        UserError: an unknown option, a value out of its bounds, or a folder that is in use.
    """
    from q2pi.runs.execute import execute
    from q2pi.runs.threads import choose_threads

    config, _ = configure(algorithm, env_id, preset)
    asked = override(config, options)
    resolved = resolve(replace(asked, threads=choose_threads(asked).threads))
    if run_dir is not None:
        RunFolder(run_dir).check_new()
    agent = _KeepAgent()
    execute(resolved, run_dir, sinks=[agent, *sinks], warn=lambda text: warnings.warn(text, stacklevel=4))
    return agent.agent


class _KeepAgent:
    """A sink that keeps the agent of a run."""

    agent: "Agent"

    def write(self, event: Event) -> None:
        if isinstance(event, Started):
            self.agent = event.agent

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def load(run_dir: str | Path) -> "Agent":
    """Return the agent of a run's newest checkpoint, ready to `predict`.

    Raises:
        UserError: no run, no intact checkpoint, or a checkpoint of another version.
    """
    from q2pi.runs.load import load_agent

    return load_agent(RunFolder.open(run_dir))[0]


def evaluate(
    run_dir: str | Path,
    *,
    episodes: int = 30,
    seed: int = EVALUATION_SEED,
    epsilon: float | None = None,
    **rules: Any,
) -> Evaluation:
    """Evaluate a run's newest checkpoint on whole episodes with fixed seeds, in separate environments.

    Args:
        run_dir: folder of the run.
        episodes: number of whole episodes.
        seed: seed of the episodes and of the exploration.
        epsilon: exploration rate; None is the run's `eval_epsilon`.
        rules: fields of `EnvSpec` that replace the run's, such as `env_id` or `env_options`.

    Raises:
        UserError: no run, a wrong rule, or an environment whose spaces differ from those of training.
        Diverged: an action, a logit or a Q-value of the agent is NaN.
    """
    from q2pi.runs.evaluations import evaluate_run

    options = {} if epsilon is None else {"eval_epsilon": epsilon}
    run = RunFolder.open(run_dir)
    return evaluate_run(run, episodes=episodes, seed=seed, rules=rules, options=options).evaluation


def make_envs(env_id: str = "SpaceInvaders", num_envs: int = 1, *, seed: int = 1, **options: Any) -> VectorEnv:
    """Return seeded environments, preprocessed as for training; options are the fields of `EnvSpec`."""
    return make.make_envs(from_table(EnvSpec(), {"env_id": env_id, **options}, "make_envs"), num_envs, seed)
