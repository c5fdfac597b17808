"""Samplers: uniform sampling, and the data between a sampler and DQN (weights, slots, TD errors)."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chisquare
from small_runs import cartpole
from torch import Tensor

from q2pi.algorithms import dqn
from q2pi.algorithms.build import agent_spec
from q2pi.buffers.replay import Replay, Slots
from q2pi.buffers.samplers import Batch, UniformSampler, batches
from q2pi.config import resolve
from q2pi.envs.make import make_envs
from q2pi.errors import UserError
from q2pi.rng import Stream, stream
from q2pi.types import State

CPU = torch.device("cpu")


def sampled_slots(replay: Replay, count: int, seed: int) -> Slots:
    """Return the slots of the uniform sampler; check that there are no weights."""
    slots, weights = UniformSampler(replay).sample(count, np.random.default_rng(seed))
    assert weights is None
    return slots


def replay_of(steps: int) -> Replay:
    """Return a replay of two streams: one endless episode, and episodes of one step."""
    replay = Replay(24, 2, (1,), np.float32, 2, 2, 0.9)
    frames, zero = np.zeros((2, 1), np.float32), np.zeros(2)
    replay.begin(frames)
    for _ in range(steps):
        replay.extend(zero, zero, zero + 1, frames, np.array([False, True]), frames)
    return replay


@pytest.mark.parametrize("steps", [7, 50])  # before and after wrapping around
def test_uniform_over_all_transitions_that_can_be_sampled(steps: int) -> None:
    replay = replay_of(steps)
    sampleable = np.flatnonzero(replay.can_sample(np.arange(2 * replay.rows)))
    assert 0 < len(sampleable) < replay.filled.sum()
    slots = sampled_slots(replay, 40_000, 3)
    counts = np.bincount(slots, minlength=2 * replay.rows)
    assert counts.sum() == counts[sampleable].sum() == 40_000
    assert chisquare(counts[sampleable]).pvalue > 0.001
    # Negative control: sampling each stream with probability 1/2 is not uniform over transitions.
    streams = np.bincount(sampleable // replay.rows)
    by_stream = 40_000 / 2 / streams[sampleable // replay.rows]
    assert chisquare(counts[sampleable], by_stream).pvalue < 1e-6


def test_a_batch_may_be_larger_than_the_replay() -> None:
    replay = Replay(24, 1, (1,), np.float32, 2, 1, 0.9)
    frames = np.zeros((1, 1), np.float32)
    replay.begin(frames)
    zero = np.zeros(1)
    replay.extend(zero, zero, zero + 1, frames, np.array([False]), frames)
    slots = sampled_slots(replay, 5, 0)
    assert slots.tolist() == [0] * 5
    assert slots.dtype == np.int64


def test_the_same_seed_samples_the_same_slots() -> None:
    replay = replay_of(50)
    first, again, other = (sampled_slots(replay, 32, seed).tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_an_empty_replay_is_an_error_of_one_line() -> None:
    with pytest.raises(UserError, match="no transition") as caught:
        sampled_slots(replay_of(0), 4, 0)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="before begin"):
        sampled_slots(Replay(24, 2, (1,), np.float32, 2, 2, 0.9), 4, 0)


# ---- batches ------------------------------------------------------------------------------------------------------


def varied() -> Replay:
    """Return a replay of two streams in which every frame, action and reward differs."""
    replay, numbers = Replay(24, 2, (1,), np.float32, 2, 2, 0.9), iter(range(1, 1_000))

    def frames() -> Any:
        return np.array([[next(numbers)], [next(numbers)]], np.float32)

    replay.begin(frames())
    for step in range(20):
        ended = np.array([False, step % 3 == 0])
        replay.extend(np.array([next(numbers), 0]), frames()[:, 0], np.ones(2), frames(), ended, frames())
    return replay


class RandomWeights(UniformSampler):
    """Uniform sampling with random weights."""

    def sample(self, batch_size: int, rng: np.random.Generator) -> tuple[Slots, NDArray[np.float32]]:
        slots, _ = super().sample(batch_size, rng)
        return slots, rng.random(batch_size, np.float32)


@pytest.mark.parametrize("count", [1, 5, 16])
def test_batches_assembled_together_equal_batches_assembled_alone(count: int) -> None:
    replay = varied()
    together = batches(replay, RandomWeights(replay), 8, [np.random.default_rng(seed) for seed in range(count)], CPU)
    assert len(together) == count
    for seed, batch in enumerate(together):
        (alone,) = batches(replay, RandomWeights(replay), 8, [np.random.default_rng(seed)], CPU)
        slots, weights = RandomWeights(replay).sample(8, np.random.default_rng(seed))
        rows = replay.sample(slots)
        by_hand = Batch(
            *(torch.as_tensor(getattr(rows, name)) for name in Batch._fields[:5]),
            slots,
            torch.as_tensor(weights),
        )
        for name in Batch._fields:
            expected, got, single = (np.asarray(getattr(each, name)) for each in (by_hand, batch, alone))
            assert (got.dtype, got.shape) == (expected.dtype, expected.shape), name
            assert got.tobytes() == expected.tobytes() == single.tobytes(), name
    if count > 1:
        assert together[0].indices.tolist() != together[1].indices.tolist(), "each batch has a generator of its own"


# ---- how DQN uses its sampler -------------------------------------------------------------------------------------


class RecordingSampler(UniformSampler):
    """Uniform sampling with a constant weight; records every call."""

    weight = 1.0

    def __init__(self, replay: Replay) -> None:
        super().__init__(replay)
        self.calls: list[tuple[str, list[int]]] = []
        self.td_errors: list[Tensor] = []
        self.known: set[int] = set()

    def added(self, indices: Slots) -> None:
        self.known |= set(indices.tolist())

    def sample(self, batch_size: int, rng: np.random.Generator) -> tuple[Slots, NDArray[np.float32]]:
        slots, _ = super().sample(batch_size, rng)
        self.calls.append(("sample", slots.tolist()))
        return slots, np.full(batch_size, self.weight, np.float32)

    def update_priorities(self, indices: Slots, td_errors: Tensor) -> None:
        self.calls.append(("update", indices.tolist()))
        self.td_errors.append(td_errors.clone())

    def state(self) -> State:
        return {"calls": len(self.calls)}


class OneByOne(RecordingSampler):
    lookahead = 1


class HalfWeights(RecordingSampler):
    weight = 0.5


class WithoutWeights(dqn.Agent):
    """Negative control: a loss that ignores the weights."""

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        return super().loss(batch._replace(weight=torch.ones_like(batch.weight)))


def agent_with(
    sampler: type[RecordingSampler], base: type[dqn.Agent] = dqn.Agent, steps: int = 20, **options: Any
) -> Any:
    """Return an agent with this sampler after `steps` steps of 4 CartPole environments, before its first update."""

    class Agent(base):  # type: ignore[misc, valid-type]
        def build_sampler(self) -> RecordingSampler:
            return sampler(self.replay)

    config = resolve(cartpole(**options))
    envs = make_envs(config.env, config.num_envs, config.seed)
    agent = Agent(config.hyper, agent_spec(config, envs))
    agent.begin(envs.reset())
    for step in range(0, 4 * steps, 4):
        action = agent.act(envs.observation, step)
        envs.send(action)
        agent.observe(action, envs.recv())
    envs.close()
    return agent


def gradient(agent: Any) -> Tensor:
    """Return the gradient of an agent's first update, as one vector."""
    agent.learn(68)  # learning_starts 64, train_frequency 4
    assert agent.updates == 1
    return torch.cat([parameter.grad.flatten() for parameter in agent.online.parameters()])


def test_weights_scale_the_gradient() -> None:
    whole, half = gradient(agent_with(RecordingSampler)), gradient(agent_with(HalfWeights))
    assert whole.abs().sum() > 0
    assert torch.equal(half, 0.5 * whole)


def test_a_loss_without_weights_does_not_scale_the_gradient() -> None:
    whole = gradient(agent_with(RecordingSampler))
    assert torch.equal(gradient(agent_with(HalfWeights, WithoutWeights)), whole)


@pytest.mark.parametrize("double", [False, True])
def test_td_errors_are_returned_with_their_slots(double: bool) -> None:
    agent = agent_with(RecordingSampler, double=double)
    with torch.no_grad():  # a target network that differs, so that DQN and Double DQN differ
        for parameter in agent.target.network.parameters():
            parameter.mul_(-0.7)
    online, target = copy.deepcopy(agent.online), agent.target.network
    agent.learn(68)
    (drawn, returned), (td_errors,) = agent.sampler.calls, agent.sampler.td_errors
    assert (drawn[0], returned[0]) == ("sample", "update")
    assert drawn[1] == returned[1]
    rows = agent.replay.sample(np.array(drawn[1]))
    with torch.no_grad():
        q, q_next_online, q_next = (
            online(torch.as_tensor(rows.observation)),
            online(torch.as_tensor(rows.next_observation)),
            target(torch.as_tensor(rows.next_observation)),
        )
    expected = []
    for row in range(len(drawn[1])):
        best = int((q_next_online if double else q_next)[row].argmax())
        target_value = rows.reward[row] + rows.discount[row] * float(q_next[row, best])
        expected.append(target_value - float(q[row, rows.action[row]]))
    assert td_errors.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert not td_errors.requires_grad


@pytest.mark.parametrize(
    ("sampler", "order"),
    [(RecordingSampler, ["sample"] * 3 + ["update"] * 3), (OneByOne, ["sample", "update"] * 3)],
    ids=["drawn together", "one by one"],
)
def test_lookahead_bounds_the_batches_drawn_before_an_update(sampler: type[RecordingSampler], order: list[str]) -> None:
    agent = agent_with(sampler)
    agent.learn(76)
    assert [name for name, _ in agent.sampler.calls] == order
    drawn, returned = ([slots for name, slots in agent.sampler.calls if name == kind] for kind in ("sample", "update"))
    assert drawn == returned
    assert len({tuple(slots) for slots in drawn}) == 3


def test_uniform_draws_do_not_depend_on_the_lookahead() -> None:
    together, alone = agent_with(RecordingSampler), agent_with(OneByOne)
    together.learn(140), alone.learn(140)
    assert together.updates == 19
    for ours, theirs in zip(together.online.parameters(), alone.online.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("n_step", [1, 3])
def test_added_receives_the_slots_that_become_sampleable(n_step: int) -> None:
    agent = agent_with(RecordingSampler, n_step=n_step, steps=40)
    replay, known = agent.replay, agent.sampler.known
    assert replay.written.max() < replay.rows, "no row was overwritten"
    assert replay.final.any(), "an episode has ended"
    slots = np.arange(replay.num_envs * replay.rows)
    sampleable = set(slots[replay.can_sample(slots)].tolist())
    assert sampleable <= known
    assert len(known) == 4 * 40
    # Only the newest rows of each stream cannot be sampled yet: their n-step returns are incomplete.
    waiting = known - sampleable
    newest = {
        stream * replay.rows + int(replay.written[stream]) - 2 - back
        for stream in range(replay.num_envs)
        for back in range(n_step - 1)
    }
    assert waiting <= newest
    assert bool(waiting) == (n_step > 1)


def test_a_samplers_state_is_part_of_the_agents() -> None:
    agent = agent_with(RecordingSampler)
    agent.learn(68)
    assert agent.state()["sampler"] == {"calls": 2}
    loaded: list[Any] = []
    other = agent_with(RecordingSampler)
    other.sampler.load = loaded.append
    other.load(agent.state())
    assert loaded == [{"calls": 2}]


def test_the_last_row_of_a_full_ring_is_drawn_as_often_as_the_others() -> None:
    """One stream without ends, at every position of its cursor: all rows but the open one are drawn alike."""
    replay = Replay(6, 1, (1,), np.float32, 1, 1, 0.9)
    frames, zero = np.zeros((1, 1), np.float32), np.zeros(1)
    replay.begin(frames)
    for written in range(2, 4 * replay.rows):
        replay.extend(zero, zero, zero + 1, frames, np.array([False]), frames)
        if written < replay.rows:
            continue
        open_row = (written - 1) % replay.rows
        counts = np.bincount(sampled_slots(replay, 4_000, written), minlength=replay.rows)
        assert counts[open_row] == 0
        assert chisquare(np.delete(counts, open_row)).pvalue > 1e-4


def test_draws_are_with_replacement_and_in_no_order() -> None:
    """A batch as large as the memory leaves out the share (1 - 1/n)^n of it, about 1/e."""
    replay = replay_of(50)
    count = len(replay)
    left_out = []
    for seed in range(200):
        slots = sampled_slots(replay, count, seed)
        left_out.append(1 - len(set(slots.tolist())) / count)
        assert sorted(slots.tolist()) != slots.tolist()
    expected = (1 - 1 / count) ** count
    assert np.mean(left_out) == pytest.approx(expected, abs=0.03)


def test_a_replay_without_stacks_finds_its_transitions_by_their_rewards() -> None:
    """The short way of `can_sample` equals the definition: every row written that is neither open nor final."""
    rng = np.random.default_rng(0)
    replay = Replay(9, 2, (1,), np.float32, stack=1, n_step=1, gamma=0.9)
    frames = np.zeros((2, 1), np.float32)
    replay.begin(frames)
    slots = np.arange(2 * replay.rows)
    for _ in range(60):
        written = replay.written[slots // replay.rows]
        newest = (written - 1) % replay.rows == slots % replay.rows
        expected = (slots % replay.rows < written) & ~newest & ~replay.final
        assert replay.can_sample(slots).tolist() == expected.tolist()
        replay.extend(np.zeros(2), np.ones(2), np.ones(2), frames, rng.random(2) < 0.3, frames)


def test_batches_of_one_moved_generator_are_those_of_separate_generators() -> None:
    replay, draws = varied(), Stream(3, "replay")
    together = batches(replay, UniformSampler(replay), 8, (draws.at(update) for update in range(4)), CPU)
    for update, batch in enumerate(together):
        slots, _ = UniformSampler(replay).sample(8, stream(3, "replay", update))
        assert batch.indices.tolist() == slots.tolist()
