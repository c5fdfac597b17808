"""Rainbow: DQN with every switch off, each switch against slow arithmetic, resume, evaluation, and mistakes."""

import dataclasses
import math
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from small_dqn import make_agent
from small_runs import CARTPOLE, INVADERS, Chain, digests
from test_dqn import filled

from q2pi.algorithms import rainbow
from q2pi.algorithms.base import AgentSpec
from q2pi.algorithms.common.switches import FOREIGN, OFF
from q2pi.algorithms.registry import default_config
from q2pi.buffers.prioritized import PrioritizedSampler
from q2pi.buffers.samplers import UniformSampler
from q2pi.config import RunConfig, override, resolve
from q2pi.equations import exact
from q2pi.errors import UserError
from q2pi.evaluation.evaluate import evaluate
from q2pi.networks.noisy import noisy_layers
from q2pi.runs import checkpoint
from q2pi.runs.checkpoint import digest
from q2pi.training.events import Checkpoint, Started
from q2pi.training.loop import run
from q2pi.training.presets import configure, names

DQN_VALUES = {"learning_rate": 1e-3, "adam_eps": 1e-8, "eval_epsilon": 0.01}
"""Options whose defaults differ between DQN and Rainbow."""
KINDS = ("none", "categorical", "quantile", "implicit")


def cartpole(algorithm: str = "rainbow", **changes: Any) -> RunConfig[Any]:
    return override(default_config(algorithm), CARTPOLE | changes)


def small(num_envs: int = 1, total_timesteps: int = 100, precision: str = "fp32", **hyper: Any) -> rainbow.Agent:
    """Return an agent with a filled replay, every switch off unless given, and a target network of its own."""
    spec: AgentSpec = dataclasses.replace(make_agent(num_envs, total_timesteps).spec, precision=precision)
    sizes = {"hidden": (3,), "buffer_size": 64, "batch_size": 4, "learning_starts": 0, "train_frequency": 1}
    agent = rainbow.Agent(rainbow.Config(**(OFF | sizes | {"target_network_frequency": 10_000} | hyper)), spec)
    filled(agent, 40)
    with torch.no_grad():
        for parameter in agent.target.network.parameters():
            parameter.mul_(-0.7)
    agent.target.refresh()
    return agent


# ---- every switch off ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"double": True, "n_step": 3, "loss": "huber", "layer_norm": True, "max_grad_norm": 1.0},
        {"anneal_learning_rate": True, "initial_weights": "variance_scaling", "tau": 0.5},
    ],
)
def test_with_every_switch_off_it_is_dqn_bit_for_bit(options: dict[str, Any]) -> None:
    expected = digests(cartpole("dqn", **DQN_VALUES | options))
    assert digests(cartpole(**OFF | DQN_VALUES | options)) == expected
    assert len(set(expected.values())) == 4


def test_with_every_switch_off_it_is_dqn_on_images() -> None:
    options = INVADERS | {"total_timesteps": 300, "learning_starts": 100} | DQN_VALUES
    first = digests(override(default_config("dqn"), options))
    assert digests(override(default_config("rainbow"), options | OFF)) == first


ONE_SWITCH: dict[str, dict[str, Any]] = {
    "double": {"double": True},
    "dueling": {"dueling": True},
    "n_step": {"n_step": 3},
    "prioritized": {"prioritized": True},
    "noisy": {"noisy": True},
    "categorical": {"distribution": "categorical"},
    "quantile": {"distribution": "quantile", "quantiles": 7},
    "implicit": {"distribution": "implicit", "tau_samples": 4, "target_tau_samples": 3, "acting_taus": 5},
    "munchausen": {"munchausen": True},
    "spectral_norm": {"spectral_norm": True, "hidden": (16, 16)},
}
TOGETHER: dict[str, dict[str, Any]] = {
    "rainbow": {name: default_config("rainbow").hyper.__dict__[name] for name in OFF},
    "beyond": {
        "distribution": "implicit",
        "tau_samples": 4,
        "target_tau_samples": 4,
        "acting_taus": 4,
        **dict.fromkeys(("dueling", "prioritized", "noisy", "noisy_epsilon", "munchausen", "spectral_norm"), True),
        "n_step": 3,
        "hidden": (16, 16),
    },
    "all quantile": {
        "distribution": "quantile",
        "quantiles": 5,
        **dict.fromkeys(("double", "dueling", "prioritized", "noisy", "munchausen"), True),
        "n_step": 2,
    },
}
VARIANTS = ONE_SWITCH | TOGETHER


@pytest.mark.parametrize("variant", ONE_SWITCH)
def test_a_switch_changes_the_run(variant: str) -> None:
    """An option that is accepted and ignored would leave DQN."""
    sizes = {"total_timesteps": 200, "checkpoint_frequency": 0, "learning_rate": 3e-2, "target_network_frequency": 400}
    hidden = {name: value for name, value in ONE_SWITCH[variant].items() if name == "hidden"}
    both = (OFF | ONE_SWITCH[variant], OFF | hidden)
    (first,), (second,) = (digests(cartpole(**sizes, **switches)).values() for switches in both)
    assert first != second


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_equals_an_uninterrupted_one(variant: str, tmp_path: Path) -> None:
    config = cartpole(**OFF | VARIANTS[variant], total_timesteps=300)
    whole = digests(config, keep=(200, tmp_path))
    _, state, _, _ = checkpoint.load_newest(tmp_path)
    assert digests(config, state) == {300: whole[300]}


@pytest.mark.parametrize("variant", VARIANTS)
def test_evaluation_changes_no_state_and_no_training(variant: str) -> None:
    """And gives the same scores again, whatever noise the networks were left with."""
    config = resolve(cartpole(**OFF | VARIANTS[variant], total_timesteps=200))
    agent: Any = None
    for event in run(config):
        agent = event.agent if isinstance(event, Started) else agent
        if isinstance(event, Checkpoint) and event.step == 100:
            before = digest(agent.state())
            first = evaluate(agent, config.env, step=100, episodes=2, seed=1).report()
            assert digest(agent.state()) == before
            agent.prepare_update()
            agent.act(np.zeros((4, 4), np.float32), 3)
            assert evaluate(agent, config.env, step=100, episodes=2, seed=1).report() == first
            break
    often = dataclasses.replace(config, evaluation_frequency=60, evaluation_episodes=2)
    assert digests(often)[200] == digests(config)[200]


# ---- the loss against slow arithmetic --------------------------------------------------------------------------------


def policy_of(q: list[float], temperature: float) -> tuple[list[float], list[float]]:
    """Return (policy, -tau log policy), greedy for temperature 0."""
    if temperature == 0:
        best = q.index(max(q))
        return [float(a == best) for a in range(len(q))], [0.0] * len(q)
    total = sum(math.exp(value / temperature) for value in q)
    policy = [math.exp(value / temperature) / total for value in q]
    return policy, [-temperature * math.log(p) for p in policy]


def slow_losses(agent: rainbow.Agent, batch: Any) -> tuple[list[float], list[float]]:
    """Return (losses, errors for priorities) of a batch, number by number, from the networks' outputs."""
    c = agent.config
    fractions = agent.fractions
    count = c.target_tau_samples
    with torch.no_grad():
        online = agent.online(batch.observation, *fractions[:1]).double()
        target = agent.target(batch.next_observation, *fractions[1:]).double()
        q_online = agent.online.q_values(batch.next_observation).tolist()
        q_target = agent.target.called.q_values(batch.next_observation).tolist()
        q_now = agent.target.called.q_values(batch.observation).tolist()
    if c.distribution == "none":
        online, target = online.unsqueeze(2), target.unsqueeze(2)
    if c.distribution == "implicit":
        target = target[:, :, :count]
    temperature = c.munchausen_temperature if c.munchausen else 0.0
    results, errors = [], []
    for b in range(len(batch.action)):
        action, reward, discount = int(batch.action[b]), float(batch.reward[b]), float(batch.discount[b])
        policy, bonus = policy_of(q_online[b] if c.double else q_target[b], temperature)
        if c.munchausen:
            now, _ = policy_of(q_now[b], temperature)
            log_policy = temperature * math.log(now[action])
            reward += c.munchausen_alpha * min(max(log_policy, c.munchausen_floor), 0)
        actions, size = target.shape[1:]
        mine = online[b, action].tolist()
        if c.distribution == "categorical":
            atoms = [c.v_min + i * (c.v_max - c.v_min) / (c.atoms - 1) for i in range(c.atoms)]
            projected = [0.0] * c.atoms
            for a in range(actions):
                chances = torch.softmax(target[b, a], dim=0).tolist()
                for j in range(c.atoms):
                    z = reward + discount * (atoms[j] + bonus[a])
                    place = (min(max(z, c.v_min), c.v_max) - c.v_min) / (c.v_max - c.v_min) * (c.atoms - 1)
                    low = min(math.floor(place), c.atoms - 2)
                    projected[low] += policy[a] * chances[j] * (low + 1 - place)
                    projected[low + 1] += policy[a] * chances[j] * (place - low)
            logs = torch.log_softmax(online[b, action], dim=0).tolist()
            loss = -sum(m * log for m, log in zip(projected, logs, strict=True))
            results.append(loss)
            errors.append(loss)
            continue
        values = [
            reward + discount * sum(policy[a] * (float(target[b, a, j]) + bonus[a]) for a in range(actions))
            for j in range(size)
        ]
        if c.distribution == "none":
            error = values[0] - mine[0]
            huber = error**2 / 2 if abs(error) <= 1 else abs(error) - 0.5
            results.append(error**2 if c.loss == "mse" else huber)
            errors.append(error)
            continue
        at = fractions[0][b].tolist() if fractions else [(2 * i + 1) / (2 * c.quantiles) for i in range(c.quantiles)]
        loss = 0.0
        for (tau, q), y in product(zip(at, mine, strict=True), values):
            u = y - q
            size_of = u * u / 2 if abs(u) <= c.kappa else c.kappa * (abs(u) - c.kappa / 2)
            loss += abs(tau - (u < 0)) * size_of / c.kappa / len(values)
        results.append(loss)
        errors.append(loss)
    return results, errors


DISTRIBUTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "huber": {"loss": "huber"},
    "categorical": {"distribution": "categorical", "atoms": 7, "v_min": -2.0, "v_max": 3.0},
    "quantile": {"distribution": "quantile", "quantiles": 5, "kappa": 0.5},
    "implicit": {"distribution": "implicit", "tau_samples": 4, "target_tau_samples": 3, "acting_taus": 6},
}


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("munchausen", [False, True])
@pytest.mark.parametrize("n_step", [1, 3])
def test_the_loss_is_that_of_slow_arithmetic(kind: str, double: bool, munchausen: bool, n_step: int) -> None:
    """With dueling, noise and importance weights; the temperature separates soft from greedy."""
    options = DISTRIBUTIONS[kind] | {"double": double, "munchausen": munchausen, "n_step": n_step}
    agent = small(**options, munchausen_temperature=0.3, dueling=True, noisy=True, prioritized=True, batch_size=16)
    agent.prepare_update()
    (batch,) = agent.sample(1)
    batch = batch._replace(weight=torch.rand(16))
    expected, errors = slow_losses(agent, batch)
    loss, priority, _ = agent.loss(batch)
    weighted = sum(w * value for w, value in zip(batch.weight.tolist(), expected, strict=True)) / 16
    assert loss.item() == pytest.approx(weighted, rel=1e-3, abs=1e-6)
    np.testing.assert_allclose(priority.numpy(), errors, rtol=2e-3, atol=2e-5)
    assert not priority.requires_grad
    unweighted, _, _ = agent.loss(batch._replace(weight=torch.ones(16)))
    assert unweighted.item() != pytest.approx(weighted, rel=1e-2), "without weights it is another loss"


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_importance_weights_scale_the_gradient_of_every_loss(kind: str) -> None:
    agent = small(**DISTRIBUTIONS[kind])
    agent.prepare_update()
    (batch,) = agent.sample(1)

    def gradient(weight: torch.Tensor) -> torch.Tensor:
        loss, _, _ = agent.loss(batch._replace(weight=weight))
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(agent.online.parameters()))])

    ones = torch.eye(4)
    parts = [gradient(ones[b]) for b in range(4)]
    weight = torch.tensor([0.1, 0.5, 0.0, 1.0])
    torch.testing.assert_close(gradient(weight), sum(w * part for w, part in zip(weight, parts, strict=True)))
    assert float((gradient(weight) - gradient(torch.ones(4))).abs().max()) > 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("munchausen", [False, True])
def test_bf16_rounds_the_network_alone(kind: str, munchausen: bool) -> None:
    """Q, targets and losses are computed in fp32 from the network's output, also under autocast."""
    agent = small(distribution=kind, dueling=True, hidden=(8, 8), munchausen=munchausen, precision="bf16")
    agent.prepare_update()
    (batch,) = agent.sample(1)
    with torch.no_grad(), agent.spec.autocast():
        output = agent.online(batch.observation, *agent.fractions[:1])
        q, q_of_network = agent.distribution.q(output), agent.online.q_values(batch.observation)
        values, probabilities = agent.targets(batch)
        error = agent.distribution.loss(output, batch.action, values, probabilities, *(agent.fractions[:1] or (None,)))
    assert {t.dtype for t in (output, q, q_of_network, values, *error)} == {torch.float32}
    with torch.no_grad():
        assert torch.equal(q, agent.distribution.q(output))
        plain = agent.distribution.loss(output, batch.action, values, probabilities, *(agent.fractions[:1] or (None,)))
    assert torch.equal(error[0], plain[0])
    agent.update(batch)
    observation = batch.observation.numpy()[:1]
    assert agent.q_values(observation).dtype == np.float32
    assert agent.act(observation, 99).shape == (1,)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_in_bf16_are_those_of_autocast(kind: str) -> None:
    """The target network's bf16 copy has its noise, its fractions and its singular vectors."""
    options = {"distribution": kind, "noisy": True, "dueling": True, "spectral_norm": True, "hidden": (8, 8)}
    sizes = {"tau_samples": 4, "target_tau_samples": 3, "acting_taus": 5} if kind == "implicit" else {}
    agent = small(**options, **sizes, precision="bf16")
    agent.prepare_update()
    (batch,) = agent.sample(1)
    with agent.spec.autocast():
        expected = agent.targets(batch)[0]
        assert agent.target.called is not agent.target.network
        pairs = zip(noisy_layers(agent.target.network), noisy_layers(agent.target.called), strict=True)
        for mine, copied in pairs:
            mine.noise_in.copy_(copied.noise_in)
            mine.noise_out.copy_(copied.noise_out)
        agent.target._copy.network = agent.target.network
        assert torch.equal(agent.targets(batch)[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_the_values_of_a_chain(kind: str) -> None:
    """Five states in a row: Q*(s, right) = 0.9^(4 - s)."""
    options = {
        **OFF,
        "env_id": "Chain-v0",
        "gamma": 0.9,
        "distribution": kind,
        "total_timesteps": 3_000,
        "learning_rate": 3e-3,
        "adam_eps": 1e-8,
        "start_e": 1.0,
        "end_e": 1.0,
        "train_frequency": 2,
        "target_network_frequency": 25,
        "buffer_size": 2_000,
        "batch_size": 32,
        "hidden": (32,),
        "checkpoint_frequency": 0,
        **({"atoms": 51, "v_min": -0.5, "v_max": 1.5} if kind == "categorical" else {}),
        **({"quantiles": 10} if kind == "quantile" else {}),
        **({"tau_samples": 8, "target_tau_samples": 8, "acting_taus": 8} if kind == "implicit" else {}),
    }
    agent: Any = None
    for event in run(resolve(cartpole(**options))):
        agent = event.agent if isinstance(event, Started) else agent
    _, expected = exact.optimal_values(Chain.mdp)
    with torch.no_grad():
        q = agent.online.q_values(torch.eye(5)).numpy()
    assert np.abs(q - expected).max() < 0.1
    assert q.argmax(axis=1).tolist() == [1] * 5


# ---- noise, fractions and singular vectors ---------------------------------------------------------------------------


def noise_of(network: Any) -> list[float]:
    return [float(layer.noise_in[0, 0]) for layer in noisy_layers(network)]


def test_noise_is_redrawn_for_each_update_and_differs_between_the_networks() -> None:
    agent = small(noisy=True, noisy_sigma=0.5)
    seen = []
    for _ in range(3):
        agent.prepare_update()
        seen += [tuple(noise_of(agent.online)), tuple(noise_of(agent.target.called))]
        agent.updates += 1
    assert len(set(seen)) == 6
    assert all(any(noise) for noise in seen)
    agent.updates = 0
    agent.prepare_update()
    assert tuple(noise_of(agent.online)) == seen[0], "noise is a function of the update"


def test_noise_is_redrawn_for_each_acting_step_and_environment() -> None:
    agent = small(4, noisy=True, noisy_sigma=5.0)
    seen = []
    for step in (0, 4, 8):
        agent.act(np.ones((4, 2), np.float32), step)
        seen += [tuple(row.tolist()) for row in next(iter(noisy_layers(agent.online))).noise_out]
    assert len(set(seen)) == 12


def test_acting_follows_the_noise_and_evaluation_the_means() -> None:
    """With much noise training actions vary between steps; greedy evaluation never does."""
    agent = small(4, noisy=True, noisy_sigma=20.0, eval_epsilon=0.0)
    observation = np.ones((4, 2), np.float32)
    acted = np.stack([agent.act(observation, step) for step in range(0, 160, 4)])
    assert 0.1 < acted.mean() < 0.9
    assert len({tuple(row) for row in acted}) > 2, "environments explore separately"
    first = agent.evaluation_act(observation, np.random.default_rng(0))
    for step in range(5):
        agent.act(observation, step)
        agent.prepare_update()
        assert (agent.evaluation_act(observation, np.random.default_rng(step)) == first).all()
        assert (agent.predict(observation)[0] == first).all()


def test_noise_replaces_epsilon() -> None:
    exploring = {"start_e": 0.8, "end_e": 0.2, "exploration_fraction": 0.5, "total_timesteps": 100}
    assert [small(noisy=True, **exploring).epsilon(step) for step in (0, 50)] == [0, 0]
    for options in ({"noisy": True, "noisy_epsilon": True}, {"noisy": False}):
        assert [small(**options, **exploring).epsilon(step) for step in (0, 50)] == pytest.approx([0.8, 0.2])


def test_fractions_are_drawn_for_each_update() -> None:
    agent = small(distribution="implicit", tau_samples=6, target_tau_samples=5, acting_taus=4, batch_size=4)
    seen = []
    for _ in range(2):
        agent.prepare_update()
        online, target = (fraction.clone() for fraction in agent.fractions)
        assert (online.shape, target.shape) == ((4, 6), (4, 9))
        assert float(online.min()) >= 0
        assert float(online.max()) < 1
        assert len(online.unique()) == 24
        assert len(target[:, :5].unique()) == 20
        np.testing.assert_allclose(target[:, 5:], np.tile([0.125, 0.375, 0.625, 0.875], (4, 1)))
        seen.append((online, target))
        agent.updates += 1
    assert not torch.equal(seen[0][0], seen[1][0])
    assert not torch.equal(seen[0][1], seen[1][1])


def test_each_update_makes_one_power_iteration() -> None:
    agent = small(spectral_norm=True, hidden=(4, 3))
    vectors = [value for name, value in agent.online.state_dict().items() if name.endswith(".u")]
    before = [vector.clone() for vector in vectors]
    with torch.no_grad():
        agent.online.encoder.layers.layers[0].parametrizations["weight"].original.normal_()
    agent.prepare_update()
    assert all(not torch.equal(old, new) for old, new in zip(before, vectors, strict=True))


def test_the_target_network_gets_the_singular_vectors() -> None:
    agent = small(spectral_norm=True, hidden=(4, 3), target_network_frequency=1)
    agent.learn(3)
    for name, value in agent.online.state_dict().items():
        assert torch.equal(agent.target.network.state_dict()[name], value)


@pytest.mark.parametrize("kind", KINDS)
def test_options_of_the_network_reach_it(kind: str) -> None:
    options: dict[str, Any] = {"distribution": kind, "dueling": True, "noisy": True, "noisy_sigma": 0.25}
    sizes = {"quantile": {"quantiles": 9}, "implicit": {"cosines": 11}, "categorical": {"atoms": 7}}.get(kind, {})
    network = small(**options, **sizes).online
    assert network.value is not None
    assert network.architecture.sigma == 0.25
    assert network.distribution.outputs == {"quantile": 9, "categorical": 7}.get(kind, 1)
    if kind == "implicit":
        assert network.embedding.linear.in_features == 11
    images = images_agent(**OFF | options | sizes, width=2, pool=3).online
    assert images.encoder.features == 128 * 3 * 3
    assert images.encoder.convolutions[0].out_channels == 64


def images_agent(**hyper: Any) -> rainbow.Agent:
    spec = dataclasses.replace(make_agent().spec, frame_space=spaces.Box(0, 255, (1, 84, 84), np.uint8))
    return rainbow.Agent(rainbow.Config(**{"buffer_size": 8, "batch_size": 4, "learning_starts": 0} | hyper), spec)


# ---- prioritized replay ----------------------------------------------------------------------------------------------


def test_the_sampler_is_the_one_asked_for() -> None:
    assert isinstance(small().sampler, UniformSampler)
    sampler = small(prioritized=True, alpha=0.3).sampler
    assert isinstance(sampler, PrioritizedSampler)
    assert sampler.alpha == 0.3


def test_beta_rises_linearly_with_the_agent_steps() -> None:
    agent = small(prioritized=True, beta_start=0.2, beta_end=0.8, total_timesteps=100, learning_starts=20)
    sampler: Any = agent.sampler
    for updates, beta in ((0, 0.2 + 0.6 * 0.2), (30, 0.5), (80, 0.8)):
        agent.updates = updates
        agent.sample(1)
        assert sampler.beta == pytest.approx(beta)


def test_priorities_are_the_errors_of_the_newest_update() -> None:
    agent = small(prioritized=True, alpha=0.5, batch_size=4)
    agent.prepare_update()
    (batch,) = agent.sample(1)
    _, error, _ = agent.loss(batch)
    agent.learn(1)
    sampler: Any = agent.sampler
    last = {int(slot): abs(float(value)) for slot, value in zip(batch.indices, error, strict=True)}
    for slot, size in last.items():
        assert sampler.tree[np.array([slot])][0] == pytest.approx((size + 1e-6) ** 0.5, rel=1e-4)


def test_the_trees_bytes_are_counted() -> None:
    agent, plain = small(prioritized=True), small()
    difference = agent.config.storage_bytes(agent.spec, 10**6) - plain.config.storage_bytes(plain.spec, 10**6)
    sampler: Any = agent.sampler
    assert difference == sampler.nbytes


# ---- options and mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"noisy": False, "start_e": 0.0, "end_e": 0.0},
            "--no-noisy with --start-e 0 and --end-e 0: nothing explores",
        ),
        ({"atoms": 1}, "--atoms 1 is out of range: it must be at least 2"),
        ({"v_min": 10.0}, "--v-min 10.0 is out of range: it must be below --v-max 10.0"),
        ({"alpha": -0.1}, "--alpha -0.1 is out of range: it must be at least 0"),
        ({"beta_start": 1.1}, "--beta-start 1.1 is out of range: it must be in [0, 1]"),
        (
            {"distribution": "implicit", "atoms": 21},
            "--atoms 21 has no effect with --distribution implicit: it is an option of --distribution categorical",
        ),
        (
            {"distribution": "categorical", "kappa": 0.5},
            "--kappa 0.5 has no effect with --distribution categorical: "
            "it is an option of --distribution quantile or implicit",
        ),
        ({"loss": "huber"}, "--loss huber has no effect with --distribution categorical"),
        ({"munchausen_temperature": 0.0}, "--munchausen-temperature 0.0 is out of range"),
    ],
)
def test_mistuned_combinations_are_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(cartpole(**changes))
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_every_option_without_effect_is_one_that_training_ignores() -> None:
    others = {"noisy_sigma": 0.1, "noisy_epsilon": True, "alpha": 0.9, "beta_start": 0.9, "beta_end": 0.95}
    others |= {"munchausen_alpha": 0.5, "munchausen_temperature": 0.1, "munchausen_floor": -2.0}
    idle = rainbow.Config.options_without_effect(OFF)
    assert idle == {*others, *FOREIGN} - {"loss"}, "options of a distribution are refused without it"
    assert digests(cartpole(**OFF)) == digests(cartpole(**OFF | others))
    assert not rainbow.Config.options_without_effect({**OFF, "noisy": True}) & {"noisy_sigma", "noisy_epsilon"}


def test_the_method_names_the_switches_that_are_on() -> None:
    method = rainbow.Config().method
    assert method == "Rainbow (double, dueling, n_step, prioritized, noisy, distribution)"
    assert rainbow.Config(**OFF).method == "DQN"
    assert rainbow.Config(**OFF | {"munchausen": True}).method == "Rainbow (munchausen)"


def test_ablations_leave_out_and_isolate_each_switch() -> None:
    config = rainbow.Config(atoms=21)
    found = config.ablations()
    on = [name for name, off in OFF.items() if getattr(config, name) != off]
    assert len(on) == 6
    assert list(found) == ["all", *(f"no {name}" for name in on), *(f"only {name}" for name in on), "none"]
    assert found["all"] == config
    for name in on:
        assert {key for key in on if getattr(found[f"no {name}"], key) == OFF[key]} == {name}
        assert {key for key in on if getattr(found[f"only {name}"], key) != OFF[key]} == {name}
    assert all(getattr(found["none"], key) == off for key, off in OFF.items())
    assert found["no distribution"].atoms == 51, "options of the distribution have no effect without it"
    for hyper in found.values():
        hyper.check(override(default_config("rainbow"), {"total_timesteps": 50_000}))


# ---- presets ---------------------------------------------------------------------------------------------------------

PUBLISHED = ("double", "dueling", "prioritized", "c51", "qrdqn", "iqn", "rainbow", "data-efficient", "beyond")


def test_the_published_presets_exist() -> None:
    assert {*PUBLISHED, "machado"} <= set(names("rainbow"))


@pytest.mark.parametrize("preset", PUBLISHED)
@pytest.mark.parametrize(("env_id", "sizes"), [("CartPole-v1", "CartPole-v1"), ("Acrobot-v1", "classic")])
def test_elsewhere_a_preset_sets_switches_over_the_sizes_of_the_environment(
    preset: str, env_id: str, sizes: str
) -> None:
    config, used = configure("rainbow", env_id, preset)
    base, name = configure("rainbow", env_id)
    atari, _ = configure("rainbow", "Pong", preset)
    assert (used, name) == (preset, sizes)
    assert config.total_timesteps == base.total_timesteps < atari.total_timesteps or preset == "data-efficient"
    assert config.hyper.buffer_size == base.hyper.buffer_size
    for switch in OFF:
        if (preset, switch) != ("data-efficient", "n_step"):
            assert getattr(config.hyper, switch) == getattr(atari.hyper, switch), switch
    resolve(config)


@pytest.mark.parametrize("kind", KINDS)
def test_every_distribution_is_one_flag_over_a_preset(kind: str) -> None:
    for env_id in ("CartPole-v1", "Pong"):
        config, _ = configure("rainbow", env_id)
        assert resolve(override(config, {"distribution": kind})).hyper.distribution == kind


def test_budgets_of_single_switches_are_equal() -> None:
    """Presets that turn on one switch differ from dqn/machado in nothing that is not named in docs/presets.md."""
    dqn, _ = configure("dqn", "Pong", "machado")
    for preset in ("double", "dueling", "prioritized"):
        config, _ = configure("rainbow", "Pong", preset)
        shared = {entry.name for entry in dataclasses.fields(dqn.hyper)} - {"double", "max_grad_norm"}
        for name in shared:
            assert getattr(config.hyper, name) == getattr(dqn.hyper, name), f"{preset}: {name}"
        assert (config.total_timesteps, config.num_envs) == (dqn.total_timesteps, dqn.num_envs)


def test_pairs_of_updates_share_no_noise() -> None:
    """The streams of noise and of fractions are named apart: the same counter gives other numbers."""
    agent = small(noisy=True)
    names_of = ("noise/act", "noise/online", "noise/target", "fractions", "replay", "explore")
    drawn = [agent.spec.rng(name, 3).random() for name in names_of]
    assert all(first != second for first, second in pairwise(sorted(drawn)))
