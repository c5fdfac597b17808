"""Evaluation of an agent: separate environments, fixed seeds, whole episodes, raw scores, and the protocol."""

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from q2pi.config import to_table
from q2pi.envs.make import make_envs
from q2pi.envs.spec import EnvSpec, is_atari
from q2pi.envs.vector import Episode
from q2pi.rng import stream
from q2pi.statistics.atari_scores import REFERENCE_SCORES
from q2pi.statistics.scores import human_normalized, summary

if TYPE_CHECKING:
    from q2pi.algorithms.base import Agent

NUM_ENVS = 8
"""Number of environments; fixed, so that an evaluation does not depend on the number of training environments."""
EVALUATION_SEED = 1_000_003
"""Seed of every run's evaluations: agents of different runs are evaluated on the same episodes."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of one evaluation, with everything that determines them."""

    step: int
    """Agent steps of training so far."""
    episodes: tuple[Episode, ...]
    """Whole episodes in order of (episode_index, env_index); each can be replayed from its seed and actions."""
    protocol: dict[str, Any]
    """The conditions of the scores: environment, sticky actions, life-loss rule, exploration, seeds, arithmetic."""

    @property
    def scores(self) -> list[float]:
        """Raw score of each episode."""
        return [episode.episode_return for episode in self.episodes]

    def report(self) -> dict[str, Any]:
        """Return statistics, scores and protocol as a JSON-able dict."""
        statistics = summary(self.scores)
        env_id = self.protocol["env"]["env_id"]
        if env_id in REFERENCE_SCORES:
            random, human = REFERENCE_SCORES[env_id]
            statistics["human_normalized"] = float(human_normalized(statistics["mean"], random, human))
        return {
            "step": self.step,
            "statistics": statistics,
            "scores": self.scores,
            "lengths": [episode.length for episode in self.episodes],
            "protocol": self.protocol,
        }


def evaluate(
    agent: "Agent", spec: EnvSpec, *, step: int, episodes: int, seed: int, progress: Callable[[int], None] | None = None
) -> Evaluation:
    """Evaluate an agent on `episodes` whole episodes with fixed seeds, in separate environments.

    Only `evaluation_act` of the agent is called, with a random stream of the evaluation, so an evaluation does not
    change training. The episodes are fixed in advance (the first ones of each environment), so short episodes are not
    favoured.

    Args:
        agent: the agent to evaluate.
        spec: its environment.
        step: agent steps of training so far, for the report.
        episodes: number of episodes, at least 1.
        seed: seed of the evaluation.
        progress: called with the number of finished episodes after each episode.

    Raises:
        FloatingPointError: an action, a logit or a Q-value of the agent is NaN.
    """
    count = min(NUM_ENVS, episodes)
    envs = make_envs(spec, count, seed, stream="evaluation")
    episodes_per_env = [len(range(env_index, episodes, count)) for env_index in range(count)]
    finished: dict[tuple[int, int], Episode] = {}
    with closing(envs):
        observation = envs.reset()
        vector_step = 0
        while len(finished) < episodes:
            action = agent.evaluation_act(observation, stream(seed, "evaluation-noise", vector_step))
            envs.send(action)
            result = envs.recv()
            observation = result.observation
            vector_step += 1
            for episode in result.episodes:
                if episode.episode_index < episodes_per_env[episode.env_index]:
                    finished[episode.episode_index, episode.env_index] = episode
                    if progress is not None:
                        progress(len(finished))
    return Evaluation(step, tuple(finished[key] for key in sorted(finished)), _protocol(agent, spec, episodes, seed))


def _protocol(agent: "Agent", spec: EnvSpec, episodes: int, seed: int) -> dict[str, Any]:
    packages = ["torch", "gymnasium", *(["ale-py"] if is_atari(spec.env_id) else [])]
    return {
        "env": to_table(spec),
        "scores": "raw, whole games" if is_atari(spec.env_id) else "raw, whole episodes",
        "policy": agent.evaluation_policy,
        "episodes": episodes,
        "seed": seed,
        "interval": "95 % percentile bootstrap over episodes of one trained agent",
        "precision": agent.spec.precision,
        "versions": {package: version(package) for package in packages},
    }


def time_limit_notice(spec: EnvSpec, episodes: Iterable[Episode]) -> str | None:
    """Return a line that says so if an episode was cut at the limit for environments that have none, else None."""
    if is_atari(spec.env_id):
        return None
    from q2pi.envs.gymnasium import DEFAULT_TIME_LIMIT, has_default_time_limit

    if not any(episode.length >= DEFAULT_TIME_LIMIT for episode in episodes) or not has_default_time_limit(spec):
        return None
    return (
        f"{spec.env_id} has no time limit: an episode was cut at {DEFAULT_TIME_LIMIT:,} steps; "
        "--env-options max_episode_steps=N sets another limit"
    )


def mean_return(episodes: list[Episode]) -> float:
    """Return the mean raw return of `episodes`, NaN if there are none."""
    return float(np.mean([episode.episode_return for episode in episodes])) if episodes else float("nan")
