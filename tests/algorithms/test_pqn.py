"""PQN: loss, minibatches, RAdam, resuming within a rollout, environments with known values, mistakes."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_pqn import filled, make_agent, numbered
from small_runs import QUIET, Chain, digests
from torch import Tensor, nn

from q2pi.algorithms import pqn
from q2pi.algorithms.registry import default_config
from q2pi.config import RunConfig, override, resolve
from q2pi.envs.vector import Step
from q2pi.equations import exact
from q2pi.equations.schedules import rectification
from q2pi.errors import UserError
from q2pi.runs import checkpoint
from q2pi.training.events import Evaluated, Progress, Started
from q2pi.training.loop import run
from q2pi.training.presets import configure

# ---- learning --------------------------------------------------------------------------------------------------------


def test_loss_and_gradient_by_hand() -> None:
    """Q(s) = (1, 5), actions 0 and 1, targets 3 and 4: (4 + 1)/2/2 = 1.25; gradients (1 - 3)/2 and (5 - 4)/2."""
    table = nn.Parameter(torch.tensor([1.0, 5.0]))

    class Table(nn.Module):
        def forward(self, observation: Tensor) -> Tensor:
            return table.expand(len(observation), 2)

    agent = make_agent()
    agent.online = Table()
    batch = pqn.Minibatch(torch.zeros(2, 1), torch.tensor([0, 1]), torch.tensor([3.0, 4.0]))
    loss, scalars = agent.loss(batch)
    loss.backward()
    assert (loss.item(), scalars["loss"].item(), scalars["q"].item()) == (1.25, 1.25, 5)
    assert table.grad is not None
    assert table.grad.tolist() == [-1, 0.5]


def rows(agent: pqn.Agent) -> torch.Tensor:
    """Return the rows of the rollout in each minibatch, [minibatches, B]."""
    return torch.stack([batch.observation[:, 0].long() for batch in agent.minibatches()])


def test_each_epoch_visits_every_step_once_in_its_own_order() -> None:
    agent = filled(make_agent(num_envs=2, num_steps=6, num_minibatches=3, update_epochs=2))
    numbered(agent)
    epochs = rows(agent).split(3)
    assert [sorted(epoch.flatten().tolist()) for epoch in epochs] == [list(range(12))] * 2
    assert epochs[0].shape == (3, 4)
    assert not torch.equal(*epochs)
    agent.rollouts = 1
    assert not torch.equal(rows(agent)[:3], epochs[0])


def test_minibatches_hold_the_actions_and_targets_of_their_rows() -> None:
    agent = filled(make_agent(num_envs=2, num_steps=6, num_minibatches=3, update_epochs=2))
    numbered(agent)
    agent.rollout.action[:] = np.arange(100, 112).reshape(6, 2)
    target = agent.targets().flatten()
    assert len(target.unique()) == 12
    for batch, drawn in zip(agent.minibatches(), rows(agent), strict=True):
        assert torch.equal(batch.action, drawn + 100)
        assert torch.equal(batch.target, target[drawn])


def test_only_a_full_rollout_gives_updates() -> None:
    agent = make_agent(num_envs=2, num_steps=3, num_minibatches=2, update_epochs=4)
    assert agent.learn(0) == []
    metrics = filled(agent).learn(6)
    assert len(metrics) == 8 == agent.config.updates_due(6, num_envs=2)
    assert agent.config.updates_due(5, num_envs=2) == 0
    assert set(metrics[0]) == {"loss", "q", "epsilon", "learning_rate"}
    assert agent.rollout.length == 0
    assert agent.learn(6) == []


def test_its_optimizer_equals_radam_after_five_updates() -> None:
    """The same gradients to both, over orders of magnitude; torch's RAdam takes five plain steps first, ours none."""
    agent = make_agent(num_steps=1, learning_rate=0.01)
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
    # After torch's plain steps the weights are larger, so float32 keeps fewer digits of the later steps.
    torch.testing.assert_close(ours.detach()[:5], (theirs.detach() - begin)[:5], rtol=1e-3, atol=1e-5)
    assert ours.detach().abs().min() > 1e-4


def test_the_learning_rate_falls_to_zero_if_annealed() -> None:
    late = 10**7
    constant, falling = make_agent(learning_rate=0.5), make_agent(learning_rate=0.5, anneal_learning_rate=True)
    assert [constant.learning_rate(step, late) for step in (0, 50)] == pytest.approx([0.5, 0.5])
    assert [falling.learning_rate(step, late) for step in (0, 50, 100)] == pytest.approx([0.5, 0.25, 0])


def test_the_gradient_is_bounded() -> None:
    for bound in (0.01, 0.0):
        agent = make_agent(num_steps=4, max_grad_norm=bound)
        filled(agent).learn(4)
        gradients = [parameter.grad.norm() for parameter in agent.online.parameters() if parameter.grad is not None]
        norm = torch.stack(gradients).norm().item()
        assert norm == pytest.approx(0.01, rel=1e-3) if bound else norm > 0.1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_weight_learns_from_images(precision: str) -> None:
    agent = make_agent(num_envs=2, shape=(4, 36, 36), num_steps=3, num_minibatches=2, precision=precision)
    before = [parameter.clone() for parameter in agent.online.parameters()]
    for rollout in range(4):
        filled(agent, rollout).learn(6 * (rollout + 1))
    moved = [not torch.equal(old, new) for old, new in zip(before, agent.online.parameters(), strict=True)]
    assert all(moved)


def small(**changes: Any) -> RunConfig[pqn.Config]:
    """Return 120 agent steps of 3 environments in rollouts of 15; a checkpoint at 51, within the fourth."""
    options = QUIET | {"env_id": "CartPole-v1", "total_timesteps": 120, "num_envs": 3, "checkpoint_frequency": 51}
    hyper = {"num_steps": 5, "num_minibatches": 3, "hidden": (8,)}
    return override(default_config("pqn"), options | hyper | changes)


@pytest.mark.parametrize("watkins", [False, True])
def test_a_run_resumed_within_a_rollout_ends_the_same_bit_for_bit(tmp_path: Path, watkins: bool) -> None:
    config = small(watkins=watkins)
    expected = digests(config, keep=(51, tmp_path))[120]
    _, saved, _, _ = checkpoint.load_newest(tmp_path)
    assert saved["agent"]["rollout"]["length"] == 2
    assert digests(config, saved)[120] == expected
    for lost in ("rollout", "optimizer", "rollouts", *(["greedy"] if watkins else [])):
        _, damaged, _, _ = checkpoint.load_newest(tmp_path)
        if lost == "rollout":
            damaged["agent"]["rollout"]["value"][:] = 7
        elif lost == "greedy":
            damaged["agent"]["rollout"]["greedy"][:] ^= True
        elif lost == "optimizer":
            del damaged["agent"]["optimizer"]
        else:
            damaged["agent"]["rollouts"] += 3
        assert digests(config, damaged)[120] != expected, lost


def test_a_checkpoint_of_another_version_is_refused_in_one_line(tmp_path: Path) -> None:
    config = small()
    digests(config, keep=(51, tmp_path))
    _, saved, _, _ = checkpoint.load_newest(tmp_path)
    del saved["agent"]["rollouts"]
    with pytest.raises(UserError, match="the checkpoint of agent step 51 has no 'rollouts': another version of q2pi"):
        digests(config, saved)


def test_a_run_on_images_resumes_bit_for_bit(tmp_path: Path) -> None:
    options = {"env_id": "SpaceInvaders", "resize": (36, 36), "precision": "bf16", "total_timesteps": 66}
    expected = digests(small(**options), keep=(51, tmp_path))[66]
    _, saved, _, _ = checkpoint.load_newest(tmp_path)
    assert digests(small(**options), saved)[66] == expected


# ---- environments with known values ----------------------------------------------------------------------------------


def learned(env_id: str, **changes: Any) -> pqn.Agent:
    """Return the agent of a finished run with random actions."""
    options = QUIET | {"env_id": env_id, "total_timesteps": 10_000, "num_envs": 8, "checkpoint_frequency": 0}
    hyper = {"num_steps": 8, "num_minibatches": 2, "update_epochs": 4, "hidden": (32,), "learning_rate": 1e-2}
    random = {"start_e": 1.0, "end_e": 1.0, "anneal_learning_rate": True}
    agent = None
    config = override(default_config("pqn"), options | hyper | random | changes)
    for event in run(resolve(config)):
        if isinstance(event, Started):
            agent = event.agent
    assert isinstance(agent, pqn.Agent)
    return agent


def chain_values(agent: pqn.Agent) -> np.ndarray:
    with torch.no_grad():
        q: np.ndarray = agent.online(torch.eye(5)).numpy()
    return q


def test_one_step_targets_learn_the_optimal_values_from_random_actions() -> None:
    """With a long lambda they do not: Peng's returns include the rewards of random actions."""
    _, expected = exact.optimal_values(Chain.mdp)
    agent = learned("Chain-v0", gamma=0.9, q_lambda=0.0)
    assert np.abs(chain_values(agent) - expected).max() < 0.05
    assert np.abs(chain_values(pqn.Agent(agent.config, agent.spec)) - expected).max() > 0.3, "they were learned"
    uncut = chain_values(learned("Chain-v0", gamma=0.9, q_lambda=0.95))
    assert (uncut.max(axis=1) < expected.max(axis=1) - 0.05)[:4].all()


def test_watkins_learns_the_optimal_values_from_random_actions_with_a_long_lambda() -> None:
    _, expected = exact.optimal_values(Chain.mdp)
    agent = learned("Chain-v0", gamma=0.9, q_lambda=0.95, watkins=True)
    assert np.abs(chain_values(agent) - expected).max() < 0.05


def test_the_published_lambda_learns_the_optimal_values_as_exploration_falls() -> None:
    _, expected = exact.optimal_values(Chain.mdp)
    agent = learned("Chain-v0", gamma=0.9, q_lambda=0.65, end_e=0.05, exploration_fraction=0.5)
    q = chain_values(agent)
    assert q.argmax(axis=1).tolist() == [1] * 5
    assert np.abs(q.max(axis=1) - expected.max(axis=1)).max() < 0.1


def value_of(env_id: str) -> float:
    return learned(env_id, gamma=0.5, q_lambda=0.0, total_timesteps=5_000).online(torch.ones(1, 1)).max().item()


def test_truncation_bootstraps_and_termination_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reward 1 forever at gamma 1/2 is worth 2, truncated after two steps or not.

    If the environment terminates after two steps, half of the targets stop: Q = 1 + Q/4 = 4/3.
    """
    assert value_of("Truncated-v0") == pytest.approx(2, abs=0.05)
    assert value_of("Terminated-v0") == pytest.approx(4 / 3, abs=0.05)
    observe = pqn.Agent.observe

    def confused(self: pqn.Agent, action: Any, result: Step) -> None:
        observe(self, action, result._replace(terminated=result.ended, truncated=np.zeros_like(result.truncated)))

    monkeypatch.setattr(pqn.Agent, "observe", confused)
    assert value_of("Truncated-v0") == pytest.approx(4 / 3, abs=0.05), (
        "truncation treated as termination gives the wrong value"
    )


@pytest.mark.learning
def test_pqn_solves_cart_pole() -> None:
    config, _ = configure("pqn", "CartPole-v1")
    scores = [event.evaluation.scores for event in run(resolve(config)) if isinstance(event, Evaluated)]
    assert np.mean(scores[-1]) >= 475


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "--num-steps 0 is out of range: it must be at least 1"),
        ({"num_minibatches": 0}, "--num-minibatches 0 is out of range: it must be at least 1"),
        ({"num_minibatches": 4}, "--num-minibatches 4 does not divide the 15 agent steps of a rollout"),
        (
            {"num_steps": 41},
            "--num-steps 41 of --num-envs 3 environments are 123 agent steps, beyond --total-timesteps 120",
        ),
        ({"q_lambda": 1.1}, r"--q-lambda 1.1 is out of range: it must be in \[0, 1\]"),
        ({"q_lambda": -0.1}, r"--q-lambda -0.1 is out of range: it must be in \[0, 1\]"),
        ({"q_lambda": math.nan}, "--q-lambda nan is out of range"),
        ({"end_e": 2.0}, "--end-e 2.0"),
        ({"max_grad_norm": -1.0}, "--max-grad-norm -1.0"),
        ({"hidden": (0,)}, "--hidden"),
    ],
)
def test_mistakes_are_one_line_with_flag_and_bound(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve(small(**changes))
    assert "\n" not in str(caught.value)


def test_spaces_it_cannot_serve_are_refused() -> None:
    with pytest.raises(UserError, match=r"--env-id Pendulum-v1.*pqn needs a Discrete action space"):
        next(run(resolve(small(env_id="Pendulum-v1"))))


@pytest.mark.parametrize("steps", [32, 4_096, 10**6])
def test_a_timing_run_has_the_minibatches_of_the_run(steps: int) -> None:
    config = small(total_timesteps=10**6, num_envs=32, num_steps=32, num_minibatches=8)
    short = config.hyper.timing_config(replace(config, total_timesteps=steps))
    assert short.hyper.num_steps * 32 / short.hyper.num_minibatches == 128
    assert short.hyper.num_steps * 32 <= max(steps, 128)


def test_steps_after_the_last_whole_rollout_give_no_update() -> None:
    events = [event for event in run(resolve(small(total_timesteps=129))) if isinstance(event, Progress)]
    assert sum(event.metrics["updates"] for event in events) == 8 * 6


def test_initial_weights_are_orthogonal() -> None:
    """sqrt(2) for the torso, 1 for the head, biases 0."""
    network = make_agent(hidden=(6, 4)).online
    first, second = (layer for layer in network.torso.modules() if isinstance(layer, nn.Linear))
    torch.testing.assert_close(first.weight.T @ first.weight, 2 * torch.eye(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(second.weight @ second.weight.T, 2 * torch.eye(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(network.head.weight @ network.head.weight.T, torch.eye(2), atol=1e-5, rtol=0)
    assert not any(layer.bias.any() for layer in (first, second, network.head))


@pytest.mark.parametrize("shape", [(3,), (4, 36, 36)], ids=["vectors", "images"])
def test_layers_are_normalised(shape: tuple[int, ...]) -> None:
    """Layers that are ten times as strong give the same Q."""
    network = make_agent(shape=shape).online
    observation = torch.randint(0, 256, (5, *shape), dtype=torch.uint8)
    before = network(observation)
    with torch.no_grad():
        for layer in network.torso.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.weight.mul_(10)
    torch.testing.assert_close(network(observation), before, atol=1e-3, rtol=1e-3)


def test_adams_epsilon_is_small() -> None:
    """A gradient of 1e-7 moves a weight by lr * g / (g + 1e-8), 0.91 lr; rectified from the sixth update on."""
    agent = make_agent(learning_rate=0.1, max_grad_norm=0.0)
    weight = agent.online.head.bias
    before = weight.detach().clone()
    agent.optimizer.zero_grad()
    for parameter in agent.online.parameters():
        parameter.grad.fill_(1e-7)  # type: ignore[union-attr]
    agent.optimizer.step()
    torch.testing.assert_close(before - weight.detach(), torch.full_like(before, 0.1 / 1.1), rtol=1e-3, atol=0)


def test_schedules_are_at_the_step_at_which_the_rollout_began() -> None:
    """Budget 100, rollouts of 10 steps: the first one has the values of step 0, the third those of step 20."""
    options = {"num_steps": 10, "update_epochs": 1, "anneal_learning_rate": True, "learning_rate": 0.1}
    agent = make_agent(start_e=1.0, end_e=0.0, exploration_fraction=1.0, **options)
    for rollout, step in enumerate((10, 20, 30)):
        (row,) = filled(agent, rollout).learn(step)
        assert row["epsilon"] == pytest.approx(1 - rollout / 10)
    agent.rollouts = 20
    (row,) = filled(agent, 3).learn(40)
    assert row["learning_rate"] == pytest.approx(0.1 * 0.7 * rectification(0.999, 21))
