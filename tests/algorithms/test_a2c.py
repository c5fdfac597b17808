"""A2C: n-step returns, one update per rollout, its loss, statistics, resuming, mistakes."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from q2pi.algorithms import a2c
from q2pi.algorithms.base import AgentSpec
from q2pi.buffers.rollout import Batch
from q2pi.config import RunConfig, resolve
from q2pi.envs.spec import EnvSpec
from q2pi.envs.vector import Step
from q2pi.equations.distributions import Categorical
from q2pi.errors import UserError
from q2pi.runs import checkpoint
from q2pi.training import loop
from q2pi.training.events import Checkpoint, Evaluated
from q2pi.training.presets import configure


def make_agent(num_envs: int = 1, space: Any = None, **changes: Any) -> a2c.Agent:
    """Return an agent whose V(s) is the first of the two numbers of s."""
    spec = AgentSpec(
        env=EnvSpec("CartPole-v1", stack=1, life_loss_discount=False, clip_rewards=False),
        num_envs=num_envs,
        frame_space=spaces.Box(-np.inf, np.inf, (2,), np.float32),
        stack=1,
        action_space=space or spaces.Discrete(2),
        total_timesteps=100,
        seed=1,
        device=torch.device("cpu"),
        precision="fp32",
    )
    agent = a2c.Agent(a2c.Config(**({"hidden": (8,), "gamma": 0.1} | changes)), spec)

    class FirstNumber(nn.Module):
        def forward(self, observation: torch.Tensor) -> torch.Tensor:
            return observation[:, 0]

    agent.network.critic = FirstNumber()
    return agent


def observe(agent: a2c.Agent, seen: float, reward: float, following: float, ending: str = "", **rules: bool) -> None:
    """Make one step of one environment with V `seen` before and `following` after; an episode's first V is 99."""
    agent.act(np.array([[seen, 0]], np.float32), 0)
    after = np.array([[following, 0]], np.float32)
    first = np.array([[99, 0]], np.float32) if ending in ("terminated", "truncated") else after
    flags = [np.array([ending == name]) for name in ("terminated", "truncated", "life_lost")]
    agent.observe(np.zeros(1), Step(after, first, np.array([reward], np.float32), *flags, (), **rules))


@pytest.mark.parametrize(
    ("ending", "targets"),
    [
        ("", [1.2345, 2.345, 3.45, 4.5]),  # 4 + 0.1 * 5, and so on
        ("terminated", [1.2, 2.0, 3.45, 4.5]),  # no value follows the second reward
        ("truncated", [1.27, 2.7, 3.45, 4.5]),  # the final observation's 7 follows it
    ],
)
def test_targets_are_n_step_returns_up_to_the_end_of_the_rollout(ending: str, targets: list[float]) -> None:
    agent = make_agent(num_steps=4)
    observe(agent, 10, 1, 20)
    observe(agent, 20, 2, 7 if ending else 30, ending)
    observe(agent, 99 if ending else 30, 3, 40)
    observe(agent, 40, 4, 5)
    batch = agent.batch()
    torch.testing.assert_close(batch.target, torch.tensor(targets))
    expected = np.array(targets) - [10, 20, 99 if ending else 30, 40]
    torch.testing.assert_close(batch.advantage, torch.tensor(expected, dtype=torch.float32))


def test_a_lost_life_ends_the_return_if_the_rules_say_so() -> None:
    targets = {}
    for rule in (True, False):
        agent = make_agent(num_steps=2)
        observe(agent, 10, 1, 20, "life_lost", life_loss_discount=rule)
        observe(agent, 20, 2, 30)
        targets[rule] = agent.batch().target.tolist()
    assert targets[True] == pytest.approx([1.0, 5.0])
    assert targets[False] == pytest.approx([1.5, 5.0])


def test_lambda_zero_gives_one_step_targets() -> None:
    """lambda 0: one reward, then the value of what follows."""
    agent = make_agent(num_steps=3, gae_lambda=0.0)
    observe(agent, 10, 1, 20)
    observe(agent, 20, 2, 30)
    observe(agent, 30, 3, 40)
    torch.testing.assert_close(agent.batch().target, torch.tensor([3.0, 5.0, 7.0]))


def test_rewards_are_scaled_by_one_number_for_the_whole_rollout() -> None:
    agent = make_agent(num_steps=3, gamma=0.0, normalize_rewards=True)
    for reward in (2, 4, 6):
        observe(agent, 0, reward, 0)
    np.testing.assert_allclose(agent.batch().target, np.array([2, 4, 6]) / np.std([2, 4, 6]), rtol=1e-6)


def test_statistics_of_observations_are_updated_after_the_update() -> None:
    agent = make_agent(num_steps=3, normalize_observations=True)
    assert agent.observations is not None
    moments = agent.observations.moments
    for seen in (1, 2, 6):
        observe(agent, seen, 1, 99)
    assert moments.count == 0
    agent.learn(3)
    assert moments.count == 3
    np.testing.assert_allclose(moments.mean, [3, 0])


def test_a_critic_apart_from_the_policy_is_called_once_for_a_whole_rollout() -> None:
    agent, sizes = make_agent(num_steps=3), []
    critic = agent.network.critic
    critic.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    for seen in (10, 20, 30):
        observe(agent, seen, 1, seen + 10)
    assert sizes == [1], "the last row's next observation"
    assert agent.batch().value.tolist() == [10, 20, 30]
    assert sizes == [1, 3]


def test_a_critic_on_the_policys_torso_is_called_with_it() -> None:
    spec = dataclasses.replace(make_agent(2).spec, frame_space=spaces.Box(0, 255, (4, 36, 36), np.uint8))
    agent = a2c.Agent(a2c.Config(num_steps=1), spec)
    observation = np.random.default_rng(1).integers(256, size=(2, 4, 36, 36), dtype=np.uint8)
    calls: list[int] = []
    agent.network.policy.torso.register_forward_hook(lambda *call: calls.append(1))
    agent.act(observation, 0)
    assert len(calls) == 1
    agent.observe(np.zeros(2), Step(observation, observation, np.zeros(2, np.float32), *np.zeros((3, 2), bool), ()))
    expected = agent.values(observation)
    calls.clear()
    np.testing.assert_array_equal(agent.batch().value, expected)
    assert not calls


class Bandit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.0, math.log(3.0)]))  # probabilities 1/4 and 3/4
        self.value = nn.Parameter(torch.tensor(1.0))

    def forward(self, observation: torch.Tensor) -> Any:
        return Categorical(self.logits.expand(len(observation), 2)), self.value.expand(len(observation))


def loss(network: Bandit, batch: Batch, config: a2c.Config) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return what `Agent.loss` returns for this network."""
    agent = make_agent()
    agent.network, agent.config = network, config  # type: ignore[assignment]
    return agent.loss(batch)


def test_loss_and_gradient_by_hand() -> None:
    """Actions 0 and 1 with advantages 2 and -4; returns 3 and 5; V is 1."""
    network = Bandit()
    ignored = torch.full((2,), 99.0)  # only PPO reads the ratio
    columns = [torch.zeros(2, 1), torch.tensor([0, 1]), ignored, ignored]
    batch = Batch(*columns, torch.tensor([2.0, -4.0]), torch.tensor([3.0, 5.0]))
    config = a2c.Config(value_coefficient=0.25, entropy_coefficient=0.5)
    total, scalars = loss(network, batch, config)
    policy_loss = -(2 * math.log(0.25) - 4 * math.log(0.75)) / 2
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert scalars["policy_loss"].item() == pytest.approx(policy_loss)
    assert scalars["value_loss"].item() == pytest.approx((4 + 16) / 2)
    assert total.item() == pytest.approx(policy_loss + 0.25 * 10 - 0.5 * entropy)
    loss(network, batch, dataclasses.replace(config, entropy_coefficient=0.0))[0].backward()
    # -(2 * (1 - 1/4) - 4 * (0 - 1/4)) / 2 for the first logit; -0.25 * mean of 2 * (return - V) for the value
    torch.testing.assert_close(network.logits.grad, torch.tensor([-1.25, 1.25]))
    assert network.value.grad is not None
    assert network.value.grad.item() == pytest.approx(-0.25 * (4 + 8) / 2)


def test_the_gradient_of_the_entropy_bonus_by_hand() -> None:
    """dH / d logit_i = -p_i (log p_i + H)."""
    network = Bandit()
    zeros = torch.zeros(2)
    batch = Batch(torch.zeros(2, 1), torch.tensor([0, 1]), zeros, zeros, zeros, torch.ones(2))
    loss(network, batch, a2c.Config(entropy_coefficient=0.5))[0].backward()
    p = torch.tensor([0.25, 0.75])
    entropy = -(p * p.log()).sum()
    torch.testing.assert_close(network.logits.grad, 0.5 * p * (p.log() + entropy))


def test_advantages_are_normalised_only_if_asked_for() -> None:
    columns = [torch.zeros(2, 1), torch.tensor([1, 1]), torch.zeros(2), torch.zeros(2)]
    batch = Batch(*columns, torch.tensor([1.0, 3.0]), torch.zeros(2))
    _, raw = loss(Bandit(), batch, a2c.Config())
    assert raw["policy_loss"].item() == pytest.approx(-2 * math.log(0.75))
    _, asked = loss(Bandit(), batch, a2c.Config(normalize_advantages=True))
    assert asked["policy_loss"].item() == pytest.approx(0, abs=1e-6)
    assert a2c.normalized(torch.tensor([5.0])).tolist() == [0.0]


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_each_rollout_gives_one_update(optimizer: str) -> None:
    agent = make_agent(num_steps=3, optimizer=optimizer)
    before = [parameter.clone() for parameter in agent.network.parameters()]
    for step in range(1, 10):
        observe(agent, 1, 1, 1)
        assert len(agent.learn(step)) == (step % 3 == 0)
        assert agent.config.updates_due(step, num_envs=1) == agent.rollouts
    assert any(not torch.equal(old, new) for old, new in zip(before, agent.network.parameters(), strict=True))


def test_the_gradient_is_bounded() -> None:
    for bound, expected in ((0.5, 0.5), (0.0, 3e3)):
        agent = make_agent(num_steps=2, max_grad_norm=bound)
        observe(agent, 1, 1e6, 1)
        observe(agent, 1, -1e6, 1)
        agent.learn(2)
        gradients = [parameter.grad.norm() for parameter in agent.network.parameters() if parameter.grad is not None]
        norm = torch.stack(gradients).norm().item()
        assert norm == pytest.approx(expected, rel=1e-3) if bound else norm > expected


def test_evaluation_changes_no_state() -> None:
    agent = make_agent(num_envs=1, num_steps=3, normalize_observations=True)
    observe(agent, 1, 1, 2)
    before = checkpoint.digest(agent.state())
    agent.evaluation_act(np.random.default_rng(1).normal(size=(8, 2)).astype(np.float32), np.random.default_rng(1))
    agent.predict(np.zeros(2, np.float32), deterministic=False)
    assert checkpoint.digest(agent.state()) == before


def config(env_id: str = "CartPole-v1", **hyper: Any) -> RunConfig[a2c.Config]:
    return RunConfig(
        algorithm="a2c",
        total_timesteps=120,
        num_envs=3,
        threads=1,
        checkpoint_frequency=51,
        evaluation_episodes=0,
        env=EnvSpec(env_id),
        hyper=a2c.Config(**({"hidden": (8,)} | hyper)),
    )


def final_digest(run: RunConfig[a2c.Config], state: Any = None, folder: Path | None = None) -> str:
    """Train to the end, save the checkpoint of step 51 in `folder`, and return the digest of the last state."""
    digest = ""
    for event in loop.run(resolve(run), state):
        if isinstance(event, Checkpoint):
            digest = checkpoint.digest(event.state)
            if folder is not None and event.step == 51:
                checkpoint.save(folder, event.step, event.state)
    return digest


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_a_run_resumed_within_a_rollout_ends_the_same_bit_for_bit(tmp_path: Path, optimizer: str) -> None:
    """Rollouts take 15 agent steps; the checkpoint is at 51, after two steps of the fourth."""
    run = config("Pendulum-v1", optimizer=optimizer, normalize_observations=True, normalize_rewards=True)
    expected = final_digest(run, folder=tmp_path)
    _, saved, _, _ = checkpoint.load_newest(tmp_path)
    assert saved["agent"]["rollout"]["length"] == 2
    assert final_digest(run, saved) == expected
    for lost in ("rollout", "observations", "rewards", "optimizer"):
        _, damaged, _, _ = checkpoint.load_newest(tmp_path)
        initial = make_agent(3, spaces.Box(-2, 2, (1,)), normalize_observations=True, normalize_rewards=True).state()
        if lost == "rollout":
            damaged["agent"]["rollout"]["reward"][:] = 7
        elif lost == "optimizer":
            del damaged["agent"]["optimizer"]
        elif lost == "rewards":
            damaged["agent"]["rewards"] = initial["rewards"]
        else:
            damaged["agent"]["observations"]["count"] += 1
        assert final_digest(run, damaged) != expected, lost


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "--num-steps 0 is out of range: it must be at least 1"),
        (
            {"num_steps": 41},
            "--num-steps 41 of --num-envs 3 environments are 123 agent steps, beyond --total-timesteps 120",
        ),
        ({"gamma": 1.1}, r"--gamma 1.1 is out of range: it must be in \[0, 1\]"),
        ({"value_coefficient": -1.0}, "--value-coefficient -1.0"),
        ({"log_std": 50.0}, "--log-std 50.0"),
        ({"hidden": (0,)}, "--hidden"),
    ],
)
def test_mistakes_are_one_line_with_flag_and_bound(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve(config(**changes))
    assert "\n" not in str(caught.value)


def test_spaces_it_cannot_serve_are_refused() -> None:
    spec = dataclasses.replace(make_agent().spec, action_space=spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)]))
    with pytest.raises(UserError, match="a2c needs Discrete, MultiDiscrete, MultiBinary or Box actions"):
        a2c.Config().check_spaces(spec)


@pytest.mark.learning
def test_a2c_learns_cart_pole() -> None:
    run, _ = configure("a2c", "CartPole-v1")
    run = dataclasses.replace(run, total_timesteps=150_000, threads=1)
    scores = [event.evaluation.scores for event in loop.run(resolve(run)) if isinstance(event, Evaluated)]
    assert np.mean(scores[-1]) > 400


def test_normalised_advantages_by_hand() -> None:
    """Mean 3 and standard deviation sqrt((4 + 1 + 9) / 2), of n - 1."""
    found = a2c.normalized(torch.tensor([1.0, 2.0, 6.0]))
    np.testing.assert_allclose(found, np.array([-2, -1, 3]) / math.sqrt(7), rtol=1e-5)
    assert a2c.normalized(torch.tensor([5.0])).tolist() == [0]


def moves(optimizer: str, gradients: list[float], **changes: Any) -> list[float]:
    """Return by how much each of several gradients moves a weight, in learning rates."""
    agent = make_agent(optimizer=optimizer, learning_rate=0.01, **changes)
    weight = agent.head.logits.bias
    found = []
    for gradient in gradients:
        before = weight.detach().clone()
        weight.grad.fill_(gradient)  # type: ignore[union-attr]
        agent.optimizer.step()
        found.append((before - weight.detach())[0].item() / 0.01)
    return found


def test_rmsprop_by_hand() -> None:
    """The mean of squares decays by 0.99; epsilon is added outside of the root."""
    squares = [0.01 * 4, 0.99 * 0.01 * 4 + 0.01 * 9]
    expected = [gradient / (math.sqrt(square) + 0.5) for gradient, square in zip((2, 3), squares, strict=True)]
    assert moves("rmsprop", [2.0, 3.0], optimizer_eps=0.5) == pytest.approx(expected, rel=1e-4)


def test_adam_has_the_optimizers_epsilon() -> None:
    """A first gradient g moves a weight by g / (g + eps) learning rates."""
    assert moves("adam", [1e-6]) == pytest.approx([1e-6 / 1.1e-5], rel=1e-2)
    assert moves("adam", [1.0], optimizer_eps=1.0) == pytest.approx([0.5], rel=1e-4)


@pytest.mark.parametrize("ending", ["truncated", "terminated", "life_lost"])
def test_discounted_sums_of_rewards_start_anew_with_each_episode_and_not_with_each_life(ending: str) -> None:
    """Rewards 4, 8, 2 at gamma 0.5, the second ends an episode or a life: sums 4, 10, then 2 or 2 + 5."""
    agent = make_agent(num_steps=3, gamma=0.5, normalize_rewards=True)
    observe(agent, 0, 4, 0)
    observe(agent, 0, 8, 0, ending, life_loss_discount=True)
    observe(agent, 0, 2, 0)
    agent.batch()
    assert agent.rewards is not None
    sums = [4, 10, 7 if ending == "life_lost" else 2]
    np.testing.assert_allclose(agent.rewards.moments.mean, [np.mean(sums)])
    np.testing.assert_allclose(agent.rewards.moments.variance, [np.var(sums)])
