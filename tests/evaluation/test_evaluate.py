"""Evaluation: fixed seeds, whole episodes, no bias towards short ones, and the protocol of the scores."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_runs import cartpole, invaders, length_after

from q2pi.algorithms.build import build_agent
from q2pi.config import resolve
from q2pi.envs.make import make_envs
from q2pi.envs.spec import EnvSpec
from q2pi.envs.spec import resolve as resolve_env
from q2pi.envs.vector import Episode
from q2pi.evaluation.evaluate import Evaluation, evaluate, mean_return
from q2pi.rng import derive, stream

SPEC = resolve_env(EnvSpec("ShortOrLong-v0"))
SEED = 3


class Zero:
    """An agent that always takes action 0 and records the noise."""

    evaluation_policy = "always 0"
    spec = SimpleNamespace(precision="fp32")

    def __init__(self) -> None:
        self.noise: list[float] = []

    def evaluation_act(self, observation: Any, noise: np.random.Generator) -> Any:
        self.noise.append(noise.random())
        return np.zeros(len(observation), np.int64)


def evaluation_of(episodes: int, seed: int = SEED, **more: Any) -> Evaluation:
    return evaluate(Zero(), SPEC, step=7, episodes=episodes, seed=seed, **more)  # type: ignore[arg-type]


def expected_lengths(episodes: int) -> list[int]:
    """Return the lengths of the evaluated episodes: the first ones of each of up to 8 environments, in turn."""
    envs = min(8, episodes)
    turns = [divmod(count, envs) for count in range(episodes)]
    return [length_after(derive(SEED, "evaluation", env_index, episode_index)) for episode_index, env_index in turns]


@pytest.mark.parametrize("episodes", [1, 3, 8, 12, 30])
def test_the_evaluated_episodes_are_fixed_in_advance(episodes: int) -> None:
    assert evaluation_of(episodes).scores == expected_lengths(episodes)


def test_the_first_episodes_to_finish_are_short() -> None:
    """Negative control: the first 8 episodes to end in 8 environments are mostly short."""
    envs = make_envs(SPEC, 8, SEED, stream="evaluation")
    envs.reset()
    finished: list[Episode] = []
    while len(finished) < 8:
        envs.send(np.zeros(8, np.int64))
        finished += envs.recv().episodes
    unbiased = float(np.mean(expected_lengths(8)))
    assert evaluation_of(8).report()["statistics"]["mean"] == pytest.approx(unbiased)
    assert mean_return(finished[:8]) < unbiased - 3


def test_episodes_depend_on_the_seed() -> None:
    first = [episode.seed for episode in evaluation_of(12).episodes]
    assert [episode.seed for episode in evaluation_of(12).episodes] == first
    assert not set(first) & {episode.seed for episode in evaluation_of(12, seed=4).episodes}


def test_episodes_differ_from_training_episodes() -> None:
    training = {derive(SEED, "episode", env_index, index) for env_index in range(8) for index in range(100)}
    assert not training & {episode.seed for episode in evaluation_of(30).episodes}


def test_noise_comes_from_the_evaluations_stream() -> None:
    agent = Zero()
    evaluate(agent, SPEC, step=0, episodes=2, seed=SEED)  # type: ignore[arg-type]
    assert agent.noise == [stream(SEED, "evaluation-noise", step).random() for step in range(len(agent.noise))]


def test_progress_is_reported() -> None:
    counts: list[int] = []
    evaluation_of(12, progress=counts.append)
    assert counts == list(range(1, 13))


def test_the_report_is_json_able_and_has_the_protocol() -> None:
    report = json.loads(json.dumps(evaluation_of(12).report()))
    scores = expected_lengths(12)
    assert (report["step"], report["scores"], report["lengths"]) == (7, scores, scores)
    assert report["statistics"]["mean"] == pytest.approx(sum(scores) / 12)
    assert report["statistics"]["n"] == 12
    low, high = report["statistics"]["mean_interval"]
    assert low < report["statistics"]["mean"] < high
    protocol = report["protocol"]
    assert protocol["env"]["env_id"] == "ShortOrLong-v0"
    assert (protocol["episodes"], protocol["seed"], protocol["policy"]) == (12, SEED, "always 0")
    assert protocol["scores"] == "raw, whole episodes"
    assert "95 %" in protocol["interval"]
    assert "human_normalized" not in report["statistics"]


def test_an_atari_report_has_its_rules_and_the_human_normalized_score() -> None:
    """Space Invaders: random policy 148.0, human tester 1668.7 (Mnih et al. 2015, extended data table 2)."""
    spec = resolve_env(EnvSpec("SpaceInvaders", protocol="nature", resize=(36, 36), max_frames_per_episode=40))
    evaluation = evaluate(Zero(), spec, step=0, episodes=2, seed=SEED)  # type: ignore[arg-type]
    report = evaluation.report()
    assert report["lengths"] == [10, 10]
    assert report["protocol"]["scores"] == "raw, whole games"
    rules = report["protocol"]["env"]
    assert (rules["protocol"], rules["repeat_action_probability"], rules["life_loss_discount"]) == ("nature", 0.0, True)
    assert rules["clip_rewards"] is True
    mean = sum(evaluation.scores) / 2
    assert report["statistics"]["human_normalized"] == pytest.approx((mean - 148.0) / (1668.7 - 148.0))


@pytest.mark.parametrize("make", [cartpole, invaders], ids=["CartPole", "Space Invaders"])
def test_it_does_not_depend_on_the_number_of_training_environments(make: Any) -> None:
    reports = []
    for envs in (1, 5):
        config = resolve(make(num_envs=envs, eval_epsilon=0.3))
        training = make_envs(config.env, envs, config.seed)
        agent = build_agent(config, training)
        training.close()
        spec = resolve_env(
            EnvSpec(
                **({"max_frames_per_episode": 80, "resize": (36, 36)} if make is invaders else {}),
                env_id=config.env.env_id,
            )
        )
        reports.append(evaluate(agent, spec, step=0, episodes=3, seed=SEED).report())
    assert reports[0] == reports[1]


def test_the_mean_of_no_episodes_is_nan() -> None:
    assert np.isnan(mean_return([]))


def test_the_human_normalised_score_is_that_of_the_mean() -> None:
    """Space Invaders, scores 100, 200 and 900: the mean is 400, the median 200."""
    episodes = tuple(Episode(0, index, 0, np.zeros(1), score, 1) for index, score in enumerate((100.0, 200.0, 900.0)))
    report = Evaluation(0, episodes, {"env": {"env_id": "SpaceInvaders"}}).report()
    assert report["statistics"]["human_normalized"] == pytest.approx((400 - 148.0) / (1668.7 - 148.0))
