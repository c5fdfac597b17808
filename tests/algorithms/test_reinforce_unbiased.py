"""REINFORCE: its gradient against the exact gradient of small MDPs."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from small_reinforce import EPISODES, MDPS, MDPEnvs, linear_agent

from q2pi.algorithms import reinforce
from q2pi.algorithms.reinforce import Credit, credit_of, weights
from q2pi.buffers.episodes import Trajectory
from q2pi.equations.distributions import Categorical
from q2pi.equations.exact import softmax_gradient, softmax_policy

BATCHES = 800
VARIANTS = [(kind, baseline) for kind in ("whole", "to_go") for baseline in ("none", "batch_mean", "value")]


@functools.cache
def sampled_batches(name: str) -> list[list[Trajectory]]:
    """Return batches of whole episodes of the MDP's softmax policy."""
    mdp, theta = MDPS[name]
    envs, pi = MDPEnvs(mdp, 1, seed=3), softmax_policy(theta).cumsum(-1)
    noise = np.random.default_rng(4)
    episodes: list[Trajectory] = []
    rows: list[tuple[Any, ...]] = []
    while len(episodes) < EPISODES * BATCHES:
        state, action = envs.observation, (noise.random((1, 1)) > pi[envs.state]).sum(-1)
        result = envs.step(action)
        rows.append((state[0], action[0], result.reward[0]))
        if result.terminated[0]:
            observation, actions, reward = (np.array(column) for column in zip(*rows, strict=True))
            episodes.append(Trajectory(observation, actions, reward, result.next_observation[0], False))
            rows = []
    return [episodes[start : start + EPISODES] for start in range(0, len(episodes), EPISODES)]


@functools.cache
def credits_of(name: str) -> list[Credit]:
    """Return the credit of each batch, with V an arbitrary function of the state."""
    value, final = torch.tensor([3.0, -1.0, 2.0]), [torch.zeros(())] * EPISODES
    states = [[episode.observation.argmax(-1) for episode in batch] for batch in sampled_batches(name)]
    return [
        credit_of(batch, [value[torch.from_numpy(state)] for state in indices], final, MDPS[name][0].gamma)
        for batch, indices in zip(sampled_batches(name), states, strict=True)
    ]


def sampled_gradients(name: str, config: reinforce.Config, action_baseline: float = 0.0) -> np.ndarray:
    """Return the estimate of dJ / d theta of each batch, [BATCHES, S, A], from `weights` and `loss`.

    Args:
        name: of an MDP.
        config: the variant.
        action_baseline: subtracted from the weight of action 0 only, which biases the estimate.
    """
    weight = torch.cat([weights(credit, config).T[credit.valid.T] for credit in credits_of(name)])
    everything = [episode for batch in sampled_batches(name) for episode in batch]
    action = torch.from_numpy(np.concatenate([episode.action for episode in everything]))
    state = torch.from_numpy(np.concatenate([episode.observation.argmax(-1) for episode in everything]))
    lengths = torch.tensor([len(episode.reward) for episode in everything])
    batch = (torch.arange(len(everything)) // EPISODES).repeat_interleave(lengths)
    # Each batch has its own logits, so one backward pass of the sum of losses gives all gradients.
    logits = torch.tensor(MDPS[name][1], dtype=torch.float32).repeat(BATCHES, 1, 1).requires_grad_()
    policy = Categorical(logits[batch, state])
    linear_agent(name).loss(policy, action, weight - action_baseline * (action == 0), EPISODES).backward()
    assert logits.grad is not None
    gradients: np.ndarray = -logits.grad.numpy()
    return gradients


def deviation(estimates: np.ndarray, name: str) -> float:
    """Return how far the mean is from the exact gradient, in standard errors, at worst over the parameters."""
    mdp, theta = MDPS[name]
    exact = softmax_gradient(mdp, theta, np.arange(mdp.states))
    error = estimates.std(axis=0, ddof=1) / np.sqrt(len(estimates))
    return float((np.abs(estimates.mean(axis=0) - exact) / error).max())


def variant(name: str, kind: Any, baseline: Any, **changes: Any) -> reinforce.Config:
    options = {"discount_states": True} | changes
    return reinforce.Config(return_kind=kind, baseline=baseline, gamma=MDPS[name][0].gamma, **options)


@pytest.mark.parametrize("name", MDPS)
@pytest.mark.parametrize(("kind", "baseline"), VARIANTS)
def test_the_estimate_is_unbiased(name: str, kind: str, baseline: str) -> None:
    assert deviation(sampled_gradients(name, variant(name, kind, baseline)), name) < 4


@pytest.mark.parametrize("name", MDPS)
@pytest.mark.parametrize(("kind", "baseline"), VARIANTS)
def test_a_baseline_that_depends_on_the_action_is_biased(name: str, kind: str, baseline: str) -> None:
    assert deviation(sampled_gradients(name, variant(name, kind, baseline), action_baseline=1.0), name) > 6


def test_returns_to_go_need_gamma_to_the_t_to_be_unbiased() -> None:
    practice = variant("chain", "to_go", "none", discount_states=False)
    assert deviation(sampled_gradients("chain", practice), "chain") > 6


def test_a_batch_mean_that_includes_the_episode_itself_shrinks_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    def mean_of_all(weight: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return weight.mean(dim=1, keepdim=True).expand_as(weight)

    monkeypatch.setattr(reinforce, "_mean_of_others", mean_of_all)
    estimates = sampled_gradients("chain", variant("chain", "whole", "batch_mean"))
    assert deviation(estimates, "chain") > 4
    assert deviation(estimates * EPISODES / (EPISODES - 1), "chain") < 4


def test_returns_to_go_have_less_variance_than_whole_returns() -> None:
    spread = {
        kind: sampled_gradients("random", variant("random", kind, "none")).var(axis=0).sum()
        for kind in ("whole", "to_go")
    }
    assert spread["to_go"] < 0.8 * spread["whole"]


def test_an_agent_that_acts_and_learns_is_unbiased() -> None:
    """Two environments, two whole episodes each per update, from `act` to the gradient."""
    agent = linear_agent("random", baseline="value")
    envs = MDPEnvs(MDPS["random"][0], 2, seed=7)
    estimates, step = [], 0
    while len(estimates) < 200:
        action = agent.act(envs.observation, step)
        agent.observe(action, envs.step(action))
        step += 2
        if agent.learn(step):
            gradient = agent.head.logits.weight.grad
            assert gradient is not None
            estimates.append(-gradient.T.numpy().copy())
    assert deviation(np.array(estimates), "random") < 4
