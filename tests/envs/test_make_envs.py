"""make_envs: seeds, episodes that can be replayed, and states that can be restored."""

from typing import Any

import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv

from q2pi import rng
from q2pi.envs.make import make_envs
from q2pi.envs.spec import EnvSpec
from q2pi.envs.vector import Episode, Step, VectorEnv
from q2pi.errors import UserError

BREAKOUT_STEPS = 210
"""Agent steps after which at least two games of Breakout have ended if two of three actions are FIRE."""


def random_actions(envs: VectorEnv, steps: int, seed: int = 0) -> list[Any]:
    envs.action_space.seed(seed)
    actions = [np.stack([envs.action_space.sample() for _ in range(envs.num_envs)]) for _ in range(steps)]
    if envs.spec.env_id == "Breakout":
        fires = np.random.default_rng(seed).random((steps, envs.num_envs)) < 2 / 3
        return list(np.where(fires, 1, actions))
    return actions


def step_all(envs: VectorEnv, actions: list[Any]) -> list[Step]:
    steps = []
    for action in actions:
        envs.send(action)
        steps.append(envs.recv())
    return steps


def replayed(alone: VectorEnv, episode: Episode) -> tuple[list[Any], Episode | None]:
    """Replay an episode in a separate environment; return its observations and the episode if it ended."""
    alone.seed_of = lambda env_index, episode_index: episode.seed
    observations = [alone.reset()[0]]
    ended = None
    for step in step_all(alone, [action[None] for action in episode.actions]):
        observations.append(step.next_observation[0])
        ended = step.episodes[0] if step.episodes else None
    return observations, ended


@pytest.mark.parametrize(
    ("spec", "num_envs", "steps"),
    [
        (EnvSpec("Breakout", protocol="nature"), 3, BREAKOUT_STEPS),
        (EnvSpec("Breakout", stack=2), 3, BREAKOUT_STEPS),
        (EnvSpec("SpaceInvaders", max_frames_per_episode=240), 2, 65),
        (EnvSpec("CartPole-v1", stack=2), 4, 60),
        (EnvSpec("LunarLander-v3"), 2, 120),
    ],
)
def test_every_episode_can_be_replayed(spec: EnvSpec, num_envs: int, steps: int) -> None:
    if spec.env_id.startswith("LunarLander"):
        pytest.importorskip("Box2D")
    envs, alone = make_envs(spec, num_envs, 7), make_envs(spec, 1, 0)
    observed = [[observation] for observation in envs.reset()]
    count = 0
    for step in step_all(envs, random_actions(envs, steps)):
        for env_index in range(num_envs):
            observed[env_index].append(step.next_observation[env_index])
        for episode in step.episodes:
            count += 1
            observations, ended = replayed(alone, episode)
            np.testing.assert_array_equal(observations, observed[episode.env_index])
            assert ended is not None
            assert (ended.episode_return, ended.length) == (episode.episode_return, episode.length)
            observed[episode.env_index] = [step.observation[episode.env_index]]
    assert count >= 2
    envs.close()
    alone.close()


def test_no_action_is_dropped_after_an_episode() -> None:
    """After an episode ends, the next action takes effect; negative control: ALE's own reset drops this action."""
    envs = make_envs(EnvSpec("Breakout", protocol="nature"), 1, 7)
    envs.reset()
    actions = random_actions(envs, 400)
    ale_alone = AtariVectorEnv("breakout", 1, stack_num=1, reward_clipping=False)
    ale_alone.reset(seed=np.array([rng.derive(7, "episode", 0, 0)]))
    for action in actions:
        (step,) = step_all(envs, [action])
        received = ale_alone.step(action)
        np.testing.assert_array_equal(step.next_observation[0, -1], received[0][0, 0])
        if step.terminated[0]:
            break
    assert step.terminated[0]
    envs.send(np.array([1]))
    frame = envs.recv().next_observation[0]
    assert frame[-2].any()
    assert (frame[-2] != frame[-1]).any()
    # ALE's next step ignores its action and returns the first frame of an episode with an unknown seed.
    _, _, terminated, _, info = ale_alone.step(np.array([1]))
    assert not terminated[0]
    assert info["episode_frame_number"][0] < 31
    envs.close()


def test_seeds_derive_from_run_seed_environment_and_episode() -> None:
    envs = make_envs(EnvSpec("CartPole-v1"), 3, 5)
    envs.reset()
    episodes = [episode for step in step_all(envs, random_actions(envs, 80)) for episode in step.episodes]
    assert len(episodes) > 6
    assert {episode.episode_index for episode in episodes} >= {0, 1, 2}
    for episode in episodes:
        assert episode.seed == rng.derive(5, "episode", episode.env_index, episode.episode_index)
    assert len({episode.seed for episode in episodes}) == len(episodes)
    other = make_envs(EnvSpec("CartPole-v1"), 3, 5, stream="evaluation").reset()
    assert (other != make_envs(EnvSpec("CartPole-v1"), 3, 5).reset()).any()


def test_an_environment_does_not_depend_on_the_number_of_environments() -> None:
    few, many = (make_envs(EnvSpec("CartPole-v1"), count, 5) for count in (1, 4))
    few.reset()
    many.reset()
    actions = random_actions(many, 60)
    for one, four in zip(step_all(few, [action[:1] for action in actions]), step_all(many, actions), strict=True):
        np.testing.assert_array_equal(one.observation[0], four.observation[0])


@pytest.mark.parametrize(
    ("spec", "num_envs", "steps"),
    [
        (EnvSpec("Breakout", protocol="nature"), 3, BREAKOUT_STEPS),
        (EnvSpec("SpaceInvaders", crop=(22, 15, 0, 0)), 1, 40),
        (EnvSpec("CartPole-v1", stack=3), 4, 50),
        (EnvSpec("Taxi"), 2, 30),
        (EnvSpec("Pendulum-v1"), 2, 230),
        (EnvSpec("LunarLander-v3"), 2, 130),
    ],
)
def test_load_restores_state(spec: EnvSpec, num_envs: int, steps: int) -> None:
    if spec.env_id.startswith("LunarLander"):
        pytest.importorskip("Box2D")
    envs, restored = make_envs(spec, num_envs, 3), make_envs(spec, num_envs, 3)
    envs.reset()
    step_all(envs, random_actions(envs, steps))
    restored.load(envs.state())
    np.testing.assert_array_equal(restored.observation, envs.observation)
    future = random_actions(envs, 40, seed=1)
    for one, other in zip(step_all(envs, future), step_all(restored, future), strict=True):
        for name in ("next_observation", "observation", "reward", "terminated", "truncated", "life_lost"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert [(e.seed, e.episode_return) for e in one.episodes] == [
            (e.seed, e.episode_return) for e in other.episodes
        ]
    envs.close()
    restored.close()


def test_lives_lost_and_raw_rewards_of_a_real_game() -> None:
    envs = make_envs(EnvSpec("SpaceInvaders", protocol="nature", stack=1), 2, 1)
    envs.reset()
    steps = step_all(envs, random_actions(envs, 420))
    lives_lost = sum(int(step.life_lost.sum()) for step in steps)
    ended = sum(len(step.episodes) for step in steps)
    assert lives_lost >= 2 * ended
    assert lives_lost >= 2
    rewards = {float(reward) for step in steps for reward in step.reward}
    assert rewards >= {0.0, 5.0, 10.0}
    for step in steps:
        assert not (step.life_lost & step.ended).any()
    envs.close()


def test_zero_environments_are_rejected() -> None:
    with pytest.raises(UserError, match="--num-envs 0 is less than 1"):
        make_envs(EnvSpec(), 0, 1)
