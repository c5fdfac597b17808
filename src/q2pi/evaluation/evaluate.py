"""Judging an agent: separate environments, fixed seeds, whole episodes, raw scores, intervals, and the protocol."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from q2pi.algorithms.base import Agent
from q2pi.config import to_table
from q2pi.envs import make_envs
from q2pi.envs.spec import EnvSpec, is_atari
from q2pi.envs.vector import Episode
from q2pi.rng import stream
from q2pi.statistics.atari_scores import REFERENCE_SCORES
from q2pi.statistics.scores import human_normalized, summary

NUM_ENVS = 8
"""Games played side by side; a fixed number, so that an evaluation does not depend on the training's."""
EVALUATION_SEED = 1_000_003
"""Seed of a run's evaluations, whatever its own: agents of different runs are judged on the same episodes."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of one evaluation, with all that they depend on."""

    step: int
    """Agent steps of training so far."""
    episodes: tuple[Episode, ...]
    """Whole episodes in the order of their seeds, each of which can be created again."""
    protocol: dict[str, Any]
    """What the scores mean: environment, stickiness, life-loss rule, exploration, seeds."""

    @property
    def scores(self) -> list[float]:
        """Raw score of each episode."""
        return [episode.episode_return for episode in self.episodes]

    def report(self) -> dict[str, Any]:
        """Return statistics, scores and protocol as a JSON-able dict."""
        statistics = summary(self.scores)
        game = self.protocol["env"]["env_id"]
        if game in REFERENCE_SCORES:
            random, human = REFERENCE_SCORES[game]
            statistics["human_normalized"] = float(human_normalized(statistics["mean"], random, human))
        return {
            "step": self.step,
            "statistics": statistics,
            "scores": self.scores,
            "lengths": [episode.length for episode in self.episodes],
            "protocol": self.protocol,
        }


def evaluate(
    agent: Agent, spec: EnvSpec, *, step: int, episodes: int, seed: int, progress: Callable[[int], None] | None = None
) -> Evaluation:
    """Play `episodes` whole episodes with fixed seeds in environments of their own.

    The agent is asked for `evaluation_act` alone, and its randomness comes from a stream of the evaluation, so nothing
    that training depends on changes. Which episodes count is settled beforehand (the first of each game's seeds), so
    short episodes are not favoured.

    Args:
        agent: what is judged.
        spec: its environment.
        step: agent steps of training so far, for the report.
        episodes: how many episodes, at least 1.
        seed: seed of the evaluation.
        progress: told the number of finished episodes after each.
    """
    count = min(NUM_ENVS, episodes)
    envs = make_envs(spec, count, seed, stream="evaluation")
    wanted = [len(range(game, episodes, count)) for game in range(count)]
    finished: dict[tuple[int, int], Episode] = {}
    observation = envs.reset()
    vector_step = 0
    while len(finished) < episodes:
        action = agent.evaluation_act(observation, stream(seed, "evaluation-noise", vector_step))
        envs.send(action)
        result = envs.recv()
        observation = result.observation
        vector_step += 1
        for episode in result.episodes:
            if episode.episode_index < wanted[episode.env_index]:
                finished[episode.episode_index, episode.env_index] = episode
                if progress is not None:
                    progress(len(finished))
    envs.close()
    return Evaluation(step, tuple(finished[key] for key in sorted(finished)), _protocol(agent, spec, episodes, seed))


def _protocol(agent: Agent, spec: EnvSpec, episodes: int, seed: int) -> dict[str, Any]:
    return {
        "env": to_table(spec),
        "scores": "raw, whole games" if is_atari(spec.env_id) else "raw, whole episodes",
        "policy": agent.evaluation_policy,
        "episodes": episodes,
        "seed": seed,
        "interval": "95 % percentile bootstrap over episodes of one trained agent",
    }


def mean_return(episodes: list[Episode]) -> float:
    """Return the mean raw return of `episodes`, NaN where there are none."""
    return float(np.mean([episode.episode_return for episode in episodes])) if episodes else float("nan")
