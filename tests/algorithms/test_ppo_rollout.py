"""PPO: returns of a rollout, actions sent and stored, networks, evaluation."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from small_ppo import BOX, ENVS, fill, make_agent, observations, step
from torch import nn

from q2pi.algorithms import ppo
from q2pi.envs.vector import Step
from q2pi.equations.distributions import SquashedGaussian
from q2pi.runs import checkpoint


def with_value_of_first_number(agent: ppo.Agent) -> ppo.Agent:
    """Let V(s) be the first number of s."""
    network = agent.network

    class Known(nn.Module):
        def forward(self, observation: torch.Tensor) -> torch.Tensor:
            return observation[:, 0]

    network.critic = Known()
    return agent


def test_returns_bootstrap_from_final_observations_and_at_the_end_of_the_rollout() -> None:
    """gamma 0.1, V the first number: environment 0 continues, environment 1 is truncated at the first step."""
    agent = with_value_of_first_number(make_agent(num_steps=2, num_minibatches=1, gamma=0.1, gae_lambda=1.0))
    false = np.zeros(2, np.bool_)

    def seen(*values: float) -> np.ndarray:
        return np.array([[value, 0, 0] for value in values], np.float32)

    agent.act(seen(10, 20), 0)
    first = Step(seen(30, 40), seen(30, 99), np.array([1, 2], np.float32), false, ~false & [False, True], false, ())
    agent.observe(np.zeros(2), first)
    agent.act(seen(30, 99), 2)
    last = Step(seen(50, 60), seen(50, 60), np.array([3, 4], np.float32), false, false, false, ())
    agent.observe(np.zeros(2), last)
    batch = agent.batch()
    # returns: environment 0: 1 + 0.1 * (3 + 0.1 * 50) and 3 + 0.1 * 50; environment 1: 2 + 0.1 * 40 and 4 + 0.1 * 60
    torch.testing.assert_close(batch.target, torch.tensor([1.8, 6.0, 8.0, 10.0]))
    torch.testing.assert_close(batch.advantage, torch.tensor([1.8 - 10, 6.0 - 20, 8.0 - 30, 10.0 - 99]))


@pytest.mark.parametrize("truncation", [True, False])
def test_truncation_bootstraps_and_termination_does_not(truncation: bool) -> None:
    """Reward 1 forever is worth 1 / (1 - 0.9) = 10 everywhere. With a truncation at every third step all advantages are
    0; with a termination there all are negative."""
    agent = with_value_of_first_number(make_agent(gamma=0.9))
    ten = np.full((ENVS, 3), 10, np.float32)
    false = np.zeros(ENVS, np.bool_)
    for time in range(agent.rollout.steps):
        agent.act(ten, time)
        cut = np.full(ENVS, time % 3 == 2)
        ends = (false, cut) if truncation else (cut, false)
        agent.observe(np.zeros(ENVS), Step(ten, ten, np.ones(ENVS, np.float32), *ends, false, ()))
    advantage = agent.batch().advantage
    if truncation:
        torch.testing.assert_close(advantage, torch.zeros(16), atol=1e-5, rtol=0)
    else:
        assert advantage.min() < -8


def test_a_lost_life_ends_the_return_if_the_rules_say_so() -> None:
    for rule, expected in ((True, 0.0), (False, 0.99)):
        agent = make_agent()
        agent.act(observations((3,), 0), 0)
        lost = step(0, (3,))._replace(life_lost=np.array([True, False]), life_loss_discount=rule)
        agent.observe(np.zeros(ENVS), lost)
        np.testing.assert_allclose(agent.rollout.discount[0], [expected, 0.99], rtol=1e-6)


def test_rewards_are_clipped_if_the_rules_say_so() -> None:
    for rule, expected in ((True, 1.0), (False, 7.0)):
        agent = make_agent()
        agent.act(observations((3,), 0), 0)
        agent.observe(np.zeros(ENVS), step(0, (3,), reward=7.0, clip_rewards=rule))
        assert agent.rollout.reward[0].tolist() == [expected] * ENVS


def test_box_actions_are_sent_clipped_and_stored_unclipped() -> None:
    agent = make_agent(BOX, log_std=1.5)
    sent, stored = np.stack(fill(agent)), agent.rollout.action
    assert (sent == np.clip(stored, BOX.low, BOX.high)).all()
    assert (sent != stored).any()


def test_squashed_actions_are_within_their_bounds_and_have_the_right_density() -> None:
    """The rollout holds x before tanh; ratios and gradients must be those of the density of the action itself."""
    agent = make_agent(BOX, squash=True, log_std=-0.5)
    sent = torch.from_numpy(np.concatenate(fill(agent)))
    assert BOX.contains(sent[0].numpy())
    batch = agent.batch()
    low, high = torch.from_numpy(BOX.low), torch.from_numpy(BOX.high)
    policy, _ = agent.network(batch.observation)
    torch.testing.assert_close(sent, low + (high - low) * (1 + torch.tanh(batch.action)) / 2)
    action_policy = SquashedGaussian(policy.mean, policy.log_std, low, high)
    shifted = SquashedGaussian(policy.mean + 0.3, policy.log_std - 0.2, low, high)
    ratio = policy.log_prob(batch.action) - shifted.base.log_prob(batch.action)
    expected = action_policy.log_prob(sent) - shifted.log_prob(sent)
    torch.testing.assert_close(ratio, expected, atol=2e-4, rtol=1e-4)
    parameters = list(agent.network.policy.parameters())
    mine = torch.autograd.grad(policy.log_prob(batch.action).sum(), parameters, retain_graph=True)
    theirs = torch.autograd.grad(action_policy.log_prob(sent).sum(), parameters, retain_graph=True)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(policy.entropy(), action_policy.entropy())
    assert (policy.entropy() - action_policy.base.entropy()).abs().min() > 0.1


def test_actions_count_from_the_start_of_their_space() -> None:
    agent = make_agent(spaces.Discrete(3, start=-1))
    sent = np.concatenate(fill(agent))
    assert set(sent) == {-1, 0, 1}
    assert agent.rollout.action.min() == 0


def test_initial_weights_are_orthogonal_and_the_policy_is_nearly_uniform() -> None:
    agent = make_agent(shape=(1, 36, 36))
    convolution = agent.network.policy.torso.convolutions[2].weight.detach().reshape(64, -1)
    torch.testing.assert_close(convolution @ convolution.T, 2 * torch.eye(64), atol=1e-4, rtol=0)
    policy, _ = agent.network(torch.from_numpy(observations((1, 36, 36), 0)))
    assert (policy.log_probs.exp() - 1 / 3).abs().max() < 0.02


def test_policy_and_value_share_the_image_torso() -> None:
    assert "critic.torso.layers.0.weight" in make_agent().network.state_dict()
    agent = make_agent(shape=(1, 36, 36))
    assert not any("critic.torso" in name for name in agent.network.state_dict())
    before = agent.network.policy.torso.linear.weight.clone()
    fill(agent)
    agent.learn(16)
    assert not torch.equal(before, agent.network.policy.torso.linear.weight)


def test_evaluation_changes_no_state_and_names_its_policy() -> None:
    agent = make_agent(normalize_observations=True, normalize_rewards=True)
    fill(agent)
    agent.learn(16)
    agent.act(observations((3,), 3), 16)
    agent.observe(np.zeros(ENVS), step(3, (3,)))
    before = checkpoint.digest(agent.state())
    many = np.concatenate([observations((3,), time) for time in range(200)])
    mode = agent.evaluation_act(many, np.random.default_rng(1))
    assert mode.tolist() == agent.evaluation_act(many, np.random.default_rng(2)).tolist()
    assert mode.tolist() == agent.predict(many)[0].tolist()
    assert agent.predict(many[0])[0] == mode[0]
    sampled = agent.predict(many, deterministic=False)[0]
    assert sampled.tolist() != mode.tolist()
    assert checkpoint.digest(agent.state()) == before
    assert agent.evaluation_policy == "the policy's mode"
    sampler = make_agent(evaluation_deterministic=False)
    first, again, other = (sampler.evaluation_act(many, np.random.default_rng(seed)).tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert sampler.evaluation_policy == "sampled from the policy"
