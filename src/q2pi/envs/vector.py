"""N environments stepped together. An episode is a pure function of (specification, seed, actions).

Timeline of one environment. Every episode starts with an explicit seeded reset; the engine never resets by itself:

    reset(seed 0)      send a0   recv           send a1   recv: ended             send a2 ...
    observation o0 --> a0 -----> o1 ----------> a1 -----> next_observation o2 (the final one)
                                                          reset(seed 1) -> observation o'0 --> a2 ...
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from q2pi.envs.errors import EnvError
from q2pi.envs.interface import Engine, Frames
from q2pi.envs.reproducibility import is_reproducible
from q2pi.envs.spec import EnvSpec
from q2pi.errors import UserError
from q2pi.types import Array

PREPARE_AFTER = 32
"""Agent steps of an episode after which the next reset is prepared, so that very short episodes do not pay for it."""


@dataclass(frozen=True, slots=True)
class Episode:
    """A finished episode: its raw return, and enough to replay it."""

    env_index: int
    episode_index: int
    """Index among the episodes of its environment, from 0."""
    seed: int
    actions: Array
    """[T] or [T, *action_shape]"""
    episode_return: float
    """Sum of raw rewards, in float64."""
    length: int
    """Agent steps."""


class Step(NamedTuple):
    """One step of N environments, as the learner sees it."""

    next_observation: Array
    """[N, *observation_shape] result of the action: the final observation if the episode ended."""
    observation: Array
    """[N, *observation_shape] input of the next action: the first observation of the new episode if one ended, else
    `next_observation` (the same array if no episode ended)."""
    reward: Array
    """[N] float64, raw."""
    terminated: Array
    """[N] bool: the environment terminated (no bootstrap)."""
    truncated: Array
    """[N] bool: the time limit was reached (bootstrap from `next_observation`). Never true with `terminated`."""
    life_lost: Array
    """[N] bool: a life was lost and the episode continues."""
    episodes: tuple[Episode, ...]
    """The episodes that ended with this step, in order of `env_index`."""
    clip_rewards: bool = False
    """Whether the learner sees the sign of the reward."""
    life_loss_discount: bool = False
    """Whether a lost life stops bootstrapping."""
    stack: int = 1
    """Number of frames per observation."""
    env_indices: Array | None = None
    """[N] index of each environment among those of all actors; None if the step is one of all environments."""
    priority_errors: Array | None = None
    """float32 [N, n]: the error that prioritizes the transition from k steps before this one, k = 0 .. n - 1, if this
    step completes its n-step return, else NaN; None if no actor computes it."""

    @property
    def ended(self) -> Array:
        """[N] bool: the episode ended, by termination or truncation."""
        return self.terminated | self.truncated

    @property
    def learning_reward(self) -> Array:
        """[N] float32: the sign of the reward if rewards are clipped, else the raw reward."""
        reward: Array = (np.sign(self.reward) if self.clip_rewards else self.reward).astype(np.float32)
        return reward

    @property
    def continuation(self) -> Array:
        """[N] float32, factor of the discount: 0 if terminated, or if a lost life stops bootstrapping; else 1."""
        stopped = self.terminated | self.life_lost if self.life_loss_discount else self.terminated
        return 1 - stopped.astype(np.float32)

    @property
    def next_frame(self) -> Array:
        """[N, *frame_shape] newest frame of `next_observation`, a view."""
        return _newest_frame(self.next_observation, self.stack)

    @property
    def frame(self) -> Array:
        """[N, *frame_shape] newest frame of `observation`, a view."""
        return _newest_frame(self.observation, self.stack)


_CANNOT_RESTORE = (
    "cannot restore the environments: replaying the stored actions gave other rewards or observations "
    "(was ALE or Gymnasium updated?)"
)


class VectorEnv:
    """N copies of one environment, each a sequence of seeded episodes, with stacked observations.

    A stack concatenates frames along their first axis, oldest first: K frames [C, H, W] are [K * C, H, W]. Frames
    before an episode's first are zero, so a stack never mixes two episodes. Returned arrays are never written again.

    Args:
        engine: the environments; nothing else may use it from now on.
        spec: a resolved specification.
        seed_of: (env_index, episode_index) -> seed of that episode.
    """

    def __init__(self, engine: Engine, spec: EnvSpec, seed_of: Callable[[int, int], int]) -> None:
        assert spec.stack is not None, "the specification is not resolved"
        self.engine, self.spec, self.seed_of = engine, spec, seed_of
        self.num_envs = engine.num_envs
        self.action_space = engine.action_space
        self.frame_space = engine.frame_space
        self.parts = engine.parts
        self.observation_space = engine.observation_space
        self.stack = spec.stack
        self.frame_shape: tuple[int, ...] = self.frame_space.shape
        self.frame_dtype: np.dtype[Any] = self.frame_space.dtype
        self.observation_shape = (self.stack * self.frame_shape[0], *self.frame_shape[1:])
        self.observation: Array = np.zeros((self.num_envs, *self.observation_shape), self.frame_dtype)
        """[N, *observation_shape] input of the next action."""
        self._episode_index = np.zeros(self.num_envs, np.int64)
        self._seeds = np.zeros(self.num_envs, np.int64)
        self._lives = np.zeros(self.num_envs, np.int64)
        self._returns = np.zeros(self.num_envs, np.float64)
        self._actions: list[list[Array]] = [[] for _ in range(self.num_envs)]
        self._sent: Array | None = None
        self.largest_reward = 0.0
        """Largest absolute reward so far, to be named if training diverges."""
        self.is_reproducible = True
        """False if episodes with the same seed and actions were found to differ, see `check_reproducible`."""

    def check_reproducible(self) -> bool:
        """Step the environments a little to find out whether their episodes can be recreated; then call `reset`."""
        self.is_reproducible = is_reproducible(self.engine, self.seed_of)
        return self.is_reproducible

    def reset(self) -> Array:
        """Start episode 0 of every environment and return the first observations."""
        self._discard_sent()
        self._episode_index = np.zeros(self.num_envs, np.int64)
        self._start_episodes(np.ones(self.num_envs, np.bool_))
        return self.observation

    def send(self, actions: Array) -> None:
        """Start one step of every environment.

        Args:
            actions: [N, *action_shape].

        Raises:
            ValueError: another shape, or an action outside an Atari game's action space.
        """
        actions = np.array(actions, dtype=self.action_space.dtype)
        expected = (self.num_envs, *self.action_space.shape)
        if actions.shape != expected:
            raise ValueError(f"actions have shape {actions.shape}, expected {expected}")
        self.engine.send(actions)
        self._sent = actions

    def recv(self) -> Step:
        """Wait for the step that `send` started; environments whose episode ended have started the next one.

        Raises:
            EnvError: an environment failed. `state` then returns the state before the step.
        """
        before = self._in_progress()
        try:
            return self._recv()
        except EnvError:
            self._go_back(*before)
            raise

    def _recv(self) -> Step:
        previous_lives = self._lives
        frames = self._advance()
        next_observation = self.observation
        episodes: tuple[Episode, ...] = ()
        truncated, life_lost = frames.truncated, frames.lives < previous_lives
        ended = frames.terminated | truncated
        if np.count_nonzero(ended):  # a fifth of the time of `any`
            truncated, life_lost = truncated & ~frames.terminated, life_lost & ~ended
            episodes = tuple(self._episode(int(env_index)) for env_index in np.flatnonzero(ended))
            self._episode_index = self._episode_index + ended
            self._start_episodes(ended)
        return Step(
            next_observation=next_observation,
            observation=self.observation,
            reward=frames.reward,
            terminated=frames.terminated,
            truncated=truncated,
            life_lost=life_lost,
            episodes=episodes,
            clip_rewards=bool(self.spec.clip_rewards),
            life_loss_discount=bool(self.spec.life_loss_discount),
            stack=self.stack,
        )

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()

    def state(self) -> dict[str, Any]:
        """Return the unfinished episodes as of the last `recv`, without a step that `send` has started since.

        `episode_index` int64 [N], `returns` float64 [N] (raw, so far), `actions` by env_index: [T, *action_shape],
        `observation_hash`: of each environment's observation, to be compared when the actions are replayed.
        `is_reproducible`: see the attribute.
        """
        return {
            "is_reproducible": self.is_reproducible,
            "episode_index": self._episode_index.copy(),
            "returns": self._returns.copy(),
            "observation_hash": [_hash(observation) for observation in self.observation],
            "actions": {str(env_index): self._stored_actions(env_index) for env_index in range(self.num_envs)},
        }

    def load(self, state: dict[str, Any]) -> bool:
        """Continue from a `state()`: replay the unfinished episodes from their seeds and actions.

        Return whether the episodes continue. If the environments are not reproducible, which the state may say or the
        replay may show, new episodes begin instead. Environments known to be reproducible are refused then.

        The environments step together, so their last steps are aligned: the longest episode starts first, each other
        one when as many steps remain as it has. Until then an environment repeats the longest episode's actions, and
        the results are discarded.

        Raises:
            UserError: the replay of environments known to be reproducible gave other rewards or observations, or the
                state has another number of environments.
        """
        num_envs = len(state["episode_index"])
        if num_envs != self.num_envs:
            raise UserError(f"--num-envs {self.num_envs} differs from the checkpoint's {num_envs} environments")
        self._discard_sent()
        self._episode_index = np.array(state["episode_index"])
        self.is_reproducible = bool(state["is_reproducible"])
        if self.is_reproducible:
            try:
                self._restore(state)
                return True
            except UserError:
                if self.engine.is_known_reproducible:
                    raise
                self.is_reproducible = False
        self._sent = None
        self._episode_index = np.array(state["episode_index"]) + 1
        self._start_episodes(np.ones(self.num_envs, np.bool_))
        return False

    def _restore(self, state: dict[str, Any]) -> None:
        """Replay the unfinished episodes of a `state()`; raise a UserError if they differ."""
        self._replay([np.asarray(state["actions"][str(env_index)]) for env_index in range(self.num_envs)])
        hashes = [_hash(observation) for observation in self.observation]
        if not np.array_equal(self._returns, state["returns"]) or hashes != state["observation_hash"]:
            raise UserError(_CANNOT_RESTORE)

    def _replay(self, actions: list[Array]) -> None:
        """Replay the current episode of each environment: N arrays of actions [T_n], all to the same last step."""
        lengths = np.array([len(episode_actions) for episode_actions in actions])
        longest, leader = int(lengths.max()), actions[int(lengths.argmax())]
        first = longest - lengths
        starting = np.ones(self.num_envs, np.bool_)
        for step in range(longest):
            self._start_episodes(starting)
            live = first <= step
            replayed = [actions[n][step - first[n]] if live[n] else leader[step] for n in range(self.num_envs)]
            self.send(np.stack(replayed))
            frames = self._advance()
            ended = frames.terminated | frames.truncated
            if (ended & live).any():
                raise UserError(_CANNOT_RESTORE)
            starting = ended | (first == step + 1)
        self._start_episodes(starting)

    def _start_episodes(self, mask: Array) -> None:
        """Start the current episode of the environments where mask [N] is true."""
        if not mask.any():
            return
        env_indices = [int(env_index) for env_index in np.flatnonzero(mask)]
        self._seeds[mask] = [self.seed_of(env_index, int(self._episode_index[env_index])) for env_index in env_indices]
        try:
            frames = self.engine.reset(mask, self._seeds)
        except EnvError as error:
            self._locate(error, in_reset=True)
            raise
        observation = self.observation.copy()
        observation[mask] = 0
        observation[mask, -self.frame_shape[0] :] = frames.frame[mask]
        self.observation = observation
        self._lives = np.where(mask, frames.lives, self._lives)
        self._returns = np.where(mask, 0.0, self._returns)
        for env_index in env_indices:
            self._actions[env_index] = []

    def _advance(self) -> Frames:
        """Receive a step: push its frames onto the stacks, store its actions, add its rewards to the returns."""
        assert self._sent is not None, "recv without send"
        try:
            frames = self.engine.recv()
        except EnvError as error:
            self._locate(error, in_reset=False)
            raise
        for env_index, (actions, action) in enumerate(zip(self._actions, self._sent, strict=True)):
            actions.append(action)
            if len(actions) == PREPARE_AFTER:
                next_seed = self.seed_of(env_index, int(self._episode_index[env_index]) + 1)
                self.engine.prepare_reset(env_index, next_seed)
        self._sent = None
        if self.stack == 1:
            self.observation = frames.frame
        else:
            kept = self.observation[:, self.frame_shape[0] :]
            self.observation = np.concatenate([kept, frames.frame], axis=1)
        self._lives = frames.lives
        self._returns = self._returns + frames.reward
        self.largest_reward = max(self.largest_reward, *map(abs, frames.reward.tolist()))
        return frames

    def _locate(self, error: EnvError, in_reset: bool) -> None:
        """Add the episode and the step to an error of the engine."""
        if error.env_index is not None:
            steps = 0 if in_reset else len(self._actions[error.env_index]) + 1
            error.locate(int(self._episode_index[error.env_index]), steps)

    def _in_progress(self) -> tuple[Array, Array, Array, Array, list[list[Array]], int]:
        """Return what a step changes: no array is written in place, and a step appends one action to each list."""
        steps = len(self._actions[0]) if self._actions else 0
        return self.observation, self._lives, self._returns, self._episode_index, list(self._actions), steps

    def _go_back(
        self, observation: Array, lives: Array, returns: Array, index: Array, actions: list[list[Array]], steps: int
    ) -> None:
        """Return to the state of `_in_progress` after an error; the engine itself cannot continue."""
        self.observation, self._lives, self._returns, self._episode_index = observation, lives, returns, index
        if len(actions[0]) > steps:
            for episode_actions in actions:
                episode_actions.pop()
        self._actions, self._sent = actions, None

    def _episode(self, env_index: int) -> Episode:
        return Episode(
            env_index=env_index,
            episode_index=int(self._episode_index[env_index]),
            seed=int(self._seeds[env_index]),
            actions=self._stored_actions(env_index),
            episode_return=float(self._returns[env_index]),
            length=len(self._actions[env_index]),
        )

    def _stored_actions(self, env_index: int) -> Array:
        shape = (len(self._actions[env_index]), *self.action_space.shape)
        return np.array(self._actions[env_index], self.action_space.dtype).reshape(shape)

    def _discard_sent(self) -> None:
        """Wait for a step that `send` has started: an engine cannot reset during a step."""
        if self._sent is not None:
            self.engine.recv()
            self._sent = None


def _newest_frame(observation: Array, stack: int) -> Array:
    """Return the last of `stack` frames of observations [N, stack * C, ...] as a view [N, C, ...]."""
    return observation[:, -(observation.shape[1] // stack) :]


def _hash(observation: Array) -> str:
    """Return a hash of one observation's bytes."""
    return hashlib.blake2b(np.ascontiguousarray(observation).tobytes(), digest_size=16).hexdigest()
