"""REINFORCE: its weights by hand, batches, resuming within a batch, mistakes."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from small_reinforce import EPISODES, MDPS, MDPEnvs, linear_agent, spec

from q2pi.algorithms import reinforce
from q2pi.algorithms.reinforce import Credit, credit_of, weights
from q2pi.buffers.episodes import Trajectory
from q2pi.config import RunConfig, resolve
from q2pi.envs.spec import EnvSpec
from q2pi.envs.vector import Step
from q2pi.equations.exact import policy_value, softmax_policy
from q2pi.errors import UserError
from q2pi.runs import checkpoint
from q2pi.training import loop
from q2pi.training.events import Checkpoint, Evaluated
from q2pi.training.presets import configure


def episode(*reward: float, truncated: bool = False) -> Trajectory:
    length = len(reward)
    column = np.zeros((length, 1), np.float32)
    return Trajectory(column, np.zeros(length, np.int64), np.array(reward, np.float32), column[0], truncated)


def by_hand(config: dict[str, Any]) -> list[list[float]]:
    """Weights of three episodes: rewards 1 2 3 | 4 5 | 6, V 0.5 everywhere but 0.25 in first states, gamma 0.1."""
    episodes = [episode(1, 2, 3), episode(4, 5), episode(6)]
    value = [torch.tensor([0.25, 0.5, 0.5]), torch.tensor([0.25, 0.5]), torch.tensor([0.25])]
    credit = credit_of(episodes, value, [torch.tensor(99.0)] * 3, gamma=0.1)
    table = weights(credit, reinforce.Config(**({"gamma": 0.1, "baseline": "none"} | config)))
    return [table[: len(e.reward), column].tolist() for column, e in enumerate(episodes)]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [[1.23, 2.3, 3.0], [4.5, 5.0], [6.0]]),
        ({"discount_states": True}, [[1.23, 0.23, 0.03], [4.5, 0.5], [6.0]]),
        ({"return_kind": "whole"}, [[1.23] * 3, [4.5] * 2, [6.0]]),
        ({"return_kind": "whole", "discount_states": True}, [[1.23] * 3, [4.5] * 2, [6.0]]),
        ({"baseline": "value"}, [[0.98, 1.8, 2.5], [4.25, 4.5], [5.75]]),
        ({"baseline": "value", "discount_states": True}, [[0.98, 0.18, 0.025], [4.25, 0.45], [5.75]]),
        ({"baseline": "value", "return_kind": "whole"}, [[0.98] * 3, [4.25] * 2, [5.75]]),
        # Step 0: (4.5 + 6) / 2, ...; step 1: the other long episode; step 2: no other episode has one.
        ({"baseline": "batch_mean"}, [[1.23 - 5.25, 2.3 - 5, 3.0], [4.5 - 3.615, 5 - 2.3], [6 - 2.865]]),
        (
            {"baseline": "batch_mean", "return_kind": "whole"},
            [[1.23 - 5.25] * 3, [4.5 - 3.615] * 2, [6 - 2.865]],
        ),
    ],
)
def test_weights_by_hand(config: dict[str, Any], expected: list[list[float]]) -> None:
    found = by_hand(config)
    assert [len(row) for row in found] == [3, 2, 1]
    for row, values in zip(found, expected, strict=True):
        assert row == pytest.approx(values, abs=1e-6)


def test_normalised_weights() -> None:
    flat = np.concatenate(by_hand({"normalize_returns": True}))
    raw = np.array([1.23, 2.3, 3.0, 4.5, 5.0, 6.0])  # the six steps, without the padding
    np.testing.assert_allclose(flat, (raw - raw.mean()) / raw.std(), rtol=1e-5)


@pytest.mark.parametrize(("truncated", "value", "expected"), [(True, 7.0, [1.27, 2.7]), (False, 7.0, [1.2, 2.0])])
def test_a_truncated_return_bootstraps_from_the_final_value(
    truncated: bool, value: float, expected: list[float]
) -> None:
    credit = credit_of([episode(1, 2, truncated=truncated)], [torch.zeros(2)], [torch.tensor(value)], gamma=0.1)
    assert credit.returns[:, 0].tolist() == pytest.approx(expected)


def test_without_a_value_network_a_truncated_return_ends() -> None:
    cut, valued = linear_agent("chain", baseline="none"), linear_agent("chain", baseline="value")
    assert valued.value is not None
    with torch.no_grad():
        valued.value.head.bias.fill_(5.0)
        valued.value.head.weight.zero_()
    trajectory = dataclasses.replace(episode(1, 2, truncated=True), final_observation=np.zeros(3, np.float32))
    rows = torch.zeros(2, 3)
    assert cut.credit([trajectory], rows).returns[:, 0].tolist() == pytest.approx([1 + 0.7 * 2, 2])
    assert valued.credit([trajectory], rows).returns[:, 0].tolist() == pytest.approx([1 + 0.7 * 5.5, 5.5])


def test_a_batch_in_parts_gives_the_gradient_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = {}
    for size in (2_048, 3):
        monkeypatch.setattr(reinforce, "MAX_ROWS", size)
        agent = linear_agent("chain", baseline="value", entropy_coefficient=0.1)
        envs = MDPEnvs(MDPS["chain"][0], 2, seed=1)
        metrics: list[dict[str, float]] = []
        step = 0
        while not metrics:
            action = agent.act(envs.observation, step)
            agent.observe(action, envs.step(action))
            step += 2
            metrics = agent.learn(step)
        gradient = agent.head.logits.weight.grad
        assert gradient is not None
        gradients[size] = (gradient, metrics[0])
    torch.testing.assert_close(gradients[3][0], gradients[2_048][0])
    assert gradients[3][1] == pytest.approx(gradients[2_048][1], rel=1e-5)
    assert gradients[3][1]["episode_length"] * EPISODES > 3


def test_the_value_network_learns_the_returns() -> None:
    agent = linear_agent("chain", baseline="value", value_learning_rate=0.05, value_updates=400, hidden=())
    mdp, theta = MDPS["chain"]
    expected = policy_value(mdp, softmax_policy(theta))[0]
    generator, rows, targets = np.random.default_rng(0), [], []
    for _ in range(400):
        state = int(generator.integers(3))
        rows.append(np.eye(3, dtype=np.float32)[state])
        targets.append(expected[state] + generator.normal(0, 0.1))
    observation = torch.from_numpy(np.array(rows))
    first = agent.update_value(observation, torch.tensor(targets, dtype=torch.float32))
    assert first > 0.1
    np.testing.assert_allclose(agent.values(torch.eye(3)), expected, atol=0.03)


def until_learned(agent: reinforce.Agent, name: str = "chain") -> int:
    """Step until the first update; return the agent steps."""
    envs = MDPEnvs(MDPS[name][0], agent.spec.num_envs, seed=1)
    step = 0
    while True:
        action = agent.act(envs.observation, step)
        agent.observe(action, envs.step(action))
        step += agent.spec.num_envs
        if agent.learn(step):
            return step


def test_statistics_of_observations_are_updated_after_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = linear_agent("chain", num_envs=1, normalize_observations=True)
    assert agent.observations is not None
    moments, counts = agent.observations.moments, []
    original = agent.update_policy
    monkeypatch.setattr(agent, "update_policy", lambda *all: counts.append(moments.count) or original(*all))
    steps = until_learned(agent)
    assert counts == [0]
    assert moments.count == steps


def test_rewards_are_clipped_if_the_rules_say_so() -> None:
    """A reward of 7 is stored as 1 with the rule, and as 7 without it."""
    for rule, expected in ((True, 1.0), (False, 7.0)):
        agent = linear_agent("chain", num_envs=1)
        agent.act(np.eye(3, dtype=np.float32)[:1], 0)
        yes, no = np.ones(1, np.bool_), np.zeros(1, np.bool_)
        state = np.zeros((1, 3), np.float32)
        step = Step(state, state, np.array([7.0], np.float32), yes, no, no, (), clip_rewards=rule)
        agent.observe(np.zeros(1), step)
        assert agent.episodes.rows[0]["reward"] == [expected]


def test_evaluation_changes_no_state_and_samples_from_the_policy() -> None:
    agent = linear_agent("random", normalize_observations=True)
    agent.act(np.eye(3, dtype=np.float32)[:2], 0)
    many = np.eye(3, dtype=np.float32)[np.arange(300) % 3]
    before = checkpoint.digest(agent.state())
    first, again, other = (agent.evaluation_act(many, np.random.default_rng(seed)).tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert agent.predict(many)[0].tolist() == np.argmax(MDPS["random"][1], -1)[np.arange(300) % 3].tolist()
    assert agent.evaluation_policy == "sampled from the policy"
    assert checkpoint.digest(agent.state()) == before
    greedy = linear_agent("random", evaluation_deterministic=True)
    assert greedy.evaluation_act(many, np.random.default_rng(1)).tolist() == agent.predict(many)[0].tolist()
    assert greedy.evaluation_policy == "the policy's mode"


def config(total: int = 400, **hyper: Any) -> RunConfig[reinforce.Config]:
    options = {"hidden": (8,), "episodes_per_update": 4} | hyper
    return RunConfig(
        algorithm="reinforce",
        total_timesteps=total,
        num_envs=2,
        threads=1,
        checkpoint_frequency=150,
        evaluation_episodes=0,
        env=EnvSpec("CartPole-v1"),
        hyper=reinforce.Config(**options),
    )


def final_digest(run: RunConfig[reinforce.Config], state: Any = None, folder: Path | None = None) -> str:
    """Train to the end, save the checkpoint of step 150 in `folder`, and return the digest of the last state."""
    digest = ""
    for event in loop.run(resolve(run), state):
        if isinstance(event, Checkpoint):
            digest = checkpoint.digest(event.state)
            if folder is not None and event.step == 150:
                checkpoint.save(folder, event.step, event.state)
    return digest


@pytest.mark.parametrize("hyper", [{"normalize_observations": True}, {"baseline": "batch_mean"}])
def test_a_run_resumed_within_a_batch_ends_the_same_bit_for_bit(tmp_path: Path, hyper: dict[str, Any]) -> None:
    run = config(**hyper)
    expected = final_digest(run, folder=tmp_path)
    _, saved, _, _ = checkpoint.load_newest(tmp_path)
    filled = [len(columns["reward"]) for columns in saved["agent"]["episodes"]["envs"].values()]
    assert max(filled) > 0
    assert final_digest(run, saved) == expected
    _, damaged, _, _ = checkpoint.load_newest(tmp_path)
    for columns in damaged["agent"]["episodes"]["envs"].values():
        columns["observation"][:] = 0
    assert final_digest(run, damaged) != expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episodes_per_update": 3}, "--episodes-per-update 3 is not a multiple of --num-envs 2"),
        ({"episodes_per_update": 0}, "--episodes-per-update 0 is out of range: it must be at least 1"),
        ({"gamma": -0.5}, "--gamma -0.5 is out of range"),
        ({"learning_rate": math.nan}, "--learning-rate nan"),
        ({"value_updates": 0}, "--value-updates 0"),
        ({"hidden": ()}, "--hidden"),
    ],
)
def test_mistakes_are_one_line_with_flag_and_bound(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve(config(**changes))
    assert "\n" not in str(caught.value)


def test_the_batch_mean_needs_two_episodes() -> None:
    run = dataclasses.replace(config(episodes_per_update=1, baseline="batch_mean"), num_envs=1)
    with pytest.raises(UserError, match=r"--baseline batch_mean .* must be at least 2"):
        resolve(run)
    assert run.hyper.timing_config(dataclasses.replace(run, num_envs=3)).hyper.episodes_per_update == 3
    assert run.hyper.timing_config(run).hyper.episodes_per_update == 2


def test_spaces_it_cannot_serve_are_refused() -> None:
    pair = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)])
    with pytest.raises(UserError, match="reinforce needs Discrete, MultiDiscrete, MultiBinary or Box"):
        reinforce.Config().check_spaces(dataclasses.replace(spec(3, 2), action_space=pair))


def test_padding_changes_no_mean() -> None:
    """If no other episode has a step t, the weight of step t is the episode's own return."""
    valid = torch.tensor([[True, True], [True, False]])
    credit = Credit(torch.tensor([[5.0, 7.0], [3.0, 99.0]]), torch.zeros(2, 2), valid)
    found = weights(credit, reinforce.Config(baseline="batch_mean"))
    assert found[:, 0].tolist() == [-2.0, 3.0]


@pytest.mark.learning
def test_reinforce_learns_cart_pole() -> None:
    run, _ = configure("reinforce", "CartPole-v1", "classic")
    run = dataclasses.replace(run, total_timesteps=60_000, threads=1)
    scores = [event.evaluation.scores for event in loop.run(resolve(run)) if isinstance(event, Evaluated)]
    assert np.mean(scores[-1]) > 300


def test_the_entropy_bonus_is_the_mean_entropy_per_step() -> None:
    """Episodes of 1 and 3 steps, all weights 0: the loss is minus the coefficient times the mean over four steps."""
    agent = linear_agent(
        "chain", num_envs=1, baseline="none", gamma=0.0, episodes_per_update=2, entropy_coefficient=0.5
    )
    first, second = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    rows = torch.stack([first, second, second, second])
    episodes = [episode(0), episode(0, 0, 0)]
    metrics = agent.update_policy(episodes, rows, agent.credit(episodes_of_chain(episodes), rows))
    each = torch.distributions.Categorical(logits=agent.head.logits(torch.stack([first, second]))).entropy()
    expected = (each[0] + 3 * each[1]).item() / 4
    assert metrics["entropy"] == pytest.approx(expected)
    assert metrics["policy_loss"] == pytest.approx(-0.5 * expected)


def episodes_of_chain(episodes: list[Trajectory]) -> list[Trajectory]:
    """Return the episodes with a final observation of the chain's size."""
    return [dataclasses.replace(one, final_observation=np.zeros(3, np.float32)) for one in episodes]


def test_an_update_without_rewards_raises_the_entropy() -> None:
    options = {"learning_rate": 0.01, "entropy_coefficient": 1.0, "episodes_per_update": 2}
    agent = linear_agent("chain", num_envs=1, baseline="none", **options)
    rows, episodes = torch.eye(3), episodes_of_chain([episode(0), episode(0, 0)])
    entropies = [agent.update_policy(episodes, rows, agent.credit(episodes, rows))["entropy"] for _ in range(3)]
    assert entropies[0] < entropies[1] < entropies[2]
