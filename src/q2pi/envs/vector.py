"""A vector of N games under law 1: an episode is a pure function of (specification, seed, actions).

The timeline of one game; every episode begins with our own seeded reset, and the step in which an engine would reset
itself is never taken:

    reset(seed 0)      send a0   recv           send a1   recv: ended             send a2 ...
    observation o0 --> a0 -----> o1 ----------> a1 -----> next_observation o2 (final, true)
                                                          reset(seed 1) -> observation o'0 --> a2 ...
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from q2pi.envs.spec import EnvSpec
from q2pi.errors import UserError
from q2pi.types import Array

PREPARE_AFTER = 32
"""Agent steps of an episode after which its engine is told of the next one; shorter runs are spared the work."""


@dataclass(frozen=True, slots=True)
class Frames:
    """What an engine reports of its N games after a reset or a step."""

    frame: Array
    """[N, *frame_shape] the newest frame (or observation vector) of each game; a fresh array, never written again."""
    reward: Array
    """[N] float32, raw."""
    terminated: Array
    """[N] bool: the world ended."""
    truncated: Array
    """[N] bool: time ran out, the world did not end."""
    lives: Array
    """[N] int64: lives left, 0 where the game has none."""


class Engine(Protocol):
    """N games stepped together. Engines know nothing of episodes, stacks or protocols beyond their construction."""

    num_envs: int
    frame_space: Any  # gymnasium.spaces.Box of one frame: uint8 [C, H, W], or float32 [D]
    action_space: Any  # gymnasium space of one game's action

    def reset(self, mask: Array, seeds: Array) -> Frames:
        """Begin new episodes where mask [N] is true, seeded by seeds [N]; the other games are left untouched."""

    def expect(self, game: int, seed: int) -> None:
        """Get ready for the episode of a game that will begin with this seed, where that takes long; may do nothing."""

    def send(self, actions: Array) -> None:
        """Start one step of every game; returns at once where the engine has threads of its own."""

    def recv(self) -> Frames:
        """Wait for the step that was sent."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Episode:
    """A finished episode: enough to create it again, with its raw score."""

    game: int
    number: int
    seed: int
    actions: Array
    """[T] or [T, *action_shape]"""
    episode_return: float
    """Sum of raw rewards."""
    length: int
    """Agent steps."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of N games, as the learner sees it."""

    next_observation: Array
    """[N, *observation_shape] the true result of the action: the final observation where an episode ended."""
    observation: Array
    """[N, *observation_shape] what the next action is based on: the first observation of the new episode where one
    ended, `next_observation` elsewhere (the same array when none ended)."""
    reward: Array
    """[N] float32, raw."""
    terminated: Array
    """[N] bool: the world ended (no bootstrap)."""
    truncated: Array
    """[N] bool: time ran out (bootstrap from `next_observation`). Never true together with `terminated`."""
    life_lost: Array
    """[N] bool: a life was lost and the game goes on."""
    episodes: tuple[Episode, ...]
    """The episodes that ended with this step, in order of game index."""
    clip_rewards: bool = False
    life_loss_discount: bool = False
    stack: int = 1

    @property
    def learning_reward(self) -> Array:
        reward: Array = np.sign(self.reward) if self.clip_rewards else self.reward
        return reward

    @property
    def continuation(self) -> Array:
        stopped = self.terminated | self.life_lost if self.life_loss_discount else self.terminated
        return 1 - stopped.astype(np.float32)

    @property
    def next_frame(self) -> Array:
        return self.next_observation[:, -(self.next_observation.shape[1] // self.stack) :]

    @property
    def frame(self) -> Array:
        return self.observation[:, -(self.observation.shape[1] // self.stack) :]

    @property
    def ended(self) -> Array:
        """[N] bool: the episode ended, either way."""
        return self.terminated | self.truncated


_CANNOT_RESTORE = "the games in flight do not come out as they were: the emulator or the environment is another version"


class VectorEnv:
    """N games of one environment, each a sequence of seeded episodes, with stacked observations.

    A stack is a concatenation along the frame's first axis, oldest first: K frames [C, H, W] are [K * C, H, W]. Frames
    before an episode's first are zero, so no stack ever holds two episodes. Arrays handed out are never written to
    again.

    Args:
        engine: the games; this object is its only user from now on.
        spec: a resolved specification.
        seed_of: the seed of an episode, from the game's index and the episode's number in that game.
    """

    def __init__(self, engine: Engine, spec: EnvSpec, seed_of: Callable[[int, int], int]) -> None:
        assert spec.stack is not None, "the specification is not resolved"
        self.engine, self.spec, self.seed_of = engine, spec, seed_of
        self.num_envs = engine.num_envs
        self.action_space = engine.action_space
        self.frame_space = engine.frame_space
        self.stack = spec.stack
        self.frame_shape: tuple[int, ...] = self.frame_space.shape
        self.frame_dtype: np.dtype[Any] = self.frame_space.dtype
        self.observation_shape = (self.stack * self.frame_shape[0], *self.frame_shape[1:])
        self.observation: Array = np.zeros((self.num_envs, *self.observation_shape), self.frame_dtype)
        """[N, *observation_shape] what the next action is based on."""
        self._numbers = np.zeros(self.num_envs, np.int64)
        self._seeds = np.zeros(self.num_envs, np.int64)
        self._lives = np.zeros(self.num_envs, np.int64)
        self._returns = np.zeros(self.num_envs, np.float64)
        self._actions: list[list[Array]] = [[] for _ in range(self.num_envs)]
        self._sent: Array | None = None

    def reset(self) -> Array:
        """Begin episode 0 of every game and return the first observations."""
        self._forget_sent()
        self._numbers[:] = 0
        self._begin(np.ones(self.num_envs, np.bool_))
        return self.observation

    def send(self, actions: Array) -> None:
        """Start one step of every game.

        Args:
            actions: [N, *action_shape].

        Raises:
            ValueError: another shape, or an action that an Atari game does not have.
        """
        actions = np.array(actions, dtype=self.action_space.dtype)
        expected = (self.num_envs, *self.action_space.shape)
        if actions.shape != expected:
            raise ValueError(f"actions have shape {actions.shape}, expected {expected}")
        self.engine.send(actions)
        self._sent = actions

    def recv(self) -> Step:
        """Wait for the step that was sent; games that ended with it have begun their next episode on return."""
        before = self._lives
        frames = self._advance()
        next_observation = self.observation
        ended = frames.terminated | frames.truncated
        episodes = tuple(self._episode(int(game)) for game in np.flatnonzero(ended))
        if ended.any():
            self._numbers += ended
            self._begin(ended)
        return Step(
            next_observation=next_observation,
            observation=self.observation,
            reward=frames.reward,
            terminated=frames.terminated,
            truncated=frames.truncated & ~frames.terminated,
            life_lost=(frames.lives < before) & ~ended,
            episodes=episodes,
            clip_rewards=bool(self.spec.clip_rewards),
            life_loss_discount=bool(self.spec.life_loss_discount),
            stack=self.stack,
        )

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()

    def state(self) -> dict[str, Any]:
        """Return the episodes in flight as of the last `recv`; a step that was sent since then is not in it.

        `numbers` int64 [N], `returns` float64 [N] (raw, so far), `actions` by game's index [T, *action_shape].
        """
        return {
            "numbers": self._numbers.copy(),
            "returns": self._returns.copy(),
            "actions": {str(game): self._stored_actions(game) for game in range(self.num_envs)},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a `state()`: the episodes in flight are played again from their seeds.

        The games are stepped together, so their ends are aligned: the longest episode begins at once, the others when
        as many steps are left as they have. Until then their actions are the longest one's, and mean nothing.

        Raises:
            UserError: the games do not come out as they were, or their number is another.
        """
        envs = len(state["numbers"])
        if envs != self.num_envs:
            raise UserError(f"--num-envs {self.num_envs} differs from the {envs} games of the checkpoint")
        actions = [np.asarray(state["actions"][str(game)]) for game in range(envs)]
        self._forget_sent()
        self._numbers[:] = state["numbers"]
        self._replay(actions)
        if not np.array_equal(self._returns, state["returns"]):
            raise UserError(_CANNOT_RESTORE)

    def _replay(self, actions: list[Array]) -> None:
        """Play the current episode of each game, from its seed through its actions [T_n], all to the same end."""
        lengths = np.array([len(taken) for taken in actions])
        longest, leader = int(lengths.max()), actions[int(lengths.argmax())]
        first = longest - lengths
        begins = np.ones(self.num_envs, np.bool_)
        for step in range(longest):
            self._begin(begins)
            live = first <= step
            taken = [actions[n][step - first[n]] if live[n] else leader[step] for n in range(self.num_envs)]
            self.send(np.stack(taken))
            frames = self._advance()
            ended = frames.terminated | frames.truncated
            if (ended & live).any():
                raise UserError(_CANNOT_RESTORE)
            begins = ended | (first == step + 1)
        self._begin(begins)

    def _begin(self, mask: Array) -> None:
        """Begin the current episode of the games where mask [N] is true."""
        if not mask.any():
            return
        envs = [int(game) for game in np.flatnonzero(mask)]
        self._seeds[mask] = [self.seed_of(game, int(self._numbers[game])) for game in envs]
        frames = self.engine.reset(mask, self._seeds)
        observation = self.observation.copy()
        observation[mask] = 0
        observation[mask, -self.frame_shape[0] :] = frames.frame[mask]
        self.observation = observation
        self._lives = np.where(mask, frames.lives, self._lives)
        self._returns[mask] = 0.0
        for game in envs:
            self._actions[game] = []

    def _advance(self) -> Frames:
        """Receive a step: push its frames onto the stacks, keep its actions and count its rewards."""
        assert self._sent is not None, "recv without send"
        frames = self.engine.recv()
        for game, action in enumerate(self._sent):
            self._actions[game].append(action)
            if len(self._actions[game]) == PREPARE_AFTER:
                self.engine.expect(game, self.seed_of(game, int(self._numbers[game]) + 1))
        self._sent = None
        kept = self.observation[:, self.frame_shape[0] :]
        self.observation = np.concatenate([kept, frames.frame], axis=1)
        self._lives = frames.lives
        self._returns += frames.reward
        return frames

    def _episode(self, game: int) -> Episode:
        return Episode(
            game=game,
            number=int(self._numbers[game]),
            seed=int(self._seeds[game]),
            actions=self._stored_actions(game),
            episode_return=float(self._returns[game]),
            length=len(self._actions[game]),
        )

    def _stored_actions(self, game: int) -> Array:
        shape = (len(self._actions[game]), *self.action_space.shape)
        return np.array(self._actions[game], self.action_space.dtype).reshape(shape)

    def _forget_sent(self) -> None:
        """Let a step under way come to its end; the engine takes no reset before that."""
        if self._sent is not None:
            self.engine.recv()
            self._sent = None
