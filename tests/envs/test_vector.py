"""VectorEnv on a scripted engine whose frames contain the episode's seed and the step within the episode."""

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from q2pi.envs.interface import Frames
from q2pi.envs.layout import plain_part
from q2pi.envs.make import make_envs
from q2pi.envs.spec import EnvSpec
from q2pi.envs.vector import VectorEnv
from q2pi.errors import UserError
from q2pi.types import Array


class ScriptedEngine:
    """N environments with frames [seed, step]; an episode ends after `seed` steps; the reward is 10 x the action.

    Odd seeds truncate, even seeds terminate; `lives` by step is the same in every episode.
    """

    def __init__(self, num_envs: int, lives: tuple[int, ...] = (0,) * 99, both: bool = False) -> None:
        self.num_envs = num_envs
        self.is_known_reproducible = True
        self.frame_space = Box(0, 255, (2,), np.uint8)
        self.parts = (plain_part(self.frame_space),)
        self.observation_space = None
        self.action_space = Discrete(5)
        self.lives = np.array(lives)
        self.both = both
        self.seeds = np.zeros(num_envs, np.int64)
        self.steps = np.zeros(num_envs, np.int64)
        self.actions: Array | None = None
        self.prepared: list[tuple[int, int]] = []

    def reset(self, mask: Array, seeds: Array) -> Frames:
        assert self.actions is None
        self.seeds[mask] = seeds[mask]
        self.steps[mask] = 0
        return self.frames(np.zeros(self.num_envs))

    def prepare_reset(self, env_index: int, seed: int) -> None:
        self.prepared.append((env_index, seed))

    def send(self, actions: Array) -> None:
        assert (self.steps < self.seeds).all(), "an episode that ended was stepped"
        self.actions = actions

    def recv(self) -> Frames:
        assert self.actions is not None
        reward, self.actions = 10.0 * self.actions, None
        self.steps += 1
        return self.frames(reward)

    def frames(self, reward: Array) -> Frames:
        ended = self.steps >= self.seeds
        return Frames(
            frame=np.stack([self.seeds, self.steps], axis=1).astype(np.uint8),
            reward=reward.astype(np.float32),
            terminated=ended & (self.seeds % 2 == 0),
            truncated=ended & ((self.seeds % 2 == 1) | self.both),
            lives=self.lives[self.steps].astype(np.int64),
        )

    def close(self) -> None: ...


def build(
    seeds: list[list[int]],
    stack: int = 1,
    kind: type[VectorEnv] = VectorEnv,
    rules: dict[str, bool] | None = None,
    **script: Any,
) -> VectorEnv:
    """Return environments in which episode k of environment n has seed and length seeds[n][k]."""
    engine = ScriptedEngine(len(seeds), **script)
    spec = EnvSpec("scripted", stack=stack, **(rules or {}))
    return kind(engine, spec, lambda env_index, episode_index: seeds[env_index][episode_index])


def test_the_next_reset_is_prepared_after_32_steps_of_an_episode() -> None:
    """Environment 0 has episodes of 40 and 41 steps, environment 1 of 3 and then 50: prepared at step 32 of each."""
    envs = build([[40, 41, 7], [3, 50, 60]])
    engine: Any = envs.engine
    envs.reset()
    step_all(envs, *[0] * 31)
    assert engine.prepared == []
    step_all(envs, 0)
    assert engine.prepared == [(0, 41)]
    step_all(envs, *[0] * 3)
    assert engine.prepared == [(0, 41), (1, 60)]
    step_all(envs, *[0] * (40 + 32 - 35))
    assert engine.prepared[2:] == [(0, 7)]


def step_all(envs: VectorEnv, *actions: int) -> list[Any]:
    steps = []
    for action in actions:
        envs.send(np.full(envs.num_envs, action))
        steps.append(envs.recv())
    return steps


def test_stacks_worked_by_hand() -> None:
    envs = build([[2, 7], [9]], stack=3)
    assert (envs.observation_shape, envs.frame_shape) == ((6,), (2,))
    np.testing.assert_array_equal(envs.reset(), [[0, 0, 0, 0, 2, 0], [0, 0, 0, 0, 9, 0]])
    first, second, third = step_all(envs, 0, 0, 0)
    np.testing.assert_array_equal(first.next_observation, [[0, 0, 2, 0, 2, 1], [0, 0, 9, 0, 9, 1]])
    assert first.observation is first.next_observation
    np.testing.assert_array_equal(second.next_observation, [[2, 0, 2, 1, 2, 2], [9, 0, 9, 1, 9, 2]])
    np.testing.assert_array_equal(second.observation, [[0, 0, 0, 0, 7, 0], [9, 0, 9, 1, 9, 2]])
    np.testing.assert_array_equal(third.observation, [[0, 0, 7, 0, 7, 1], [9, 1, 9, 2, 9, 3]])
    np.testing.assert_array_equal(envs.observation, third.observation)


def episodes_in_a_stack(observation: Array) -> int:
    """Return the largest number of episodes in the stack of one environment; a frame is [seed, step] or zeros."""
    return max(len({seed for seed in row[::2] if seed}) for row in observation)


class Mixing(VectorEnv):
    """Negative control: stacks are not cleared when an episode starts."""

    def _start_episodes(self, mask: Array) -> None:
        previous = self.observation
        super()._start_episodes(mask)
        cleared = self.observation == 0
        self.observation = np.where(mask[:, None] & cleared, previous, self.observation)


@pytest.mark.parametrize(("kind", "largest"), [(VectorEnv, 1), (Mixing, 2)])
def test_no_stack_mixes_two_episodes(kind: type[VectorEnv], largest: int) -> None:
    envs = build([[3, 4, 5, 99], [5, 2, 99]], stack=3, kind=kind)
    envs.reset()
    observations = [step.observation for step in step_all(envs, *[0] * 20)]
    assert max(map(episodes_in_a_stack, observations)) == largest


def test_returned_arrays_are_never_overwritten() -> None:
    envs = build([[3, 4, 99], [5, 99]], stack=2)
    kept: list[tuple[Array, Array]] = []

    def keep(*arrays: Array) -> None:
        kept.extend((array, array.copy()) for array in arrays)

    keep(envs.reset())
    for _ in range(12):
        (step,) = step_all(envs, 1)
        keep(step.next_observation, step.observation, step.reward, step.terminated, step.truncated, step.life_lost)
        keep(envs.observation, *envs.state()["actions"].values(), *(episode.actions for episode in step.episodes))
    for array, copy in kept:
        np.testing.assert_array_equal(array, copy)


def test_send_copies_the_actions() -> None:
    envs = build([[9]])
    envs.reset()
    actions = np.array([3])
    envs.send(actions)
    actions[:] = 0
    envs.recv()
    assert envs.state()["actions"]["0"].tolist() == [3]


def test_episodes_are_recorded_with_raw_returns() -> None:
    envs = build([[2, 3, 9], [4, 9]])
    envs.reset()
    steps = step_all(envs, 1, 4, 2, 3, 1)
    assert [[(e.env_index, e.episode_index, e.seed, e.length) for e in step.episodes] for step in steps] == [
        [],
        [(0, 0, 2, 2)],
        [],
        [(1, 0, 4, 4)],
        [(0, 1, 3, 3)],
    ]
    assert steps[1].episodes[0].episode_return == 50.0
    assert steps[3].episodes[0].episode_return == 100.0
    assert steps[4].episodes[0].actions.tolist() == [2, 3, 1]
    assert [step.reward.tolist() for step in steps[:2]] == [[10.0, 10.0], [40.0, 40.0]]


def test_termination_and_truncation_are_reported_separately() -> None:
    envs = build([[2, 9], [3, 9]])
    envs.reset()
    steps = step_all(envs, 0, 0, 0)
    assert [step.terminated.tolist() for step in steps] == [[False, False], [True, False], [False, False]]
    assert [step.truncated.tolist() for step in steps] == [[False, False], [False, False], [False, True]]
    assert [step.ended.tolist() for step in steps] == [[False, False], [True, False], [False, True]]


def test_termination_has_priority_over_truncation() -> None:
    envs = build([[2, 9]], both=True)
    envs.reset()
    last = step_all(envs, 0, 0)[-1]
    assert (last.terminated.tolist(), last.truncated.tolist()) == ([True], [False])


def test_a_lost_life_is_reported_if_the_episode_continues() -> None:
    envs = build([[4, 9]], lives=(3, 2, 2, 1, 0, 0))
    envs.reset()
    steps = step_all(envs, 0, 0, 0, 0, 0)
    # The last life is lost with the episode; the next episode starts with all lives.
    assert [bool(step.life_lost[0]) for step in steps] == [True, False, True, False, True]
    assert bool(steps[3].terminated[0])


@pytest.mark.parametrize(("clip", "learning"), [(True, [1.0, 0.0, -1.0]), (False, [40.0, 0.0, -20.0])])
def test_the_learning_reward_is_the_sign_only_if_rewards_are_clipped(clip: bool, learning: list[float]) -> None:
    envs = build([[9], [9], [9]], rules={"clip_rewards": clip})
    envs.reset()
    envs.send(np.array([4, 0, -2]))
    step = envs.recv()
    assert step.learning_reward.dtype == np.float32
    assert step.learning_reward.tolist() == learning
    assert step.reward.tolist() == [40.0, 0.0, -20.0], "scores stay raw"


@pytest.mark.parametrize(("rule", "after_a_lost_life"), [(True, 0.0), (False, 1.0)])
def test_continuation_is_zero_after_termination_and_by_rule_after_a_lost_life(
    rule: bool, after_a_lost_life: float
) -> None:
    """Step 1 loses a life, step 2 does not; step 3 truncates environment 0, step 4 terminates environment 1."""
    envs = build([[3, 99], [4, 99]], lives=(3, 2, 2, 2, 2, 2), rules={"life_loss_discount": rule})
    envs.reset()
    steps = step_all(envs, 0, 0, 0, 0)
    assert steps[0].continuation.dtype == np.float32
    assert [step.continuation.tolist() for step in steps] == [
        [after_a_lost_life, after_a_lost_life],
        [1.0, 1.0],
        [1.0, 1.0],
        [after_a_lost_life, 0.0],  # environment 0 started a new episode in step 3 and loses its first life
    ]
    assert steps[2].truncated.tolist() == [True, False]


@pytest.mark.parametrize("stack", [1, 3])
def test_the_newest_frames_are_views_of_the_observations(stack: int) -> None:
    envs = build([[2, 7], [9]], stack=stack)
    envs.reset()
    first, second = step_all(envs, 0, 0)
    assert (first.next_frame.tolist(), first.frame.tolist()) == ([[2, 1], [9, 1]], [[2, 1], [9, 1]])
    assert (second.next_frame.tolist(), second.frame.tolist()) == ([[2, 2], [9, 2]], [[7, 0], [9, 2]])
    assert np.shares_memory(second.next_frame, second.next_observation)
    assert np.shares_memory(second.frame, second.observation)


def test_the_newest_frame_of_an_image_has_all_its_channels() -> None:
    envs = make_envs(EnvSpec("SpaceInvaders", grayscale=False, resize=(20, 30), stack=2), 2, 1)
    envs.reset()
    (step,) = step_all(envs, 0)
    assert step.frame.shape == (2, *envs.frame_space.shape) == (2, 3, 20, 30)
    np.testing.assert_array_equal(step.next_frame, step.next_observation[:, 3:])
    envs.close()


def test_reset_restarts_at_episode_zero() -> None:
    envs = build([[2, 7]], stack=2)
    first = envs.reset()
    step_all(envs, 0, 0, 0)
    envs.send(np.array([1]))
    np.testing.assert_array_equal(envs.reset(), first)
    assert [e.episode_index for step in step_all(envs, 0, 0) for e in step.episodes] == [0]


def test_actions_of_another_shape_are_rejected() -> None:
    envs = build([[9], [9]])
    envs.reset()
    with pytest.raises(ValueError, match=r"shape \(1,\), expected \(2,\)"):
        envs.send(np.array([0]))


def same_future(one: VectorEnv, other: VectorEnv, actions: list[int]) -> None:
    np.testing.assert_array_equal(one.observation, other.observation)
    for left, right in zip(step_all(one, *actions), step_all(other, *actions), strict=True):
        for name in ("next_observation", "observation", "reward", "terminated", "truncated", "life_lost"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
        for a, b in zip(left.episodes, right.episodes, strict=True):
            for name in ("env_index", "episode_index", "seed", "episode_return"):
                assert getattr(a, name) == getattr(b, name)
            np.testing.assert_array_equal(a.actions, b.actions)


@pytest.mark.parametrize("steps", [0, 1, 2, 4, 7, 8, 11])
def test_load_restores_state(steps: int) -> None:
    # Lengths differ, so short episodes idle, and end, while the longest one is replayed.
    seeds = [[2, 3, 2, 3, 9, 9], [30], [4, 9, 9], [1] * 30]
    lives = tuple(range(40, 0, -1))
    envs = build(seeds, stack=3, lives=lives)
    envs.reset()
    rng = np.random.default_rng(steps)
    for _ in range(steps):
        envs.send(rng.integers(5, size=4))
        envs.recv()
    restored = build(seeds, stack=3, lives=lives)
    restored.load(envs.state())
    same_future(envs, restored, [1, 2, 3, 4, 0, 1, 2, 3, 4])


def test_a_started_step_is_not_in_the_state() -> None:
    envs, restored = build([[9], [9]]), build([[9], [9]])
    envs.reset()
    step_all(envs, 1, 2)
    observation = envs.observation
    envs.send(np.array([3, 3]))
    state = envs.state()
    assert state["actions"]["0"].tolist() == [1, 2]
    restored.load(state)
    np.testing.assert_array_equal(restored.observation, observation)
    # Loading discards a step that `send` has started.
    envs.load(state)
    same_future(envs, restored, [1, 2])


def test_a_state_contains_only_arrays() -> None:
    envs = build([[9], [9]])
    envs.reset()
    step_all(envs, 3)
    state = envs.state()
    assert state["episode_index"].tolist() == [0, 0]
    assert state["returns"].tolist() == [30.0, 30.0]
    assert {key: value.tolist() for key, value in state["actions"].items()} == {"0": [3], "1": [3]}
    assert all(value.dtype == np.int64 for value in state["actions"].values())


def test_a_state_that_does_not_fit_is_rejected() -> None:
    envs = build([[5], [5]])
    envs.reset()
    step_all(envs, 1, 2)
    state = envs.state()
    with pytest.raises(UserError, match="--num-envs 1 differs from the checkpoint's 2 environments"):
        build([[5]]).load(state)
    unpaid = build([[5], [5]])
    unpaid.reset()
    step_all(unpaid, 0, 0)
    for sooner in (state, unpaid.state()):
        with pytest.raises(UserError, match=r"cannot restore the environments: .* other rewards"):
            build([[2, 9], [5]]).load(sooner)
    with pytest.raises(UserError, match=r"cannot restore the environments: .* other rewards"):
        build([[5], [5]]).load(state | {"returns": np.array([30.0, 31.0])})
