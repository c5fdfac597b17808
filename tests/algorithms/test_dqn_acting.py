"""DQN: exploration, and what enters replay."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from small_dqn import make_agent
from small_runs import cartpole, invaders

from q2pi.algorithms import dqn
from q2pi.config import resolve
from q2pi.envs.vector import Step
from q2pi.training.events import EpisodeEnded, Started
from q2pi.training.loop import run


def test_actions_count_from_the_start_of_their_space() -> None:
    agent = make_agent(8, first_action=3)
    observation = np.zeros((8, 2), np.float32)
    agent.begin(observation)
    action = agent.act(observation, 0)
    assert set(action) == {3, 4}
    assert set(agent.evaluation_act(observation, np.random.default_rng(0))) <= {3, 4}
    false = np.zeros(8, np.bool_)
    agent.observe(action, Step(observation, observation, np.zeros(8, np.float32), false, false, false, ()))
    newest = agent.replay.action.reshape(8, -1)[:, 0]
    assert newest.tolist() == (action - 3).tolist()


@pytest.mark.parametrize(("step", "epsilon"), [(0, 1.0), (10, 0.82), (25, 0.55), (50, 0.1), (51, 0.1), (99, 0.1)])
def test_epsilon_falls_with_the_agent_steps(step: int, epsilon: float) -> None:
    """From 1 to 0.1 over half of 100 agent steps."""
    agent = make_agent(start_e=1.0, end_e=0.1, exploration_fraction=0.5)
    assert agent.epsilon(step) == pytest.approx(epsilon)


# ---- exploration -----------------------------------------------------------------------------------------------------

ENVS, DRAWS = 8, 400


def coins(agent: dqn.Agent, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return [DRAWS, ENVS] bool: the environments that explored at each step. Exploration never takes action 2."""
    monkeypatch.setattr(agent, "q_values", lambda observation: np.tile([0.0, 0.0, 1.0], (ENVS, 1)))
    observation = np.zeros((ENVS, 2), np.float32)
    return np.stack([agent.act(observation, ENVS * draw) for draw in range(DRAWS)]) != 2


def all_or_none(explored: Any) -> float:
    return float(np.mean(explored.all(axis=1) | ~explored.any(axis=1)))


def test_environments_explore_independently(monkeypatch: pytest.MonkeyPatch) -> None:
    """At epsilon 1/2 all 8 environments agree in 2 of 256 steps; 400 draws are within 5 standard deviations."""
    explored = coins(make_agent(ENVS, start_e=0.5, end_e=0.5), monkeypatch)
    assert all_or_none(explored) < 0.03
    assert np.abs(explored.mean(axis=0) - 0.5).max() < 5 * 0.5 / math.sqrt(DRAWS)
    correlations = np.corrcoef(explored.T) - np.eye(ENVS)
    assert np.abs(correlations).max() < 5 / math.sqrt(DRAWS)


def test_shared_exploration_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make_agent(ENVS, start_e=0.5, end_e=0.5)

    def shared(observation: Any, epsilon: float, noise: np.random.Generator) -> Any:
        explores = noise.random() < epsilon
        return noise.integers(2, size=ENVS) if explores else agent.q_values(observation).argmax(axis=1)

    monkeypatch.setattr(agent, "epsilon_greedy", shared)
    assert all_or_none(coins(agent, monkeypatch)) == 1


def test_random_actions_are_uniform_and_greedy_actions_maximise_q() -> None:
    agent = make_agent(ENVS, start_e=1.0, end_e=1.0)
    observation = np.random.default_rng(0).normal(size=(ENVS, 2)).astype(np.float32)
    actions = np.stack([agent.act(observation, ENVS * draw) for draw in range(DRAWS)])
    assert abs(actions.mean() - 0.5) < 5 * 0.5 / math.sqrt(DRAWS * ENVS)
    greedy = make_agent(ENVS, start_e=0.0, end_e=0.0)
    best = greedy.online(torch.from_numpy(observation)).argmax(dim=1).tolist()
    assert greedy.act(observation, 0).tolist() == best
    assert greedy.predict(observation)[0].tolist() == best


# ---- what enters replay ----------------------------------------------------------------------------------------------


def stored(rules: dict[str, bool], **events: Any) -> tuple[float, float]:
    """Return (reward, continuation) in replay after one step with reward -5."""
    agent = make_agent()
    false = np.zeros(1, np.bool_)
    values = {"terminated": false, "truncated": false, "life_lost": false} | events
    observation = np.zeros((1, 2), np.float32)
    agent.begin(observation)
    agent.observe(
        np.array([1]), Step(observation, observation, np.array([-5.0], np.float32), episodes=(), **values, **rules)
    )
    return float(agent.replay.reward[0]), float(agent.replay.continuation[0])


NATURE = {"life_loss_discount": True, "clip_rewards": True}
MACHADO = {"life_loss_discount": False, "clip_rewards": True}
RAW = {"life_loss_discount": False, "clip_rewards": False}
YES = np.ones(1, np.bool_)


@pytest.mark.parametrize(
    ("rules", "events", "expected"),
    [
        (NATURE, {}, (-1, 1)),
        (NATURE, {"life_lost": YES}, (-1, 0)),
        (MACHADO, {"life_lost": YES}, (-1, 1)),
        (NATURE, {"terminated": YES}, (-1, 0)),
        (MACHADO, {"terminated": YES}, (-1, 0)),
        (NATURE, {"truncated": YES}, (-1, 1)),
        (RAW, {"truncated": YES}, (-5, 1)),
        (RAW, {"terminated": YES}, (-5, 0)),
    ],
)
def test_termination_and_life_loss_end_a_return(
    rules: dict[str, bool], events: dict[str, Any], expected: tuple[float, float]
) -> None:
    assert stored(rules, **events) == expected


def test_rewards_are_clipped_for_learning_and_scores_stay_raw() -> None:
    config = cartpole(env_id="Paying-v0", clip_rewards=True)
    scores = set()
    for event in run(resolve(config)):
        if isinstance(event, Started):
            agent: Any = event.agent
        if isinstance(event, EpisodeEnded):
            scores.add(event.episode.episode_return)
    assert scores == {20.0}, "four steps of 5"
    rewards = agent.replay.reward
    assert set(rewards[~np.isnan(rewards)]) == {1.0}


def test_lost_lives_end_returns_under_nature_and_not_under_machado() -> None:
    """On the same frames, continuations of 0 within an episode appear under nature only."""
    ends = {}
    for protocol in ("nature", "machado"):
        config = invaders(protocol=protocol, num_envs=4, total_timesteps=1_200, learning_starts=1_100)
        for event in run(resolve(config)):
            if isinstance(event, Started):
                agent: Any = event.agent
        ring = agent.replay
        after = (np.arange(len(ring.final)) // ring.rows) * ring.rows + (np.arange(len(ring.final)) + 1) % ring.rows
        ends[protocol] = int(((ring.continuation == 0) & ~ring.final[after]).sum())
    assert ends["nature"] > 0
    assert ends["machado"] == 0


def step_of(following: Any, first: Any, ending: str = "", stack: int = 1) -> Step:
    """Return one step of one environment; `first` is acted on next."""
    flags = [np.array([ending == name]) for name in ("terminated", "truncated")]
    false = np.zeros(1, np.bool_)
    return Step(following[None], first[None], np.zeros(1, np.float32), *flags, false, (), stack=stack)


@pytest.mark.parametrize("ending", ["truncated", "terminated"])
def test_replay_holds_the_final_observation_and_the_first_of_the_next_episode(ending: str) -> None:
    agent = make_agent()
    a, final, first, later = np.array([[1, 1], [2, 2], [3, 3], [4, 4]], np.float32)
    agent.begin(a[None])
    agent.observe(np.zeros(1), step_of(final, first, ending))
    agent.observe(np.zeros(1), step_of(later, later))
    batch = agent.replay.sample(np.array([0, 2]))
    assert batch.observation.tolist() == [[1, 1], [3, 3]]
    assert batch.next_observation.tolist() == [[2, 2], [4, 4]]


@pytest.mark.parametrize("make", [cartpole, invaders], ids=["CartPole", "Space Invaders"])
def test_sampled_observations_are_those_that_were_acted_on(make: Any) -> None:
    """Stacks of 3: what is sampled at each step equals what the agent was given there, and what followed."""
    config = make(stack=3, n_step=1, num_envs=2, total_timesteps=300, learning_starts=290, buffer_size=1_000)
    given: list[list[Any]] = [[], []]
    for event in run(resolve(config)):
        if isinstance(event, Started):
            agent: Any = event.agent
            act, observe = agent.act, agent.observe

            def acting(observation: Any, step: int, act: Any = act) -> Any:
                for env in range(2):
                    given[env].append([observation[env], None])
                return act(observation, step)

            def observing(action: Any, result: Step, observe: Any = observe) -> None:
                for env in range(2):
                    given[env][-1][1] = result.next_observation[env]
                observe(action, result)

            agent.act, agent.observe = acting, observing
    replay = agent.replay
    for env in range(2):
        slots = env * replay.rows + np.arange(replay.filled[env])
        rows = replay.sample(slots[replay.can_sample(slots)])
        *acted, (_, nothing) = given[env]  # the last action is for an extension of the run
        assert nothing is None
        assert len(rows.slots) == len(acted) == 150
        for found, following, (seen, after) in zip(rows.observation, rows.next_observation, acted, strict=True):
            np.testing.assert_array_equal(found, seen)
            np.testing.assert_array_equal(following, after)
