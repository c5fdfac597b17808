"""Actors and their learner, with a transport in this process: lock-step, delays, deaths, resume."""

import dataclasses
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import CARTPOLE, cartpole, invaders

from q2pi.algorithms.configs.epsilon_greedy import APEX_ALPHA
from q2pi.algorithms.registry import default_config
from q2pi.config import ResolvedConfig, RunConfig, override, resolve, to_table
from q2pi.errors import UserError
from q2pi.runs.checkpoint import digest
from q2pi.runs.execute import execute
from q2pi.runs.folder import RunFolder
from q2pi.training import actors
from q2pi.training.actors import Actor, Actors, ActorsLost, Rows, Weights
from q2pi.training.events import Checkpoint, EpisodeEnded, Event, Finished, Progress
from q2pi.training.loop import run


class InThisProcess:
    """A `Pool` that answers the oldest request when the learner asks for a message.

    Args:
        dies: numbers of messages, from 0, instead of which an actor dies.
    """

    def __init__(self, dies: tuple[int, ...] = ()) -> None:
        self.dies = dies
        self.actors: dict[int, Actor] = {}
        self.requests: deque[tuple[int, int, int, Weights]] = deque()
        self.seeds: list[int] = []
        self.newest: tuple[int, Weights] = (-1, {})
        self.messages = 0
        self.most_requests = 0
        self.versions: list[tuple[int, int]] = []
        self.is_closed = False

    def start(self, table: dict[str, Any], index: int, seed: int) -> None:
        self.actors[index] = Actor(table, index, seed)
        self.seeds.append(seed)
        self.requests = deque(request for request in self.requests if request[0] != index)

    def publish(self, version: int, weights: Weights) -> None:
        self.newest = version, {name: array.copy() for name, array in weights.items()}

    def request(self, index: int, step: int) -> None:
        self.requests.append((index, step, *self.newest))
        self.most_requests = max(self.most_requests, len(self.requests))

    def receive(self) -> tuple[int, Rows | str]:
        index, step, version, weights = self.requests.popleft()
        self.messages += 1
        if self.messages - 1 in self.dies:
            self.actors.pop(index).close()
            return index, "killed"
        self.versions.append((self.newest[0], version))
        return index, self.actors[index].collect(step, version, weights)

    def close(self) -> None:
        for actor in self.actors.values():
            actor.close()
        self.is_closed = True


def config(**changes: Any) -> ResolvedConfig[Any]:
    return resolve(cartpole(**changes))


def events(made: ResolvedConfig[Any], pool: InThisProcess | None, state: Any = None) -> list[Event]:
    source = None if pool is None else Actors(made, pool)
    found = []
    for event in run(made, state, source=source):
        if isinstance(event, Checkpoint):  # its arrays are valid until the next event
            event = dataclasses.replace(event, state={"digest": digest({"agent": event.state["agent"]}), **event.state})
        found.append(event)
    return found


def essence(found: list[Event]) -> list[Any]:
    """Return what must be equal: steps, episodes, means and the learner's whole state; not seconds."""
    rows: list[Any] = []
    for event in found:
        match event:
            case Checkpoint(step, state):
                rows.append((step, state["digest"]))
            case EpisodeEnded(step, e):
                rows.append((step, e.env_index, e.seed, e.episode_return, e.actions.tolist()))
            case Progress(step, metrics):
                rows.append((step, metrics))
    return rows


def rainbow(**changes: Any) -> RunConfig[Any]:
    """Return Rainbow on CartPole: noisy layers and prioritized replay."""
    return override(default_config("rainbow"), CARTPOLE | changes)


@pytest.mark.parametrize("make", [cartpole, invaders, rainbow])
def test_lock_step_with_one_actor_equals_the_loop_without_actors(make: Any) -> None:
    plain = events(resolve(make()), None)
    lock_step = events(resolve(make(actors=1, actor_steps=0)), InThisProcess())
    assert essence(lock_step) == essence(plain)
    assert len(essence(plain)) > 5


def test_with_older_weights_the_run_is_another() -> None:
    """Without lock-step the same comparison fails: the actor acts with weights of some steps ago."""
    plain = events(config(), None)
    assert essence(events(config(actors=1, actor_steps=4), InThisProcess())) != essence(plain)


def test_every_step_of_every_actor_is_learned_from_once() -> None:
    made = config(actors=3, num_envs=2, actor_steps=5, total_timesteps=300)
    pool = InThisProcess()
    source = Actors(made, pool)
    taken: dict[int, int] = {}
    recv = source.recv

    def counted() -> Any:
        action, step = recv()
        assert step.env_indices is not None
        for index in step.env_indices:
            taken[int(index)] = taken.get(int(index), 0) + 1
        return action, step

    source.recv = counted  # type: ignore[method-assign]
    *_, last = run(made, source=source)
    assert isinstance(last, Finished)
    assert sum(taken.values()) == last.step == 300
    assert set(taken) == set(range(6))
    assert source.agent.replay.num_envs == 6  # type: ignore[attr-defined]
    assert pool.is_closed


def test_requests_are_bounded_and_weights_are_renewed() -> None:
    made = config(actors=2, num_envs=2, actor_steps=5, total_timesteps=400)
    pool = InThisProcess()
    events(made, pool)
    assert pool.most_requests == 2 * actors.REQUESTS
    newest, used = zip(*pool.versions, strict=True)
    assert max(newest) > 5
    # A request waits behind REQUESTS messages per actor at most, and each round of messages publishes one version.
    assert max(np.subtract(newest, used)) <= actors.REQUESTS


def test_each_actor_explores_with_its_own_rate_and_its_own_numbers() -> None:
    made = config(actors=3, start_e=0.4, end_e=0.4)
    rates = [made.hyper.for_actor(index, made).start_e for index in range(3)]
    assert rates == pytest.approx([0.4, 0.4 ** (1 + APEX_ALPHA / 2), 0.4**8])
    alone = config(actors=1, start_e=0.4, end_e=0.4)
    assert alone.hyper.for_actor(0, alone).start_e == 0.4
    pool = InThisProcess()
    events(made, pool)
    assert len(set(pool.seeds)) == 3
    assert pool.seeds[0] == made.seed


@pytest.mark.parametrize("make", [cartpole, rainbow])
def test_dead_actors_are_replaced_and_their_episodes_cut(make: Any) -> None:
    made = resolve(make(actors=2, num_envs=2, actor_steps=5, total_timesteps=400))
    pool = InThisProcess(dies=(3, 8, 9, 17))
    source = Actors(made, pool)
    *_, last = run(made, source=source)
    assert isinstance(last, Finished)
    assert last.step == 400
    assert len(set(pool.seeds)) == 2 + 4, "a replaced actor plays other episodes"
    replay: Any = source.agent.replay  # type: ignore[attr-defined]
    samples = replay.sample(np.flatnonzero(replay.can_sample(np.arange(replay.num_envs * replay.rows))))
    assert np.isfinite(samples.reward).all()
    assert np.isfinite(samples.discount).all()


def test_actors_that_never_answer_end_the_run() -> None:
    pool = InThisProcess(dies=tuple(range(100)))
    with pytest.raises(ActorsLost, match="11 actors in a row died without a message, the last: killed"):
        events(config(actors=1), pool)
    assert pool.is_closed


def test_a_checkpoint_resumes_with_new_episodes(tmp_path: Path) -> None:
    made = config(actors=2, num_envs=2, actor_steps=5)
    pool = InThisProcess()
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps == 60

    execute(made, tmp_path / "run", stop=stop, source=lambda: Actors(made, pool))
    again = InThisProcess()
    source = Actors(made, again)
    last = execute(made, tmp_path / "run", source=lambda: source)
    assert isinstance(last, Finished)
    assert not set(again.seeds) & set(pool.seeds)
    assert source.agent.updates == made.hyper.updates_due(400)  # type: ignore[attr-defined]
    rows = RunFolder(tmp_path / "run").rows("train")
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})


def test_a_run_with_actors_needs_a_cluster() -> None:
    with pytest.raises(UserError, match="--actors 2 needs a cluster: name it with --ray"):
        next(run(config(actors=2)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"actors": -1}, "--actors -1 is out of range"), ({"actor_steps": -1}, "--actor-steps -1 is out of range")],
)
def test_bounds(changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**changes)


def test_algorithms_without_replay_have_no_actors() -> None:
    with pytest.raises(UserError, match="--actors 2: ppo learns on-policy, so it must be 0"):
        resolve(override(default_config("ppo"), {"env_id": "CartPole-v1", "actors": 2}))


PRIORITIZED = {"prioritized": True, "noisy": False, "distribution": "none", "dueling": False, "double": False}


def prioritized_run(**changes: Any) -> tuple[Any, ResolvedConfig[Any]]:
    """Return (the learner after a run without updates, the configuration)."""
    options = {"n_step": 3, "alpha": 0.5, "total_timesteps": 240, "learning_starts": 239, "train_frequency": 4}
    made = resolve(rainbow(**PRIORITIZED | options | {"start_e": 0.5, "end_e": 0.5} | changes))
    source = Actors(made, InThisProcess())
    for _ in run(made, source=source):
        pass
    return source.agent, made


def expected_error(agent: Any, slot: int, n: int, gamma: float) -> float:
    """Return |TD error| of a transition, step by step from the rows of the replay."""
    replay = agent.replay
    target, weight, row = 0.0, 1.0, slot
    for _ in range(n):
        target += weight * float(replay.reward[row])
        weight *= gamma * float(replay.continuation[row])
        row = int(replay.ahead(np.array([row]), 1)[0])
        if weight == 0 or replay.final[row]:
            break
    with torch.no_grad():
        first, last = (agent.online(torch.from_numpy(replay.frames.read(np.array([at])))) for at in (slot, row))
    return abs(target + weight * float(last.max()) - float(first[0, replay.action[slot]]))


@pytest.mark.parametrize("changes", [{"actors": 1}, {"actors": 3, "num_envs": 2}])
def test_new_transitions_have_the_priority_of_their_error(changes: dict[str, Any]) -> None:
    """No update is made, so actors and learner have the same weights; returns of 3 steps cross messages of 5 steps."""
    agent, made = prioritized_run(actor_steps=5, **changes)
    replay, tree = agent.replay, agent.sampler.tree
    slots = np.flatnonzero(replay.can_sample(np.arange(replay.num_envs * replay.rows)))
    assert len(slots) > 150
    assert agent.updates == 0
    expected = [(expected_error(agent, int(slot), 3, made.hyper.gamma) + 1e-6) ** 0.5 for slot in slots]
    np.testing.assert_allclose(tree[slots], expected, rtol=1e-4, atol=1e-4)
    assert len(set(tree[slots].tolist())) > 100


def test_in_lock_step_new_transitions_have_the_greatest_priority() -> None:
    agent, _ = prioritized_run(actor_steps=0, actors=1)
    replay = agent.replay
    slots = np.flatnonzero(replay.can_sample(np.arange(replay.num_envs * replay.rows)))
    assert set(agent.sampler.tree[slots].tolist()) == {1.0}


@pytest.mark.parametrize("distribution", ["categorical", "quantile", "implicit"])
def test_every_distribution_has_initial_priorities(distribution: str) -> None:
    """The errors are those of the learner's loss, whatever its kind; noise and fractions are drawn for them."""
    agent, _ = prioritized_run(actor_steps=5, actors=2, noisy=True, distribution=distribution)
    replay = agent.replay
    slots = np.flatnonzero(replay.can_sample(np.arange(replay.num_envs * replay.rows)))
    masses = agent.sampler.tree[slots]
    assert np.isfinite(masses).all()
    assert (masses > 0).all()
    assert len(set(masses.tolist())) > 100


def test_without_prioritized_replay_actors_send_no_errors() -> None:
    made = config(actors=1, actor_steps=5)
    pool = InThisProcess()
    pool.start(to_table(made), 0, 1)
    actor = pool.actors[0]
    weights = {name: tensor.numpy() for name, tensor in actor.agent.acting_network.state_dict().items()}
    assert actor.collect(0, 0, weights).errors is None
    pool.close()


def test_the_error_of_a_transition_is_sent_once() -> None:
    made = resolve(rainbow(**PRIORITIZED | {"n_step": 3, "start_e": 1.0, "end_e": 1.0, "actors": 1, "actor_steps": 5}))
    pool = InThisProcess()
    pool.start(to_table(made), 0, 1)
    actor = pool.actors[0]
    weights = {name: tensor.numpy() for name, tensor in actor.agent.acting_network.state_dict().items()}
    messages = [actor.collect(0, 0, weights) for _ in range(40)]
    pool.close()
    sent = sum(int(np.isfinite(rows.errors).sum()) for rows in messages if rows.errors is not None)
    lengths = [episode.length for rows in messages for episodes in rows.episodes for episode in episodes]
    steps = 40 * 5 * made.num_envs
    assert len(lengths) > 5
    assert steps - 2 * made.num_envs <= sent <= steps  # the newest two transitions of each environment are incomplete
