"""PQN for a laptop: recent rollouts, averaged weights, exploration per environment, resuming, mistakes."""

import copy
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_pqn
import torch
from gymnasium.spaces import Discrete
from small_pqn import filled, numbered
from small_runs import QUIET, digests

from q2pi.algorithms import pqn, pqn_laptop
from q2pi.algorithms.registry import default_config
from q2pi.config import RunConfig, override, resolve
from q2pi.envs.spec import EnvSpec
from q2pi.envs.spec import resolve as resolve_env
from q2pi.errors import UserError
from q2pi.rng import stream
from q2pi.runs import checkpoint
from q2pi.training.events import Progress
from q2pi.training.loop import run

PLAIN = {"recent_rollouts": 1, "ema_decay": 0.0, "apex_alpha": 0.0}
"""Options with which nothing differs from PQN."""
make_agent = partial(small_pqn.make_agent, module=pqn_laptop)


def weights(agent: pqn.Agent) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in agent.online.parameters()]


def test_with_its_options_off_it_is_pqn() -> None:
    options: dict[str, Any] = {"num_envs": 2, "num_steps": 6, "num_minibatches": 3, "update_epochs": 2}
    plain, same, other = small_pqn.make_agent(**options), make_agent(**options, **PLAIN), make_agent(**options)
    for rollout in range(3):
        for agent in (plain, same, other):
            filled(agent, rollout).learn(12 * (rollout + 1))
    assert all(map(torch.equal, weights(plain), weights(same)))
    assert not all(map(torch.equal, weights(plain), weights(other)))


def test_minibatches_come_from_the_recent_rollouts() -> None:
    """Six steps of two environments, two epochs: twice the 12 rows of one rollout, the 24 rows of two, 24 of 36."""
    agent = make_agent(num_envs=2, num_steps=6, num_minibatches=3, update_epochs=2, recent_rollouts=3)
    for rollout, rows in enumerate((12, 24, 36, 36)):
        filled(agent, rollout)
        numbered(agent, 12 * rollout)
        sampled = torch.cat([batch.observation[:, 0].long() for batch in agent.minibatches()])
        newest = 12 * (rollout + 1)
        assert len(sampled) == 24
        assert newest - rows <= sampled.min() < sampled.max() < newest
        assert len(sampled.unique()) == min(rows, 24)
        agent.learn(newest)
    assert agent.rollouts == 4


def test_older_steps_keep_their_targets() -> None:
    """The targets of rollout 0 stay after rollout 1, though the network that computed them has changed."""
    agent = make_agent(num_steps=3, update_epochs=20, learning_rate=0.1, recent_rollouts=2, ema_decay=0.0)
    filled(agent, 0).learn(3)
    first = agent.recent.target[:3].clone()
    filled(agent, 1).learn(6)
    assert torch.equal(agent.recent.target[:3], first)
    agent.rollouts = 0
    filled(agent, 0)
    assert not torch.allclose(agent.targets().flatten(), first), "recomputed, the targets would differ"


GAME: dict[str, Any] = {
    "shape": (1, 84, 84),
    "space": Discrete(6),
    "env": resolve_env(EnvSpec("SpaceInvaders", protocol="nature")),
    "network": "nips",
}
MIRRORED = np.array([0, 1, 3, 2, 5, 4])
"""Mirror images of Space Invaders' actions NOOP, FIRE, RIGHT, LEFT, RIGHTFIRE, LEFTFIRE."""


def test_half_of_the_steps_are_learned_from_in_a_mirror() -> None:
    """A reflected step has left and right exchanged in image and action; its target and other steps are the same."""
    agent = filled(make_agent(num_envs=4, num_steps=32, num_minibatches=4, mirror=True, end_e=1.0, **GAME))
    after, agent.mirrored_action = list(agent.minibatches()), None
    before = list(agent.minibatches())
    reflected, exchanged = [], 0
    for (image, action, target), mirrored in zip(before, after, strict=True):
        half = np.array([not torch.equal(*pair) for pair in zip(image, mirrored.observation, strict=True)])
        np.testing.assert_array_equal(mirrored.observation[half], image[half].numpy()[..., ::-1])
        np.testing.assert_array_equal(mirrored.action, np.where(half, MIRRORED[action], action))
        assert torch.equal(mirrored.target, target)
        reflected += half.tolist()
        exchanged += int((mirrored.action != action).sum())
    assert 0.4 < np.mean(reflected) < 0.6
    assert exchanged > 20, "else left and right were hardly ever exchanged"


@pytest.mark.parametrize("concurrent_updates", [False, True])
def test_in_a_mirror_the_agent_acts_in_the_mirror(concurrent_updates: bool) -> None:
    """Q of the mirror image is Q of the image with left and right exchanged, the mean of both; targets use it, too."""
    plain, agent = (make_agent(num_envs=2, concurrent_updates=concurrent_updates, mirror=m, **GAME) for m in (0, 1))
    observation = stream(0, "observations").integers(0, 256, (2, 1, 84, 84), dtype=np.uint8)
    reflected = np.ascontiguousarray(observation[..., ::-1])
    for values in ("q_values", "sampling_q"):
        q, of_one = getattr(agent, values), getattr(plain, values)
        mean = (of_one(observation) + of_one(reflected)[:, MIRRORED]) / 2
        np.testing.assert_allclose(q(observation), mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(q(reflected)[:, MIRRORED], mean, rtol=1e-5, atol=1e-6)
        assert np.abs(of_one(observation) - mean).max() > 1e-3, "else nothing was averaged"


def test_the_weight_average_follows_the_trained_weights_and_acts() -> None:
    """After each update average = 3/4 average + 1/4 newest; the average computes the values of a rollout."""
    agent = make_agent(num_steps=3, update_epochs=1, learning_rate=0.1, ema_decay=0.75, recent_rollouts=1)
    expected = weights(agent)
    for rollout in range(12):
        filled(agent, rollout).learn(3 * (rollout + 1))
        expected = [0.75 * old + 0.25 * new for old, new in zip(expected, weights(agent), strict=True)]
    torch.testing.assert_close(list(agent.acting_network.parameters()), expected)
    observed = torch.from_numpy(filled(agent, 12).rollout.observation[:, 0])
    with torch.no_grad():
        averaged, newest = (network(observed).amax(dim=1).numpy() for network in (agent.acting_network, agent.online))
    np.testing.assert_allclose(agent.rollout.value[:, 0], averaged, rtol=1e-6)
    assert np.abs(averaged - newest).max() > 1e-3, "else this test could not separate the two"
    without = make_agent(ema_decay=0.0)
    assert without.acting_network is without.online


CONCURRENT: dict[str, Any] = {"num_steps": 3, "update_epochs": 8, "learning_rate": 0.1, "concurrent_updates": True}


def test_a_rollout_is_collected_during_the_last_updates() -> None:
    """The values of rollout k + 1 are those of the average before the updates of rollout k; without, those after."""
    for is_concurrent in (True, False):
        agent = make_agent(**CONCURRENT | {"concurrent_updates": is_concurrent})
        averages = [copy.deepcopy(agent.acting_network)]
        for rollout in range(4):
            filled(agent, rollout)
            collector = averages[max(rollout - 1, 0) if is_concurrent else rollout]
            with torch.no_grad():
                expected = collector(torch.from_numpy(agent.rollout.observation[:, 0])).amax(dim=1)
            np.testing.assert_allclose(agent.rollout.value[:, 0], expected, rtol=1e-6)
            agent.learn(3 * (rollout + 1))
            averages.append(copy.deepcopy(agent.acting_network))
        parameters = [next(network.parameters()) for network in averages]
        assert not any(map(torch.equal, parameters, parameters[1:])), "else values could not distinguish the networks"


def test_concurrent_updates_are_those_of_a_learner_that_waits() -> None:
    """From equal rollouts the first updates are equal bit for bit; the scalars come with the next rollout."""
    waiting, agent = make_agent(**CONCURRENT | {"concurrent_updates": False}), make_agent(**CONCURRENT)
    expected = filled(waiting, 0).learn(3)
    assert filled(agent, 0).learn(3) == []
    assert all(map(torch.equal, agent.acting_network.parameters(), waiting.acting_network.parameters()))
    assert filled(agent, 1).learn(6) == expected
    assert len(expected) == 8


def test_the_last_step_returns_the_scalars_of_all_updates() -> None:
    agent = make_agent(**CONCURRENT)
    filled(agent, 0).learn(3)
    assert len(agent.learn(agent.spec.total_timesteps)) == 8
    agent = make_agent(**CONCURRENT)
    filled(agent, 0).learn(3)
    assert len(filled(agent, 1).learn(agent.spec.total_timesteps)) == 16


def test_the_speed_of_the_threads_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(concurrent_updates=True, ema_decay=0.9)
    expected = digests(config)[120]
    assert digests(small(ema_decay=0.9))[120] != expected
    loss = pqn_laptop.Agent.loss

    def slow(agent: pqn_laptop.Agent, batch: pqn.Minibatch) -> Any:
        time.sleep(0.01)
        return loss(agent, batch)

    monkeypatch.setattr(pqn_laptop.Agent, "loss", slow)
    assert digests(config)[120] == expected


def test_a_failure_of_the_second_thread_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make_agent(**CONCURRENT)
    monkeypatch.setattr(agent, "minibatches", lambda: iter([None]))
    filled(agent, 0).learn(3)
    with pytest.raises(AttributeError, match="observation"):
        filled(agent, 1).learn(6)


def test_each_environment_has_its_own_exploration_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ape-X's epsilon^(1 + alpha * i / (N - 1)): of 0.5, with alpha 2 and 3 environments, 1/2, 1/4 and 1/8."""
    options = {"num_envs": 3, "start_e": 0.5, "end_e": 0.5}
    for alpha, rates in ((2.0, [0.5, 0.25, 0.125]), (0.0, [0.5, 0.5, 0.5])):
        agent = make_agent(**options, apex_alpha=alpha)
        best = np.zeros((3, agent.actions), np.float32)
        best[:, 0] = 1
        monkeypatch.setattr(agent, "q_values", lambda _, best=best: best)
        observation = np.zeros((3, *agent.spec.observation_shape), np.float32)
        explored = np.mean([agent.act(observation, step) != agent.first_action for step in range(4_000)], axis=0)
        share = 1 - 1 / agent.actions
        np.testing.assert_allclose(explored / share, rates, atol=0.04)


def test_one_environment_explores_with_epsilon() -> None:
    agent = make_agent(num_envs=1, apex_alpha=2.0, start_e=0.5, end_e=0.5)
    assert agent.exploration(0) == 0.5
    agent.act(np.zeros((1, *agent.spec.observation_shape), np.float32), 0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_images_are_read_with_their_channels_last(precision: str) -> None:
    agent = make_agent(
        num_envs=2, shape=(4, 36, 36), num_steps=3, num_minibatches=2, precision=precision, recent_rollouts=1
    )
    before = weights(agent)
    for rollout in range(4):
        filled(agent, rollout).learn(6 * (rollout + 1))
        observation, _, _ = agent.recent.take(torch.tensor([4, 1]))
        assert observation.is_contiguous(memory_format=torch.channels_last)
        expected = agent.rollout.observation.reshape(6, 4, 36, 36)[[4, 1]]
        np.testing.assert_array_equal(observation.numpy(), expected)
    assert not any(map(torch.equal, before, weights(agent)))


def small(**changes: Any) -> RunConfig[pqn_laptop.Config]:
    """Return 120 agent steps of 3 environments in rollouts of 15; a checkpoint at 51, within the fourth."""
    options = QUIET | {"env_id": "CartPole-v1", "total_timesteps": 120, "num_envs": 3, "checkpoint_frequency": 51}
    hyper = {"num_steps": 5, "num_minibatches": 3, "hidden": (8,), "recent_rollouts": 3}
    return override(default_config("pqn_laptop"), options | hyper | changes)


def test_a_run_resumed_within_a_rollout_ends_the_same_bit_for_bit(tmp_path: Path) -> None:
    config = small(ema_decay=0.9)
    expected = digests(config, keep=(51, tmp_path))[120]
    _, saved, _, _ = checkpoint.load_newest(tmp_path)
    assert saved["agent"]["rollout"]["length"] == 2
    assert digests(config, saved)[120] == expected
    for lost in ("rollout", "average", "recent", "optimizer", "rollouts"):
        _, damaged, _, _ = checkpoint.load_newest(tmp_path)
        if lost == "rollout":
            damaged["agent"]["rollout"]["value"][:] = 7
        elif lost == "recent":
            damaged["agent"]["recent"]["after"]["target"][:] = 7
        elif lost == "average":
            damaged["agent"]["average"] = damaged["agent"]["online"]
        elif lost == "optimizer":
            del damaged["agent"]["optimizer"]
        else:
            damaged["agent"]["rollouts"] += 3
        assert digests(config, damaged)[120] != expected, lost


def test_a_run_with_concurrent_updates_resumes_bit_for_bit(tmp_path: Path) -> None:
    config = small(concurrent_updates=True, ema_decay=0.9, total_timesteps=150)
    expected, rows = digests(config, keep=(51, tmp_path))[150], metrics(config)
    _, saved, _, _ = checkpoint.load_newest(tmp_path)
    assert saved["agent"]["unread"]["updates"] == 6
    assert digests(config, saved)[150] == expected
    assert metrics(config, saved) == rows[-2:], "the rows of 100 and 150 agent steps"
    _, damaged, _, _ = checkpoint.load_newest(tmp_path)
    damaged["agent"]["sampling"] = damaged["agent"]["average"]
    assert digests(config, damaged)[150] != expected
    damaged["agent"]["unread"]["loss"][:] = 7
    assert metrics(config, damaged)[0] != rows[-2]


def metrics(config: RunConfig[pqn_laptop.Config], state: Any = None) -> list[dict[str, float]]:
    """Return the scalars of each row of metrics, from the start or from a checkpoint."""
    return [event.metrics for event in run(resolve(config), state) if isinstance(event, Progress)]


def test_a_checkpoint_of_another_version_is_refused_in_one_line(tmp_path: Path) -> None:
    config = small()
    digests(config, keep=(51, tmp_path))
    _, saved, _, _ = checkpoint.load_newest(tmp_path)
    del saved["agent"]["recent"]
    with pytest.raises(UserError, match="the checkpoint of agent step 51 has no 'recent': another version of q2pi"):
        digests(config, saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"apex_alpha": -1.0}, "--apex-alpha -1.0 is out of range"),
        ({"recent_rollouts": 0}, "--recent-rollouts 0 is out of range: it must be at least 1"),
        ({"ema_decay": 1.5}, "--ema-decay 1.5 is out of range"),
        ({"ema_decay": 1.0}, "--ema-decay 1.0 is out of range: it must be below 1"),
        ({"mirror": True}, "--mirror applies to images of Atari games, not to CartPole-v1"),
        (
            {"mirror": True, "env_id": "SpaceInvaders", "obs_type": "ram"},
            "--mirror applies to images of Atari games, not to --obs-type ram",
        ),
        ({"q_lambda": 1.1}, r"--q-lambda 1.1 is out of range: it must be in \[0, 1\]"),
        ({"num_minibatches": 4}, "--num-minibatches 4 does not divide the 15 agent steps of a rollout"),
    ],
)
def test_mistakes_are_one_line_with_flag_and_bound(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve(small(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("steps", [32, 4_096, 10**6])
def test_a_timing_run_draws_the_same_minibatches_from_one_rollout(steps: int) -> None:
    """Recent rollouts that were never filled would be subtracted from memory that was never used."""
    config = small(total_timesteps=10**6, num_envs=32, num_steps=32, num_minibatches=8, recent_rollouts=16)
    short = config.hyper.timing_config(replace(config, total_timesteps=steps))
    assert short.hyper.num_steps * 32 / short.hyper.num_minibatches == 128
    assert short.hyper.recent_rollouts == 1
