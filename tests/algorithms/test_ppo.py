"""PPO: the ratio, the clipping, the minibatches, resuming within a rollout, bounds."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from small_ppo import BOX, DISCRETE, ENVS, fill, make_agent, observations
from torch import nn

from q2pi.algorithms import ppo
from q2pi.buffers.rollout import Batch
from q2pi.config import RunConfig, resolve
from q2pi.envs.spec import EnvSpec
from q2pi.equations.distributions import Categorical
from q2pi.errors import UserError
from q2pi.runs import checkpoint
from q2pi.training import loop
from q2pi.training.events import Checkpoint, Evaluated
from q2pi.training.presets import configure


def ratio(agent: ppo.Agent, batch: Batch) -> torch.Tensor:
    with torch.inference_mode():
        policy, _ = agent.network(batch.observation)
        return (policy.log_prob(batch.action) - batch.log_prob).exp()


CASES = [
    pytest.param(DISCRETE, (3,), {}, id="discrete"),
    pytest.param(BOX, (3,), {}, id="box"),
    pytest.param(BOX, (3,), {"squash": True}, id="squashed"),
    pytest.param(DISCRETE, (3,), {"normalize_observations": True, "normalize_rewards": True}, id="normalised"),
    pytest.param(DISCRETE, (1, 36, 36), {}, id="images"),
]


@pytest.mark.parametrize(("space", "shape", "changes"), CASES)
def test_the_ratio_is_one_before_the_first_update(space: Any, shape: tuple[int, ...], changes: dict[str, Any]) -> None:
    """In the second rollout, so that statistics and weights have moved since the start."""
    agent = make_agent(space, shape, log_std=1.0, **changes)
    for rollout in range(2):
        fill(agent, rollout * agent.rollout.steps)
        batch = agent.batch()
        for row in range(agent.rollout.steps):  # the same batches as in acting give the same bits
            acted = batch.select(torch.arange(row * ENVS, (row + 1) * ENVS))
            assert torch.equal(ratio(agent, acted), torch.ones(ENVS))
        shuffled = batch.select(next(agent.minibatches(0)))
        torch.testing.assert_close(ratio(agent, shuffled), torch.ones(len(shuffled.action)), atol=1e-5, rtol=0)
        first = agent.learn((rollout + 1) * agent.rollout.steps * ENVS)[0]
        assert first["approx_kl"] == pytest.approx(0, abs=1e-6)
        assert first["clip_fraction"] == 0
    assert (ratio(agent, batch) - 1).abs().max() > 1e-3, "after the updates it is not 1"


def test_the_ratio_is_not_one_if_statistics_change_within_a_rollout() -> None:
    agent = make_agent(normalize_observations=True)
    fill(agent)
    agent.learn(16)
    assert agent.observations is not None
    normalizer = agent.observations
    fill(agent, 8, after_step=lambda time: normalizer.update(observations((3,), time)))
    assert (ratio(agent, agent.batch()) - 1).abs().max() > 1e-5


def test_the_ratio_is_not_one_if_clipped_actions_are_stored() -> None:
    agent = make_agent(BOX, log_std=1.0)
    sent = fill(agent)
    batch = dataclasses.replace(agent.batch(), action=torch.from_numpy(np.concatenate(sent)))
    assert (ratio(agent, batch) - 1).abs().max() > 0.1


class Bandit(nn.Module):
    """One state, three actions, a value: the policy is its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3))
        self.value = nn.Parameter(torch.zeros(()))

    def forward(self, observation: torch.Tensor) -> Any:
        return Categorical(self.logits.expand(len(observation), 3)), self.value.expand(len(observation))


def loss(
    network: Bandit, batch: Batch, config: ppo.Config, clip: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return what `Agent.loss` returns for this network and this clip coefficient."""
    agent = make_agent()
    agent.network, agent.config, agent.clip = network, config, clip  # type: ignore[assignment]
    return agent.loss(batch)


def bandit_gradients(
    ratio: float, advantage: float, clip: float, old_value: float = 0.0, target: float = 0.0, **changes: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients by the logits and by the value of one step whose ratio is as given."""
    network = Bandit()
    batch = Batch(
        observation=torch.zeros(1, 1),
        action=torch.tensor([0]),
        log_prob=torch.tensor([math.log(1 / 3) - math.log(ratio)]),
        value=torch.tensor([old_value]),
        advantage=torch.tensor([advantage]),
        target=torch.tensor([target]),
    )
    options = {"normalize_advantages": False, "entropy_coefficient": 0.0, "value_coefficient": 1.0} | changes
    total, _ = loss(network, batch, ppo.Config(**options), clip)
    total.backward()
    assert network.logits.grad is not None
    assert network.value.grad is not None
    return network.logits.grad, network.value.grad


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"), [(1.5, 2.0, False), (0.5, -2.0, False), (1.5, -2.0, True), (0.5, 2.0, True)]
)
def test_the_gradient_vanishes_if_the_ratio_is_beyond_the_clip(ratio: float, advantage: float, moves: bool) -> None:
    gradient, _ = bandit_gradients(ratio, advantage, clip=0.2)
    # d(-ratio * advantage) = -ratio * advantage * (onehot(0) - 1/3)
    unclipped = -ratio * advantage * torch.tensor([2 / 3, -1 / 3, -1 / 3])
    torch.testing.assert_close(gradient, unclipped if moves else torch.zeros(3))
    wide, _ = bandit_gradients(ratio, advantage, clip=0.9)
    torch.testing.assert_close(wide, unclipped)


def test_the_value_changes_by_at_most_the_clip() -> None:
    """V is 0, was -0.5 and its target is 3: it has risen by 0.5, beyond a clip of 0.1."""
    assert bandit_gradients(1.0, 0.0, 0.1, old_value=-0.5, target=3.0)[1] == 0
    assert bandit_gradients(1.0, 0.0, 0.1, old_value=-0.5, target=3.0, clip_value_loss=False)[1] == pytest.approx(-6)
    assert bandit_gradients(1.0, 0.0, 0.6, old_value=-0.5, target=3.0)[1] == pytest.approx(-6)


def test_entropy_and_value_loss_have_their_coefficients() -> None:
    """At uniform logits the entropy is stationary: its weight shows in the loss alone."""
    network = Bandit()
    columns = [torch.zeros(2, 1), torch.tensor([0, 1]), torch.full((2,), math.log(1 / 3))]
    batch = Batch(*columns, torch.zeros(2), torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]))
    config = ppo.Config(value_coefficient=0.1, entropy_coefficient=0.01, normalize_advantages=False)
    total, scalars = loss(network, batch, dataclasses.replace(config, clip_value_loss=False), 0.2)
    assert scalars["policy_loss"].item() == pytest.approx(-1.5)
    assert scalars["value_loss"].item() == pytest.approx(5)
    assert total.item() == pytest.approx(-1.5 + 0.5 - 0.01 * math.log(3))


def test_the_gradient_of_the_entropy_bonus_by_hand() -> None:
    """dH / d logit_i = -p_i (log p_i + H)."""
    network = Bandit()
    p = torch.tensor([0.25, 0.25, 0.5])
    network.logits.data = p.log()
    batch = Batch(torch.zeros(1, 1), torch.tensor([0]), p.log()[:1], torch.zeros(1), torch.zeros(1), torch.zeros(1))
    config = ppo.Config(entropy_coefficient=0.5, value_coefficient=0.0, normalize_advantages=False)
    loss(network, batch, config, 0.2)[0].backward()
    entropy = -(p * p.log()).sum()
    torch.testing.assert_close(network.logits.grad, 0.5 * p * (p.log() + entropy))


def test_advantages_are_normalised_in_each_minibatch() -> None:
    """Advantages 1 and 2 become -+1/sqrt(2), so that their mean loss at ratio 1 is 0; raw it would be -1.5."""
    columns = [torch.zeros(2, 1), torch.tensor([0, 1]), torch.full((2,), math.log(1 / 3)), torch.zeros(2)]
    batch = Batch(*columns, torch.tensor([1.0, 2.0]), torch.zeros(2))
    _, scalars = loss(Bandit(), batch, ppo.Config(), 0.2)
    assert scalars["policy_loss"].item() == pytest.approx(0, abs=1e-6)


def test_each_epoch_shuffles_the_rollout_into_other_minibatches() -> None:
    agent = make_agent(num_minibatches=4)
    epochs = [torch.cat(list(agent.minibatches(epoch))).tolist() for epoch in range(3)]
    assert [len(part) for part in agent.minibatches(0)] == [4] * 4
    assert all(sorted(order) == list(range(16)) for order in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert torch.cat(list(agent.minibatches(0))).tolist() == epochs[0]
    agent.rollouts += 1
    assert torch.cat(list(agent.minibatches(0))).tolist() != epochs[0]


def test_a_rollout_gives_epochs_times_minibatches_updates() -> None:
    agent = make_agent(update_epochs=3, num_minibatches=4)
    fill(agent)
    assert agent.learn(12) and agent.rollout.length == 0  # noqa: PT018
    fill(agent, 8)
    due = agent.config.updates_due(16, ENVS)
    assert len(agent.learn(32)) == 12 == due
    assert agent.learn(32) == []


def test_epochs_stop_at_the_target_kl() -> None:
    eager = make_agent(learning_rate=0.1, target_kl=1e-4, update_epochs=5)
    fill(eager)
    assert len(eager.learn(16)) < 10
    patient = make_agent(learning_rate=0.1, update_epochs=5)
    fill(patient)
    assert len(patient.learn(16)) == 10


def test_learning_rate_and_clip_coefficient_fall_linearly() -> None:
    """Budget 160: the rollout that started at 40 has three quarters of the learning rate and of the clip."""
    agent = make_agent(learning_rate=1e-3, clip_coefficient=0.2, anneal_clip_coefficient=True)
    fill(agent)
    assert [row["learning_rate"] for row in agent.learn(56)] == pytest.approx([7.5e-4] * 8)
    assert agent.clip_coefficient(40) == agent.clip == pytest.approx(0.15)
    constant = make_agent(learning_rate=1e-3, anneal_learning_rate=False, clip_coefficient=0.2)
    fill(constant)
    assert {row["learning_rate"] for row in constant.learn(56)} == {1e-3}
    assert constant.clip_coefficient(40) == 0.2


def test_explained_variance() -> None:
    target = torch.tensor([1.0, 2.0, 3.0, 6.0])
    assert ppo.explained_variance(target + 5, target) == 1
    assert ppo.explained_variance(torch.zeros(4), target) == 0
    assert ppo.explained_variance(torch.zeros(4), torch.ones(4)) == 0


def config(env_id: str, total: int, **hyper: Any) -> RunConfig[ppo.Config]:
    options = {"num_steps": 16, "num_minibatches": 2, "update_epochs": 2, "hidden": (8,)} | hyper
    return RunConfig(
        algorithm="ppo",
        total_timesteps=total,
        num_envs=2,
        threads=1,
        checkpoint_frequency=80,
        evaluation_episodes=0,
        env=EnvSpec(env_id),
        hyper=ppo.Config(**options),
    )


def final_digest(run: RunConfig[ppo.Config], state: Any = None, folder: Path | None = None) -> str:
    """Train to the end, save the checkpoint of step 80 in `folder`, and return the digest of the last state."""
    digest = ""
    for event in loop.run(resolve(run), state):
        if isinstance(event, Checkpoint):
            digest = checkpoint.digest(event.state)
            if folder is not None and event.step == 80:
                checkpoint.save(folder, event.step, event.state)
    return digest


@pytest.mark.parametrize(
    ("env_id", "hyper"),
    [
        ("CartPole-v1", {}),
        ("Pendulum-v1", {"normalize_observations": True, "normalize_rewards": True}),
        ("Pendulum-v1", {"squash": True}),
    ],
)
def test_a_run_resumed_within_a_rollout_ends_the_same_bit_for_bit(
    tmp_path: Path, env_id: str, hyper: dict[str, Any]
) -> None:
    """Rollouts take 32 agent steps; the checkpoint is at 80, half-way through the third."""
    run = config(env_id, 160, **hyper)
    expected = final_digest(run, folder=tmp_path)
    _, saved, _, _ = checkpoint.load_newest(tmp_path)
    assert saved["agent"]["rollout"]["length"] == 8
    assert final_digest(run, saved) == expected
    _, emptied, _, _ = checkpoint.load_newest(tmp_path)
    emptied["agent"]["rollout"]["reward"][:] = 0
    assert final_digest(run, emptied) != expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_minibatches": 3}, "--num-minibatches 3 does not divide the 32 agent steps"),
        ({"num_steps": 0}, "--num-steps 0 is out of range: it must be at least 1"),
        (
            {"num_steps": 1000},
            "--num-steps 1000 of --num-envs 2 environments are 2000 agent steps, beyond --total-timesteps 160",
        ),
        ({"update_epochs": 0}, "--update-epochs 0"),
        ({"clip_coefficient": 1.5}, r"--clip-coefficient 1.5 is out of range: it must be in \[0, 1\]"),
        ({"gae_lambda": -0.1}, "--gae-lambda -0.1"),
        ({"target_kl": -1.0}, "--target-kl -1.0"),
        ({"learning_rate": math.nan}, "--learning-rate nan"),
        ({"hidden": ()}, "--hidden"),
    ],
)
def test_mistakes_are_one_line_with_flag_and_bound(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve(config("CartPole-v1", 160, **changes))
    assert "\n" not in str(caught.value)


def test_spaces_it_cannot_serve_are_refused() -> None:
    def check(space: Any) -> None:
        ppo.Config().check_spaces(dataclasses.replace(make_agent().spec, action_space=space))

    with pytest.raises(UserError, match=r"--env-id CartPole-v1 has actions Tuple\(.*\): ppo needs Discrete, .* or Box"):
        check(spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)]))
    check(spaces.MultiBinary(3))
    check(spaces.Box(0, 255, (2,), np.uint8))
    check(DISCRETE)
    check(BOX)
    with pytest.raises(UserError, match="--squash needs actions with finite bounds"):
        make_agent(spaces.Box(-np.inf, np.inf, (2,)), squash=True)
    with pytest.raises(UserError, match=r"--squash is for Box actions, not for Discrete\(3\)"):
        make_agent(squash=True)
    with pytest.raises(UserError, match="--normalize-observations is for vectors"):
        make_agent(shape=(1, 36, 36), normalize_observations=True)


@pytest.mark.parametrize(
    "name", ["CartPole-v1", "Acrobot-v1", "LunarLander-v3", "Pendulum-v1", "MountainCarContinuous-v0"]
)
def test_a_timing_run_has_whole_rollouts_of_the_same_minibatches(name: str) -> None:
    run, preset = configure("ppo", name)
    assert preset == name
    run.hyper.check(run)
    short = run.hyper.timing_config(dataclasses.replace(run, total_timesteps=1_200))
    short.hyper.check(short)

    def minibatch(of: RunConfig[ppo.Config]) -> float:
        return of.hyper.num_steps * of.num_envs / of.hyper.num_minibatches

    assert minibatch(short) == minibatch(run)
    assert short.hyper.num_steps * short.num_envs <= 300
    assert short.hyper.update_epochs == run.hyper.update_epochs


def test_storage_is_twice_the_bytes_of_a_rollout() -> None:
    for agent in (make_agent(), make_agent(BOX), make_agent(shape=(1, 36, 36))):
        assert agent.config.storage_bytes(agent.spec, sys.maxsize) == pytest.approx(2 * agent.rollout.nbytes, rel=0.1)


@pytest.mark.learning
def test_ppo_learns_cart_pole() -> None:
    run, _ = configure("ppo", "CartPole-v1")
    run = dataclasses.replace(run, total_timesteps=50_000, threads=1)
    scores = [event.evaluation.scores for event in loop.run(resolve(run)) if isinstance(event, Evaluated)]
    assert np.mean(scores[-1]) > 450


@pytest.mark.learning
def test_ppo_learns_pendulum() -> None:
    run, _ = configure("ppo", "Pendulum-v1")
    run = dataclasses.replace(run, threads=1)
    scores = [event.evaluation.scores for event in loop.run(resolve(run)) if isinstance(event, Evaluated)]
    assert np.mean(scores[-1]) > -400


def test_epochs_stop_by_the_mean_kl_of_the_newest_epoch() -> None:
    """The largest KL of a minibatch may be above the target, and so may the mean over all epochs."""

    def updates(kl: list[float]) -> int:
        agent = make_agent(num_minibatches=2, update_epochs=3, target_kl=0.5)
        fill(agent)
        made = iter(kl)
        agent.update = lambda batch: {"approx_kl": torch.tensor(next(made))}  # type: ignore[method-assign]
        return len(agent.learn(16))

    assert updates([0.9, 0.0] * 3) == 6, "the mean is 0.45"
    assert updates([0.4, 0.4, 0.9, 0.2, 0.0, 0.0]) == 4, "the mean of the second epoch is 0.55, of both 0.475"
    assert updates([0.5] * 6) == 6, "the target itself does not stop"


def test_metrics_of_the_ratio_by_hand() -> None:
    """Ratios 0.5, 1 and 2 at a clip of 0.2: two of three are clipped; the mean of ratio - 1 - log ratio."""
    ratio = torch.tensor([0.5, 1.0, 2.0])
    columns = [torch.zeros(3, 1), torch.tensor([0, 1, 2]), math.log(1 / 3) - ratio.log(), torch.zeros(3)]
    batch = Batch(*columns, torch.zeros(3), torch.zeros(3))
    _, scalars = loss(Bandit(), batch, ppo.Config(), 0.2)
    assert scalars["clip_fraction"].item() == pytest.approx(2 / 3)
    expected = (-0.5 - math.log(0.5) + 1 - math.log(2)) / 3
    assert scalars["approx_kl"].item() == pytest.approx(expected, rel=1e-5)
