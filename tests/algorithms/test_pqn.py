"""PQN: minibatches, RAdam, resuming within a rollout, worlds with known values, bounds."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_pqn import agent_of
from small_runs import QUIET, Chain, digests
from torch import Tensor, nn

from q2pi.algorithms import pqn
from q2pi.algorithms.registry import default_config
from q2pi.config import RunConfig, override, resolve
from q2pi.envs.vector import Step
from q2pi.equations import exact
from q2pi.errors import UserError
from q2pi.rng import stream
from q2pi.runs import checkpoint
from q2pi.training.events import Evaluated, Progress, Started
from q2pi.training.loop import run
from q2pi.training.presets import configure

# ---- learning --------------------------------------------------------------------------------------------------------


def filled(agent: pqn.Agent, rollout: int = 0) -> pqn.Agent:
    """Return the agent after a rollout of random observations."""
    draw = stream(rollout, "observations")
    envs, shape = agent.spec.num_envs, agent.spec.observation_shape
    nothing = np.zeros(envs, np.bool_)
    for t in range(agent.rollout.steps):
        if len(shape) == 3:
            observation = draw.integers(0, 256, (envs, *shape), dtype=np.uint8)
        else:
            observation = draw.normal(size=(envs, *shape)).astype(np.float32)
        agent.act(observation, t)
        reward = draw.normal(size=envs).astype(np.float32)
        agent.observe(np.zeros(envs), Step(observation, observation, reward, nothing, nothing, nothing, ()))
    return agent


def test_loss_and_gradient_by_hand() -> None:
    """Q(s) = (1, 5), actions 0 and 1, targets 3 and 4: (4 + 1)/2/2 = 1.25; gradients (1 - 3)/2 and (5 - 4)/2."""
    table = nn.Parameter(torch.tensor([1.0, 5.0]))

    class Table(nn.Module):
        def forward(self, observation: Tensor) -> Tensor:
            return table.expand(len(observation), 2)

    error, mean_q = pqn.loss(Table(), torch.zeros(2, 1), torch.tensor([0, 1]), torch.tensor([3.0, 4.0]))
    error.backward()
    assert (error.item(), mean_q.item()) == (1.25, 5)
    assert table.grad is not None
    assert table.grad.tolist() == [-1, 0.5]


def test_each_epoch_goes_over_every_step_once_in_an_order_of_its_own() -> None:
    agent = agent_of(num_envs=2, num_steps=6, num_minibatches=3, update_epochs=2)
    epochs = torch.stack(agent.minibatches()).split(3)
    assert [sorted(epoch.flatten().tolist()) for epoch in epochs] == [list(range(12))] * 2
    assert epochs[0].shape == (3, 4)
    assert not torch.equal(*epochs)
    agent.rollouts = 1
    assert not torch.equal(torch.stack(agent.minibatches()[:3]), epochs[0])


def test_minibatches_come_from_all_rollouts_of_the_window() -> None:
    """Six rows a rollout, twice: all of one, all of two, then twelve of the eighteen of three."""
    agent = agent_of(num_envs=2, num_steps=6, num_minibatches=3, update_epochs=2, window=3)
    for rollout, rows in enumerate((12, 24, 36, 36)):
        drawn = torch.cat(agent.minibatches())
        assert len(drawn) == 24
        assert drawn.max() < rows
        assert len(drawn.unique()) == min(rows, 24)
        filled(agent, rollout).learn(12 * (rollout + 1))
    assert agent.rollouts == 4


def test_older_steps_are_learned_from_with_the_targets_they_had() -> None:
    """The targets of rollout 0 are still there after rollout 1, though the network that gave its values has moved."""
    agent = agent_of(num_steps=3, update_epochs=20, learning_rate=0.1, window=2)
    filled(agent, 0).learn(3)
    first = agent.window.target[:3].clone()
    filled(agent, 1).learn(6)
    assert torch.equal(agent.window.target[:3], first)
    agent.rollouts = 0
    filled(agent, 0)
    assert not torch.allclose(agent.targets().flatten(), first), "worked out anew they would be others"


def test_updates_come_with_full_rollouts_alone() -> None:
    agent = agent_of(num_envs=2, num_steps=3, num_minibatches=2, update_epochs=4)
    config = RunConfig(algorithm="pqn", num_envs=2, hyper=agent.config)
    assert agent.learn(0) == []
    rows = filled(agent).learn(6)
    assert len(rows) == 8 == pqn.updates_due(config, 6)
    assert pqn.updates_due(config, 5) == 0
    assert set(rows[0]) == {"loss", "q", "epsilon", "learning_rate"}
    assert agent.rollout.length == 0
    assert agent.learn(6) == []


def test_its_optimizer_moves_as_radam_after_five_updates() -> None:
    """The same gradients to both, over orders of magnitude; torch's takes five plain steps first, ours stands still."""
    agent = agent_of(num_steps=1, learning_rate=0.01)
    ours, theirs = nn.Parameter(torch.zeros(7)), nn.Parameter(torch.zeros(7))
    adam = torch.optim.Adam([ours], betas=pqn.BETAS, fused=True)
    radam = torch.optim.RAdam([theirs], lr=0.01, betas=pqn.BETAS)
    draw = torch.Generator().manual_seed(1)
    for update in range(1, 60):
        ours.grad = torch.randn(7, generator=draw) * torch.logspace(-3, 3, 7)
        theirs.grad = ours.grad.clone()
        adam.param_groups[0]["lr"] = agent.learning_rate(0, update)
        adam.step()
        radam.step()
        if update == 5:
            assert not ours.any()
            begin = theirs.detach().clone()
    # The plain steps have moved torch's far away, where float32 keeps fewer digits of what follows.
    torch.testing.assert_close(ours.detach()[:5], (theirs.detach() - begin)[:5], rtol=1e-3, atol=1e-5)
    assert ours.detach().abs().min() > 1e-4


def test_the_learning_rate_falls_to_nothing_where_asked() -> None:
    late = 10**7
    constant, falling = agent_of(learning_rate=0.5), agent_of(learning_rate=0.5, anneal_learning_rate=True)
    assert [constant.learning_rate(step, late) for step in (0, 50)] == pytest.approx([0.5, 0.5])
    assert [falling.learning_rate(step, late) for step in (0, 50, 100)] == pytest.approx([0.5, 0.25, 0])


def test_the_gradient_is_bounded() -> None:
    for bound in (0.01, 0.0):
        agent = agent_of(num_steps=4, max_grad_norm=bound)
        filled(agent).learn(4)
        gradients = [parameter.grad.norm() for parameter in agent.online.parameters() if parameter.grad is not None]
        norm = torch.stack(gradients).norm().item()
        assert norm == pytest.approx(0.01, rel=1e-3) if bound else norm > 0.1


def test_the_running_average_follows_the_trained_weights_and_plays() -> None:
    """After each update average = 3/4 average + 1/4 newest; the values of a rollout are the average's."""
    agent = agent_of(num_steps=3, update_epochs=1, learning_rate=0.1, ema_decay=0.75)
    expected = [weight.clone() for weight in agent.online.parameters()]
    for rollout in range(12):
        filled(agent, rollout).learn(3 * (rollout + 1))
        newest = zip(expected, agent.online.parameters(), strict=True)
        expected = [0.75 * old + 0.25 * new.detach() for old, new in newest]
    torch.testing.assert_close(list(agent.acting_network.parameters()), expected)
    observed = torch.from_numpy(filled(agent, 12).rollout.observation[:, 0])
    with torch.no_grad():
        averaged, newest = (network(observed).amax(dim=1).numpy() for network in (agent.acting_network, agent.online))
    np.testing.assert_allclose(agent.rollout.value[:, 0], averaged, rtol=1e-6)
    assert np.abs(averaged - newest).max() > 1e-3, "else the test could not tell them apart"
    plain = agent_of()
    assert plain.acting_network is plain.online


def test_each_game_explores_at_its_rung_of_the_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ape-X's epsilon^(1 + alpha * i / (N - 1)): of 0.5, with alpha 2 and 3 games, 1/2, 1/4 and 1/8."""
    wanted = {"num_envs": 3, "start_e": 0.5, "end_e": 0.5}
    for ladder, rates in ((2.0, [0.5, 0.25, 0.125]), (0.0, [0.5, 0.5, 0.5])):
        agent = agent_of(**wanted, apex_alpha=ladder)
        best = np.zeros((3, agent.actions), np.float32)
        best[:, 0] = 1
        monkeypatch.setattr(agent, "_q", lambda _, best=best: best)
        observation = np.zeros((3, *agent.spec.observation_shape), np.float32)
        explored = np.mean([agent.act(observation, step) != agent.first_action for step in range(4_000)], axis=0)
        share = 1 - 1 / agent.actions
        np.testing.assert_allclose(explored / share, rates, atol=0.04)
    agent_of(num_envs=1, apex_alpha=2.0).act(np.zeros((1, *agent.spec.observation_shape), np.float32), 0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_images_are_read_with_their_channels_last(precision: str) -> None:
    agent = agent_of(num_envs=2, shape=(4, 36, 36), num_steps=3, num_minibatches=2, precision=precision)
    before = [parameter.clone() for parameter in agent.online.parameters()]
    for rollout in range(4):
        filled(agent, rollout).learn(6 * (rollout + 1))
        observation, _, _ = agent.window.take(torch.tensor([4, 1]))
        assert observation.is_contiguous(memory_format=torch.channels_last)
        expected = agent.rollout.observation.reshape(6, 4, 36, 36)[[4, 1]]
        np.testing.assert_array_equal(observation.numpy(), expected)
    moved = [not torch.equal(old, new) for old, new in zip(before, agent.online.parameters(), strict=True)]
    assert all(moved)


def small(**changes: Any) -> RunConfig[pqn.Config]:
    """120 agent steps of 3 games in rollouts of 15; a checkpoint at 51, within the fourth."""
    options = QUIET | {"env_id": "CartPole-v1", "total_timesteps": 120, "num_envs": 3, "checkpoint_frequency": 51}
    hyper = {"num_steps": 5, "num_minibatches": 3, "hidden": (8,)}
    return override(default_config("pqn"), options | hyper | changes)


def test_a_run_resumed_within_a_rollout_ends_the_same_bit_for_bit(tmp_path: Path) -> None:
    config = small(ema_decay=0.9, window=3)
    expected = digests(config, keep=(51, tmp_path))[120]
    _, saved, _, _ = checkpoint.load_newest(tmp_path)
    assert saved["agent"]["rollout"]["length"] == 2
    assert digests(config, saved)[120] == expected
    for lost in ("rollout", "average", "window", "optimizer", "rollouts"):
        _, damaged, _, _ = checkpoint.load_newest(tmp_path)
        if lost == "rollout":
            damaged["agent"]["rollout"]["value"][:] = 7
        elif lost == "window":
            damaged["agent"]["window"]["after"]["target"][:] = 7
        elif lost == "average":
            damaged["agent"]["average"] = damaged["agent"]["online"]
        elif lost == "optimizer":
            del damaged["agent"]["optimizer"]
        else:
            damaged["agent"]["rollouts"] += 3
        assert digests(config, damaged)[120] != expected, lost


def test_a_checkpoint_of_another_version_is_refused_in_one_line(tmp_path: Path) -> None:
    config = small(window=2)
    digests(config, keep=(51, tmp_path))
    _, saved, _, _ = checkpoint.load_newest(tmp_path)
    del saved["agent"]["window"]
    with pytest.raises(UserError, match="the checkpoint of agent step 51 has no 'window': another version of q2pi"):
        digests(config, saved)


def test_pixels_resume_bit_for_bit(tmp_path: Path) -> None:
    options = {"env_id": "SpaceInvaders", "resize": (36, 36), "precision": "bf16", "total_timesteps": 66}
    expected = digests(small(**options), keep=(51, tmp_path))[66]
    _, saved, _, _ = checkpoint.load_newest(tmp_path)
    assert digests(small(**options), saved)[66] == expected


# ---- worlds with known answers ---------------------------------------------------------------------------------------


def learned(env_id: str, **changes: Any) -> pqn.Agent:
    """Return the agent of a finished run that has played at random."""
    options = QUIET | {"env_id": env_id, "total_timesteps": 10_000, "num_envs": 8, "checkpoint_frequency": 0}
    hyper = {"num_steps": 8, "num_minibatches": 2, "update_epochs": 4, "hidden": (32,), "learning_rate": 1e-2}
    play = {"start_e": 1.0, "end_e": 1.0, "anneal_learning_rate": True}
    agent = None
    for event in run(override(default_config("pqn"), options | hyper | play | changes)):
        if isinstance(event, Started):
            agent = event.agent
    assert isinstance(agent, pqn.Agent)
    return agent


def chain_values(agent: pqn.Agent) -> np.ndarray:
    with torch.no_grad():
        q: np.ndarray = agent.online(torch.eye(5)).numpy()
    return q


def test_one_step_targets_learn_the_best_values_from_random_play() -> None:
    """And with a long lambda they do not: the returns hold what random actions earned (Peng's returns are not cut)."""
    _, expected = exact.optimal_values(Chain.mdp)
    agent = learned("Chain-v0", gamma=0.9, q_lambda=0.0)
    assert np.abs(chain_values(agent) - expected).max() < 0.05
    assert np.abs(chain_values(pqn.Agent(agent.config, agent.spec)) - expected).max() > 0.3, "they were learned"
    uncut = chain_values(learned("Chain-v0", gamma=0.9, q_lambda=0.95))
    assert (uncut.max(axis=1) < expected.max(axis=1) - 0.05)[:4].all()


def test_with_falling_exploration_the_published_lambda_learns_the_best_values_too() -> None:
    _, expected = exact.optimal_values(Chain.mdp)
    agent = learned("Chain-v0", gamma=0.9, q_lambda=0.65, end_e=0.05, exploration_fraction=0.5)
    q = chain_values(agent)
    assert q.argmax(axis=1).tolist() == [1] * 5
    assert np.abs(q.max(axis=1) - expected.max(axis=1)).max() < 0.1


def value_of(env_id: str) -> float:
    return learned(env_id, gamma=0.5, q_lambda=0.0, total_timesteps=5_000).online(torch.ones(1, 1)).max().item()


def test_truncation_is_not_the_end_of_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reward 1 forever at gamma 1/2 is worth 2; cut off after two steps, it is worth that still.

    Where the world does end after two steps, half of the targets stop: Q = 1 + Q/4 = 4/3.
    """
    assert value_of("Truncated-v0") == pytest.approx(2, abs=0.05)
    assert value_of("Terminated-v0") == pytest.approx(4 / 3, abs=0.05)
    observe = pqn.Agent.observe

    def confused(self: pqn.Agent, action: Any, result: Step) -> None:
        observe(self, action, replace(result, terminated=result.ended, truncated=np.zeros_like(result.truncated)))

    monkeypatch.setattr(pqn.Agent, "observe", confused)
    assert value_of("Truncated-v0") == pytest.approx(4 / 3, abs=0.05), "the twin: the wrong answer"


@pytest.mark.learning
def test_pqn_solves_cart_pole() -> None:
    config, _ = configure("pqn", "CartPole-v1")
    scores = [event.evaluation.scores for event in run(config) if isinstance(event, Evaluated)]
    assert np.mean(scores[-1]) >= 475


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "--num-steps 0 is out of range: it must be at least 1"),
        ({"num_minibatches": 0}, "--num-minibatches 0 is out of range: it must be at least 1"),
        ({"num_minibatches": 4}, "--num-minibatches 4 does not divide the 15 agent steps of a rollout"),
        ({"num_steps": 41}, "--num-steps 41 of --num-envs 3 games are 123 agent steps, beyond --total-timesteps 120"),
        ({"q_lambda": 1.1}, r"--q-lambda 1.1 is out of range: it must be in \[0, 1\]"),
        ({"q_lambda": -0.1}, r"--q-lambda -0.1 is out of range: it must be in \[0, 1\]"),
        ({"q_lambda": math.nan}, "--q-lambda nan is out of range"),
        ({"end_e": 2.0}, "--end-e 2.0"),
        ({"max_grad_norm": -1.0}, "--max-grad-norm -1.0"),
        ({"apex_alpha": -1.0}, "--apex-alpha -1.0 is out of range"),
        ({"window": 0}, "--window 0 is out of range"),
        ({"ema_decay": 1.5}, "--ema-decay 1.5 is out of range"),
        ({"ema_decay": 1.0}, "--ema-decay 1.0 is out of range: it must be below 1"),
        ({"hidden": (0,)}, "--hidden"),
    ],
)
def test_mistakes_are_answered_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve(small(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("env_id", "reason"),
    [("Pendulum-v1", "needs a Discrete action space"), ("FrozenLake-v1", "pqn needs images or vectors")],
)
def test_worlds_it_cannot_serve(env_id: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"--env-id {env_id}.*{reason}"):
        next(run(small(env_id=env_id)))


@pytest.mark.parametrize("steps", [32, 4_096, 10**6])
def test_a_trial_has_the_minibatches_of_the_run(steps: int) -> None:
    config = small(total_timesteps=10**6, num_envs=32, num_steps=32, num_minibatches=8, window=16)
    trial = pqn.timing_config(replace(config, total_timesteps=steps))
    assert trial.hyper.num_steps * 32 / trial.hyper.num_minibatches == 128
    assert trial.hyper.num_steps * 32 <= max(steps, 128)
    assert trial.hyper.window == 1, "a window that is not filled would be subtracted from memory that it never took"


def test_steps_after_the_last_whole_rollout_bring_no_update() -> None:
    rows = [event for event in run(small(total_timesteps=129)) if isinstance(event, Progress)]
    assert sum(row.metrics["updates"] for row in rows) == 8 * 6
