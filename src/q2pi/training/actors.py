"""Actors: processes that step environments with slightly old weights and send compressed rows to one learner.

Paper: Horgan et al. 2018, "Distributed Prioritized Experience Replay" (Ape-X). The timeline with 2 actors:

    actor 0    step x T  send         step x T  send         step x T ...
    actor 1         step x T  send         step x T  send
    learner    publish  recv(0) learn ... recv(1) learn ... publish ...

- An actor has `config.num_envs` environments of its own, its own random streams and its own exploration rate.
- The learner requests each message of T steps together with the newest published weights. REQUESTS requests per actor
  are open at a time: a slow learner makes actors wait, and slow actors make the learner wait. Updates are due by the
  agent step, as without actors, so the number of updates per step is that of the configuration.
- An actor that died is replaced. Its unfinished episodes are cut as if they were truncated.
- Which rows the learner reads depends on timing, so a run with actors is not reproducible, and a resumed run begins new
  episodes. Lock-step (T = 0) with one actor is the exception: it equals the loop without actors, bit for bit.

This module has no transport: `runs.ray_actors` puts `Actor` on a cluster.
- With prioritized replay, actors compute the initial priorities of their transitions.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
import zstandard

from q2pi import rng
from q2pi.algorithms.base import ActorAgent, Agent
from q2pi.algorithms.build import agent_spec, build_agent, restore, start_from
from q2pi.algorithms.registry import default_config, find
from q2pi.config import ResolvedConfig, from_table, resolve, to_table
from q2pi.envs.make import make_envs
from q2pi.envs.vector import Episode, Step
from q2pi.errors import UserError
from q2pi.types import Array, State

REQUESTS = 2
"""Open requests per actor: with one, an actor would wait for the learner after each message."""
DEATHS = 10
"""Number of actors in a row that may die without a message between them."""

Weights = dict[str, Array]


class ActorsLost(UserError):
    """Actors die as soon as they are replaced."""


@dataclass(frozen=True)
class Rows:
    """T steps of one actor's E environments."""

    version: int
    """Version of the weights that chose the actions."""
    first_frame: bytes | None
    """Compressed first frames [E, *frame_shape] of the actor's first episodes, in its first message alone."""
    frames: bytes
    """Compressed frames [T, E, *frame_shape]: results of the actions."""
    new_frames: bytes
    """Compressed first frames [n, *frame_shape] of the episodes that began, in order of step and environment."""
    action: Array
    """[T, E, *action_shape]"""
    reward: Array
    """float32 [T, E], raw."""
    ends: Array
    """bool [T, 3, E]: terminated, truncated, life lost."""
    episodes: tuple[tuple[Episode, ...], ...]
    """Episodes that ended with each step."""
    errors: Array | None = None
    """float32 [T, E, n] for initial priorities, see `Step.priority_errors`; None without them."""

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays and frames, without episodes."""
        frames = len(self.first_frame or b"") + len(self.frames) + len(self.new_frames)
        arrays = (self.action, self.reward, self.ends, *([] if self.errors is None else [self.errors]))
        return frames + sum(array.nbytes for array in arrays)


def compress(frames: Array) -> bytes:
    """Return frames as Zstandard data."""
    return zstandard.ZstdCompressor(level=1).compress(np.ascontiguousarray(frames).data)


def decompress(data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return the frames [-1, *shape] that `compress` was given."""
    return np.frombuffer(zstandard.ZstdDecompressor().decompress(data), dtype).reshape(-1, *shape)


class Actor:
    """The environments of one actor, and an agent that acts in them.

    Args:
        table: the run's configuration as a table.
        index: number of the actor.
        seed: seed of its episodes and of its exploration.
    """

    def __init__(self, table: dict[str, Any], index: int, seed: int) -> None:
        torch.set_num_threads(1)
        config = resolve(from_table(default_config(table["algorithm"]), table, "the run's configuration"))
        hyper = config.hyper.for_actor(index, config)
        self.config = dataclasses.replace(config, hyper=hyper, device="cpu", seed=seed)
        self.envs = make_envs(config.env, config.num_envs, seed)
        self.agent = cast(ActorAgent, build_agent(self.config, self.envs))
        self.first: Array | None = self.envs.reset()
        # In lock-step they would differ from those of the loop without actors.
        self.priorities = self.agent.actor_priorities() if config.actor_steps else None
        if self.priorities is not None:
            self.priorities.begin(self.first)
        self.version = -1

    def collect(self, step: int, version: int, weights: Mapping[str, Array]) -> Rows:
        """Take steps of the environments.

        Args:
            step: the learner's agent step, for the schedule of exploration.
            version: version of the weights; higher is newer.
            weights: of the acting network, by name.
        """
        if version != self.version:
            tensors = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
            self.agent.acting_network.load_state_dict(tensors)
            self.version = version
        first, self.first = self.first, None
        results: list[Step] = []
        actions: list[Array] = []
        for index in range(max(1, self.config.actor_steps)):
            action = self.agent.act(self.envs.observation, step + index * self.config.total_envs)
            self.envs.send(action)
            actions.append(action)
            results.append(self.envs.recv())
            if self.priorities is not None:
                self.priorities.observe(action, results[-1])
        return self._rows(first, actions, results)

    def _rows(self, first: Array | None, actions: list[Array], results: list[Step]) -> Rows:
        size = self.envs.frame_shape[0]
        new = [result.frame[result.ended] for result in results]
        return Rows(
            version=self.version,
            first_frame=None if first is None else compress(first[:, -size:]),
            frames=compress(np.stack([result.next_frame for result in results])),
            new_frames=compress(np.concatenate(new)),
            action=np.stack(actions),
            reward=np.stack([result.reward for result in results]),
            ends=np.stack([[result.terminated, result.truncated, result.life_lost] for result in results]),
            episodes=tuple(result.episodes for result in results),
            errors=None if self.priorities is None else self.priorities.errors(),
        )

    def close(self) -> None:
        self.envs.close()


class Pool(Protocol):
    """Transport between the learner and its actors."""

    def start(self, table: dict[str, Any], index: int, seed: int) -> None:
        """Start actor `index` as `Actor(table, index, seed)`; requests to an earlier actor `index` are dropped."""

    def publish(self, version: int, weights: Weights) -> None:
        """Make weights the newest: later requests use them."""

    def request(self, index: int, step: int) -> None:
        """Request a message from an actor, see `Actor.collect`; an actor answers its requests in order."""

    def receive(self) -> tuple[int, Rows | str]:
        """Wait for a message of any actor; return (index, the message), or (index, the reason) if the actor died."""

    def close(self) -> None:
        """End all actors."""


class Actors:
    """A `Source` of the training loop: the actors of one learner.

    Args:
        config: configuration of a run with `config.actors` > 0.
        pool: transport to the actors.
    """

    def __init__(self, config: ResolvedConfig[Any], pool: Pool) -> None:
        self.config, self.pool = config, pool
        self.is_lock_step = config.actor_steps == 0
        self.agent: ActorAgent
        self.started = 0
        """Number of actors started so far; the seed of each is another."""
        self.deaths = 0
        """Number of actors in a row that died without a message between them."""
        self.version = -1
        self.messages = 0
        """Number of messages since the weights were published."""
        self.step = 0
        self.next_actor = 0
        self.steps: list[tuple[Array, Step]] = []
        """Steps that have arrived, the next one last."""
        self.largest_reward = 0.0

    def start(self, state: State | None, weights: State | None = None) -> tuple[Agent, int, str]:
        envs = make_envs(self.config.env, 1, self.config.seed)
        spec = dataclasses.replace(agent_spec(self.config, envs), num_envs=self.config.total_envs)
        self.frame_shape, self.frame_dtype = envs.frame_shape, envs.frame_dtype
        self.clip_rewards, self.life_loss_discount = bool(envs.spec.clip_rewards), bool(envs.spec.life_loss_discount)
        envs.close()
        self.config.hyper.check_spaces(spec)
        self.agent = find(self.config.algorithm).Agent(self.config.hyper, spec)
        if state is not None:
            restore(self.agent, state)
            self.step, self.started = state["step"], state["actors"]["started"]
        elif weights is not None:
            start_from(self.agent, weights, str(self.config.from_run))
        self._publish()
        for index in range(self.config.actors):
            self._start(index)
        return self.agent, self.step, ""

    def _start(self, index: int) -> None:
        """Start or replace an actor."""
        seed = self.config.seed
        # The first actor has the run's own streams, so that lock-step equals the loop without actors.
        own = rng.derive(seed, "actor", self.started) if self.started else seed
        self.started += 1
        self.pool.start(to_table(self.config), index, own)
        if not self.is_lock_step:
            for _ in range(REQUESTS):
                self.pool.request(index, self.step)

    def act(self, agent: Agent, step: int) -> None:
        self.step = step
        if self.is_lock_step:
            self._publish()
            self.pool.request(self.next_actor, step)
            self.next_actor = (self.next_actor + 1) % self.config.actors
        elif self.messages >= self.config.actors:
            self._publish()

    def _publish(self) -> None:
        self.version += 1
        self.messages = 0
        weights = self.agent.acting_network.state_dict()
        self.pool.publish(self.version, {name: tensor.cpu().numpy() for name, tensor in weights.items()})

    def finish(self, agent: Agent, step: int) -> None:
        pass  # an extended run begins new episodes

    def send(self) -> None:
        pass  # actors do not wait for the loop

    def recv(self) -> tuple[Array, Step]:
        while not self.steps:
            index, rows = self.pool.receive()
            if isinstance(rows, str):
                self._replace(index, reason=rows)
                continue
            self.deaths = 0
            self.messages += 1
            self.largest_reward = max(self.largest_reward, float(np.abs(rows.reward).max()))
            if not self.is_lock_step:
                self.pool.request(index, self.step)
            self.steps = list(reversed(self._read(index, rows)))
        return self.steps.pop()

    def _replace(self, index: int, reason: str) -> None:
        self.deaths += 1
        if self.deaths > DEATHS:
            raise ActorsLost(f"{self.deaths} actors in a row died without a message, the last: {reason}")
        self._start(index)
        if self.is_lock_step:
            self.pool.request(index, self.step)

    def _read(self, index: int, rows: Rows) -> list[tuple[Array, Step]]:
        """Return the actions and results of a message; begin the first episodes of a new actor."""
        count = self.config.num_envs
        env_indices = np.arange(index * count, (index + 1) * count)
        if rows.first_frame is not None:
            self.agent.begin(decompress(rows.first_frame, self.frame_shape, self.frame_dtype), env_indices)
        frames = decompress(rows.frames, (count, *self.frame_shape), self.frame_dtype)  # [T, E, *frame_shape]
        new_frames = decompress(rows.new_frames, self.frame_shape, self.frame_dtype)
        steps, first = [], 0
        for t, (frame, ends) in enumerate(zip(frames, rows.ends, strict=True)):
            terminated, truncated, life_lost = ends
            ended = terminated | truncated
            following = frame
            if ended.any():
                following = frame.copy()
                following[ended] = new_frames[first : (first := first + int(ended.sum()))]
            episodes = (dataclasses.replace(e, env_index=int(env_indices[e.env_index])) for e in rows.episodes[t])
            result = Step(
                next_observation=frame,
                observation=following,
                reward=rows.reward[t],
                terminated=terminated,
                truncated=truncated,
                life_lost=life_lost,
                episodes=tuple(episodes),
                clip_rewards=self.clip_rewards,
                life_loss_discount=self.life_loss_discount,
                env_indices=env_indices,
                priority_errors=None if rows.errors is None else rows.errors[t],
            )
            steps.append((rows.action[t], result))
        return steps

    def state(self) -> State:
        return {"actors": {"started": self.started}}

    def close(self) -> None:
        self.pool.close()
