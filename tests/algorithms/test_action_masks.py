"""Masked actions are never sampled, never selected and never in a target's maximum; without masks they are."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from small_envs import Forbidden, ForbiddenPairs, registered
from small_runs import QUIET

from q2pi.algorithms.base import AgentSpec
from q2pi.algorithms.build import build_agent
from q2pi.algorithms.common.epsilon_greedy import random_allowed
from q2pi.algorithms.registry import default_config
from q2pi.buffers.samplers import Batch
from q2pi.config import ResolvedConfig, override, resolve
from q2pi.envs.layout import Layout, Part
from q2pi.envs.make import make_envs
from q2pi.envs.spec import EnvSpec
from q2pi.errors import UserError
from q2pi.evaluation.evaluate import evaluate
from q2pi.networks.policy import PolicyNetwork
from q2pi.networks.value import LOWEST, QNetwork
from q2pi.training.events import EpisodeEnded, Started
from q2pi.training.loop import run

SMALL: dict[str, dict[str, Any]] = {
    "dqn": {"learning_starts": 40, "buffer_size": 100, "batch_size": 8, "hidden": (8,), "double": True},
    "rainbow": {"learning_starts": 40, "buffer_size": 100, "batch_size": 8, "hidden": (8, 8), "atoms": 5},
    "pqn": {"num_steps": 8, "num_minibatches": 2, "hidden": (8,)},
    "pqn_laptop": {"num_steps": 8, "num_minibatches": 2, "hidden": (8,)},
    "ppo": {"num_steps": 8, "num_minibatches": 2, "hidden": (8,)},
    "a2c": {"num_steps": 8, "hidden": (8,)},
    "reinforce": {"episodes_per_update": 4, "hidden": (8,)},
}
MASKED = Layout((Part("", "vector", (2,)), Part("action mask", "mask", (3,))), stack=2)


def config_of(name: str, env_id: str, **changes: Any) -> ResolvedConfig[Any]:
    options = QUIET | {"env_id": env_id, "total_timesteps": 200, "num_envs": 4} | SMALL[name] | changes
    return resolve(override(default_config(name), options))


@pytest.mark.parametrize("source", ["info", "method"])
@pytest.mark.parametrize("name", SMALL)
def test_a_forbidden_action_is_never_taken(name: str, source: str) -> None:
    """The environment raises at a forbidden action; exploration and evaluation are included."""
    with registered(lambda: Forbidden(source)) as env_id:
        config = config_of(name, env_id, **({"stack": 3} if source == "method" else {}))
        assert config.env.action_masks is True
        episodes, agent = 0, None
        for event in run(config):
            agent = event.agent if isinstance(event, Started) else agent
            episodes += isinstance(event, EpisodeEnded)
        assert episodes > 10
        assert agent is not None
        assert evaluate(agent, config.env, step=1, episodes=10, seed=1).scores


@pytest.mark.parametrize("distribution", ["none", "quantile", "implicit"])
@pytest.mark.parametrize("munchausen", [False, True])
def test_other_rainbows_learn_with_masks(distribution: str, munchausen: bool) -> None:
    """Losses stay finite: the loop raises `Diverged` if one is not."""
    with registered(Forbidden) as env_id:
        options: dict[str, Any] = {"distribution": distribution, "munchausen": munchausen, "atoms": 51}
        options |= {"double": False} if munchausen else {}
        list(run(config_of("rainbow", env_id, **options)))


@pytest.mark.parametrize("name", SMALL)
def test_without_masks_the_forbidden_action_is_taken(name: str) -> None:
    """The counterpart: with --no-action-masks the same environment is left at once."""
    with registered(Forbidden) as env_id:
        config = config_of(name, env_id, action_masks=False)
        with pytest.raises(UserError, match="is not allowed"):
            list(run(config))


def test_masks_are_used_unless_switched_off() -> None:
    with registered(Forbidden) as env_id:
        assert resolve(override(default_config("dqn"), {"env_id": env_id})).env.action_masks is True
        assert (
            resolve(override(default_config("dqn"), {"env_id": env_id, "action_masks": False})).env.action_masks
            is False
        )
        assert make_envs(EnvSpec(env_id), 1, 1).frame_shape == (2,)
        envs = make_envs(EnvSpec(env_id, action_masks=True), 1, 1)
        assert envs.reset().tolist() == [[1, 0, 1, 1, 0]]
    assert resolve(override(default_config("dqn"), {"env_id": "CartPole-v1"})).env.action_masks is False


@pytest.mark.parametrize(
    ("algorithm", "env_id", "message"),
    [
        ("dqn", "CartPole-v1", "--action-masks: CartPole-v1 has none; they are read from info"),
        ("q_learning", "Taxi-v4", "--action-masks: q_learning does not use action masks"),
        ("dqn", "SpaceInvaders", "--action-masks applies to Gymnasium environments"),
        ("ppo", "Pendulum-v1", "--action-masks: Pendulum-v1 has none"),
    ],
)
def test_masks_that_cannot_be_used_are_refused(algorithm: str, env_id: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(override(default_config(algorithm), {"env_id": env_id, "action_masks": True}))


def test_taxi_has_masks_and_q_learning_does_not_read_them() -> None:
    assert resolve(override(default_config("ppo"), {"env_id": "Taxi-v4"})).env.action_masks is True
    assert resolve(override(default_config("q_learning"), {"env_id": "Taxi-v4"})).env.action_masks is False


def test_a_state_without_an_action_is_named() -> None:
    message = "step returned an action mask that allows no action"
    with registered(lambda: Forbidden(none_at=3)) as env_id, pytest.raises(UserError, match=message) as raised:
        list(run(config_of("ppo", env_id)))
    message = str(raised.value)
    assert message.startswith(f"--env-id {env_id}: ")
    assert "episode 0, step 3" in message
    assert "\n" not in message


class Sometimes(Forbidden):
    """Its info has the mask in the first step only."""

    def _result(self) -> Any:
        observation, info = super()._result()
        return observation, info if self.steps < 2 else {}


def test_an_info_without_the_mask_is_named() -> None:
    with registered(Sometimes) as env_id, pytest.raises(UserError, match='an info without "action_mask"'):
        list(run(config_of("ppo", env_id)))


def observation_with(*masks: tuple[int, int, int]) -> torch.Tensor:
    """Return observations [B, 2 * 5] of two frames; the older one allows all actions."""
    rows = [[0.3, -0.7, 1, 1, 1, 0.5, 0.9, *mask] for mask in masks]
    return torch.tensor(rows)


def test_q_values_of_masked_actions_are_the_lowest_number() -> None:
    torch.manual_seed(0)
    network = QNetwork(MASKED, 3, (8,))
    all_allowed, some, one = network(observation_with((1, 1, 1), (0, 1, 1), (0, 0, 1)))
    assert torch.isfinite(all_allowed).all()
    assert (all_allowed > -100).all()
    assert some[0] == one[0] == one[1] == LOWEST
    torch.testing.assert_close(some[1:], all_allowed[1:])
    torch.testing.assert_close(one[2], all_allowed[2])


def test_only_the_newest_mask_counts() -> None:
    network = QNetwork(MASKED, 3, (8,))
    observation = observation_with((1, 1, 1))
    observation[0, 2:5] = 0
    assert (network(observation) > LOWEST).all()


def test_probabilities_of_masked_actions_are_zero_and_gradients_finite() -> None:
    torch.manual_seed(0)
    network = PolicyNetwork(MASKED, spaces.Discrete(3), (8,), log_std=0.0, squash=False)
    policy: Any = network(observation_with((1, 1, 1), (0, 1, 1), (0, 0, 1)))
    probabilities = policy.log_probs.exp()
    assert probabilities[1:, 0].tolist() == [0, 0]
    assert probabilities.sum(dim=1).tolist() == pytest.approx([1, 1, 1])
    torch.testing.assert_close(probabilities[1, 1:], probabilities[0, 1:] / probabilities[0, 1:].sum())
    assert policy.entropy()[2].item() == 0
    assert policy.mode()[2] == 2
    (policy.log_prob(torch.tensor([0, 1, 2])).sum() - policy.entropy().sum()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters() if parameter.grad is not None)


def test_random_actions_are_uniform_among_the_allowed() -> None:
    allowed = np.tile([[False, True, False, True, True]], (9_000, 1))
    counts = np.bincount(random_allowed(allowed, np.random.default_rng(0)), minlength=5)
    assert counts[[0, 2]].tolist() == [0, 0]
    assert counts[[1, 3, 4]].tolist() == pytest.approx([3_000] * 3, rel=0.05)


def dqn_with_bias(double: bool, masked: bool) -> Any:
    """Return a DQN agent whose online and target network return fixed Q-values whatever the observation."""
    envs = make_envs(EnvSpec("CartPole-v1"), 2, 1)
    config = resolve(
        override(default_config("dqn"), QUIET | {"env_id": "CartPole-v1", "double": double, "num_envs": 2})
    )
    agent: Any = build_agent(config, envs)
    spec: AgentSpec = dataclasses.replace(
        agent.spec,
        action_space=spaces.Discrete(3),
        frame_space=spaces.Box(-9, 9, (5,), np.float32),
        observation_space=None,
        parts=MASKED.parts if masked else (Part("", "vector", (5,)),),
    )
    hyper = dataclasses.replace(config.hyper, buffer_size=10, hidden=(4,))
    agent = type(agent)(hyper, spec)
    for network, biases in ((agent.online, [1.0, 2.0, 9.0]), (agent.target.network, [5.0, 3.0, 7.0])):
        with torch.no_grad():
            network.head.weight.zero_()
            network.head.bias.copy_(torch.tensor(biases))
    return agent


@pytest.mark.parametrize(
    ("double", "masked", "target"),
    [
        # The mask of the next state allows actions 0 and 1. DQN: the target network's best of 5 and 3, not 7.
        (False, True, 0.5 + 0.9 * 5),
        # Double DQN: the online network selects 1 of 1 and 2 (not 9), the target network's value of it is 3.
        (True, True, 0.5 + 0.9 * 3),
        # Without a mask: action 2, which is not allowed, leaks into the target.
        (False, False, 0.5 + 0.9 * 7),
        (True, False, 0.5 + 0.9 * 7),
    ],
)
def test_targets_of_dqn_by_hand(double: bool, masked: bool, target: float) -> None:
    agent = dqn_with_bias(double, masked)
    observation = torch.tensor([[0.0, 1, 1, 1, 1]])
    batch = Batch(
        observation=observation,
        action=torch.tensor([1]),
        reward=torch.tensor([0.5]),
        discount=torch.tensor([0.9]),
        next_observation=torch.tensor([[1.0, 0, 1, 1, 0]]),
        weight=torch.ones(1),
        indices=np.zeros(1, np.int64),
    )
    _, td_error, _ = agent.loss(batch)
    assert td_error.item() == pytest.approx(target - 2.0)


@pytest.mark.parametrize(("masked", "value"), [(True, 5.0), (False, 7.0)])
def test_the_best_value_of_pqn_by_hand(masked: bool, value: float) -> None:
    """Its targets are made of `max_q`."""
    with registered(Forbidden) as env_id:
        config = config_of("pqn", env_id, action_masks=masked)
        envs = make_envs(config.env, 4, 1)
        agent: Any = build_agent(config, envs)
        with torch.no_grad():
            agent.online.head.weight.zero_()
            agent.online.head.bias.copy_(torch.tensor([4.0, 5.0, 7.0]))
        # In the first step action 2 is forbidden.
        assert agent.max_q(envs.reset()).tolist() == [value] * 4
        agent.act(envs.observation, 0)
        assert agent._acted["value"].tolist() == [value] * 4


@pytest.mark.parametrize("name", SMALL)
def test_predictions_take_masks_as_an_argument(name: str) -> None:
    with registered(Forbidden) as env_id:
        config = config_of(name, env_id)
        envs = make_envs(config.env, 4, 1)
        agent: Any = build_agent(config, envs)
    observation = np.array([1, 0], np.float32)
    for only in range(3):
        mask = np.eye(3, dtype=np.int8)[only]
        for deterministic in (True, False):
            assert agent.predict(observation, deterministic=deterministic, action_masks=mask)[0] == only + 5
    many, _ = agent.predict(np.stack([observation] * 3), action_masks=np.eye(3, dtype=bool))
    assert many.tolist() == [5, 6, 7]
    assert agent.predict(observation)[0] in (5, 6, 7)
    stacked, _ = agent.predict(np.array([[1, 0, 1, 1, 1]] * 2, np.float32), action_masks=[[0, 0, 1], [0, 1, 0]])
    assert stacked.tolist() == [7, 6]
    with pytest.raises(ValueError, match="at least one action"):
        agent.predict(observation, action_masks=np.zeros(3))
    with pytest.raises(ValueError, match="expected 3 values"):
        agent.predict(observation, action_masks=np.ones(4))


def test_masks_for_an_agent_without_are_refused() -> None:
    config = resolve(override(default_config("ppo"), QUIET | {"env_id": "CartPole-v1"}))
    agent = build_agent(config, make_envs(config.env, 1, 1))
    with pytest.raises(ValueError, match="trained without action masks"):
        agent.predict(np.zeros(4, np.float32), action_masks=[1, 0])


# ---- MultiDiscrete actions -------------------------------------------------------------------------------------------

PAIRS = spaces.MultiDiscrete([3, 2])
PAIR_LAYOUT = Layout((Part("", "vector", (2,)), Part("action mask", "mask", (5,))))


@pytest.mark.parametrize(("form", "shape"), [("flat", (2,)), ("tuple", (2,)), ("tuple", (2, 1))])
@pytest.mark.parametrize("name", ["ppo", "a2c", "reinforce"])
def test_a_forbidden_pair_is_never_taken(name: str, form: str, shape: tuple[int, ...]) -> None:
    with registered(lambda: ForbiddenPairs(form, shape)) as env_id:
        config = config_of(name, env_id)
        assert config.env.action_masks is True
        events = list(run(config))
        assert sum(isinstance(event, EpisodeEnded) for event in events) > 10
        agent = next(event.agent for event in events if isinstance(event, Started))
        assert evaluate(agent, config.env, step=1, episodes=10, seed=1).scores


@pytest.mark.parametrize("name", ["ppo", "a2c", "reinforce"])
def test_without_masks_a_forbidden_pair_is_taken(name: str) -> None:
    with registered(ForbiddenPairs) as env_id, pytest.raises(UserError, match="is not allowed"):
        list(run(config_of(name, env_id, action_masks=False)))


def test_a_mask_of_a_wrong_length_is_one_line() -> None:
    with registered(lambda: ForbiddenPairs("short")) as env_id, pytest.raises(UserError) as raised:
        list(run(config_of("ppo", env_id)))
    message = str(raised.value)
    assert "reset returned the action mask [1, 1, 0, 1]: it must be 5 values, 0 or 1, one per action" in message
    assert "of each component (3 + 2), or a tuple of one mask per component" in message
    assert "\n" not in message


def test_the_masked_policy_over_pairs_by_hand() -> None:
    """Logits log 1, log 2, log 3 and log 1, log 4; the mask leaves 1/3, 2/3, 0 and 1, 0."""
    network = PolicyNetwork(PAIR_LAYOUT, PAIRS, (4,), log_std=0.0, squash=False)
    with torch.no_grad():
        network.head.logits.weight.zero_()
        network.head.logits.bias.copy_(torch.log(torch.tensor([1.0, 2.0, 3.0, 1.0, 4.0])))
    observation = torch.tensor([[0.1, 0.2, 1, 1, 0, 1, 0], [0.1, 0.2, 1, 1, 1, 1, 1]])
    policy: Any = network(observation)
    thirds = np.log([1 / 3, 2 / 3])
    some = policy.log_prob(torch.tensor([[1, 0], [2, 1]]))
    assert some.tolist() == pytest.approx([thirds[1], np.log(3 / 6) + np.log(4 / 5)])
    entropy = -(thirds * np.exp(thirds)).sum()
    assert policy.entropy()[0].item() == pytest.approx(entropy)
    assert policy.mode().tolist() == [[1, 0], [2, 1]]
    draws = torch.cat([network(observation).sample(torch.full((2, 2), u))[:1] for u in np.linspace(0, 1, 101)])
    assert set(map(tuple, draws.tolist())) == {(0, 0), (1, 0)}
    (some.sum() - policy.entropy().sum()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters() if parameter.grad is not None)


def test_predictions_take_masks_of_pairs() -> None:
    with registered(ForbiddenPairs) as env_id:
        config = config_of("ppo", env_id)
        agent: Any = build_agent(config, make_envs(config.env, 4, 1))
    observation = np.array([1, 0], np.float32)
    for mask in ([0, 0, 1, 1, 0], (np.array([0, 0, 1]), np.array([1, 0]))):
        assert agent.predict(observation, action_masks=mask)[0].tolist() == [7, -1]
    many, _ = agent.predict(np.stack([observation] * 2), action_masks=[[1, 0, 0, 1, 0], [0, 1, 0, 0, 1]])
    assert many.tolist() == [[5, -1], [6, 0]]
    with pytest.raises(ValueError, match="at least one action"):
        agent.predict(observation, action_masks=[1, 1, 1, 0, 0])
    with pytest.raises(ValueError, match="expected 5 values"):
        agent.predict(observation, action_masks=[1, 1, 1])
