"""DQN: updates against slow arithmetic, counters in agent steps, environments with known values, bounds."""

import random
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_dqn import make_agent
from small_runs import Chain, cartpole, digests, flags, invaders

from q2pi import __main__ as cli
from q2pi.algorithms import dqn
from q2pi.algorithms.common import target_network
from q2pi.buffers.samplers import UniformSampler
from q2pi.config import RunConfig, resolve
from q2pi.envs.atari import AtariEngine
from q2pi.envs.gymnasium import GymnasiumEngine
from q2pi.envs.vector import Step
from q2pi.equations import exact
from q2pi.errors import UserError
from q2pi.rng import stream
from q2pi.runs import checkpoint, manifest
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint
from q2pi.training.events import Diverged, Progress, Started
from q2pi.training.loop import run


def filled(agent: dqn.Agent, steps: int) -> dqn.Agent:
    """Fill an agent's replay with `steps` random steps of each environment, some terminated and some truncated."""
    generator, envs = np.random.default_rng(0), agent.spec.num_envs

    def observation() -> Any:
        return generator.normal(size=(envs, 2)).astype(np.float32)

    agent.begin(observation())
    for _ in range(steps):
        ends = generator.random(envs)
        result = Step(
            next_observation=observation(),
            observation=observation(),
            reward=generator.normal(size=envs).astype(np.float32),
            terminated=ends < 0.2,
            truncated=ends > 0.8,
            life_lost=np.zeros(envs, np.bool_),
            episodes=(),
        )
        agent.observe(generator.integers(2, size=envs), result)
    return agent


# ---- the update ------------------------------------------------------------------------------------------------------


def oracle(agent: dqn.Agent, updates: int, double: bool) -> dict[str, Any]:
    """Return the weights after Adam's updates, written out number by number (Kingma and Ba 2015, algorithm 1)."""
    config, online, target = agent.config, agent.online, agent.target.network
    names = [name for name, _ in online.named_parameters()]
    weights = {name: parameter.detach().clone().double() for name, parameter in online.named_parameters()}
    first = {name: torch.zeros_like(weights[name]) for name in names}
    second = {name: torch.zeros_like(weights[name]) for name in names}
    for number in range(updates):
        rows = stream(1, "replay", number)
        slots, _ = agent.sampler.sample(config.batch_size, rows)
        batch = agent.replay.sample(slots)
        free = {name: weights[name].clone().requires_grad_() for name in names}

        def q_of(values: dict[str, Any], observation: Any) -> Any:
            x = torch.relu(
                values["torso.layers.0.weight"] @ torch.from_numpy(observation).double() + values["torso.layers.0.bias"]
            )
            return values["head.weight"] @ x + values["head.bias"]

        fixed = {name: parameter.detach().double() for name, parameter in target.named_parameters()}
        total = torch.zeros((), dtype=torch.float64)
        for b in range(config.batch_size):
            q_online = q_of(free, batch.next_observation[b]).tolist()
            q_target = q_of(fixed, batch.next_observation[b]).tolist()
            selector = q_online if double else q_target
            best = selector.index(max(selector))
            target_value = float(batch.reward[b]) + float(batch.discount[b]) * q_target[best]
            error = abs(target_value - q_of(free, batch.observation[b])[int(batch.action[b])])
            if config.loss == "huber":
                total = total + (0.5 * error**2 if error <= 1 else error - 0.5)
            else:
                total = total + error**2
        (total / config.batch_size).backward()
        total_steps = agent.spec.total_timesteps
        rate = config.learning_rate * (1 - number / total_steps if config.anneal_learning_rate else 1)
        for name in names:
            gradient = free[name].grad
            assert gradient is not None
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            scale = (second[name] / (1 - 0.999 ** (number + 1))).sqrt() + config.adam_eps
            weights[name] = weights[name] - rate * first[name] / (1 - 0.9 ** (number + 1)) / scale
    return weights


def distance(agent: dqn.Agent, weights: dict[str, Any]) -> float:
    """Return the largest difference of a weight, in learning rates: one update moves a weight by about one."""
    moved = [(parameter - weights[name]).abs().max().item() for name, parameter in agent.online.named_parameters()]
    return max(moved) / agent.config.learning_rate


def prepared(**hyper: Any) -> dqn.Agent:
    """Return an agent with a filled replay and a target network of its own."""
    agent = filled(make_agent(learning_rate=0.01, train_frequency=1, target_network_frequency=10_000, **hyper), 40)
    with torch.no_grad():
        for parameter in agent.target.network.parameters():
            parameter.neg_()
    return agent


@pytest.mark.parametrize("loss", ["mse", "huber"])
@pytest.mark.parametrize("double", [True, False])
def test_updates_are_those_of_slow_arithmetic(double: bool, loss: str) -> None:
    agent = prepared(double=double, loss=loss, batch_size=16)
    expected, other = oracle(agent, 3, double), oracle(agent, 3, not double)
    agent.learn(3)
    assert agent.updates == 3
    assert distance(agent, expected) < 1e-3
    assert distance(agent, other) > 0.01, "this batch separates DQN from Double DQN"


@pytest.mark.parametrize("layer_norm", [True, False])
def test_layer_norm_makes_a_layer_invariant_to_its_scale(layer_norm: bool) -> None:
    """Weights ten times as large leave a normalised layer's output as it was."""
    agent = make_agent(layer_norm=layer_norm, hidden=(16,))
    observation = torch.tensor([[0.5, -2.0], [3.0, 1.0]])
    before = agent.online(observation)
    with torch.no_grad():
        for parameter in agent.online.torso.layers[0].parameters():
            parameter.mul_(10)
    same = torch.allclose(before, agent.online(observation), rtol=1e-3, atol=1e-3)
    assert same == layer_norm


def test_gradients_are_clipped_by_their_norm() -> None:
    """Far below Adam's constant, its first step is lr * gradient / eps: of norm lr * bound / eps."""
    agent = prepared(max_grad_norm=1e-3, adam_eps=1.0)
    before = torch.cat([parameter.detach().flatten().clone() for parameter in agent.online.parameters()])
    agent.learn(1)
    after = torch.cat([parameter.detach().flatten() for parameter in agent.online.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.01 * 1e-3, rel=0.05)


def test_the_learning_rate_falls_linearly_with_the_agent_steps_if_annealed() -> None:
    falling = prepared(double=True, anneal_learning_rate=True, total_timesteps=4)
    expected = oracle(falling, 4, True)
    constant = oracle(prepared(double=True, total_timesteps=4), 4, True)
    falling.learn(4)
    assert distance(falling, expected) < 1e-3
    assert distance(falling, constant) > 0.5, "a constant learning rate ends elsewhere"


@pytest.mark.parametrize("anneal", [False, True])
def test_a_learning_rate_in_a_tensor_gives_the_weights_of_a_number(anneal: bool) -> None:
    number, tensor = (prepared(anneal_learning_rate=anneal, batch_size=16) for _ in range(2))
    tensor.optimizer.param_groups[0]["lr"] = torch.tensor(tensor.config.learning_rate)
    for agent in (number, tensor):
        agent.learn(40)
    assert distance(number, dict(tensor.online.named_parameters())) < 1e-4


@pytest.mark.parametrize("tau", [1.0, 0.25])
def test_a_target_network_cast_once_trains_like_one_under_autocast(tau: float, monkeypatch: pytest.MonkeyPatch) -> None:
    config = cartpole(double=True, precision="bf16", target_network_frequency=40, tau=tau)
    expected = digests(config)
    monkeypatch.setattr(target_network.Bf16Copy, "refresh", lambda self: None)
    assert digests(config) != expected, "without a refresh the first target network is used for ever"
    monkeypatch.setattr(
        target_network, "Bf16Copy", lambda network, precision: SimpleNamespace(network=network, refresh=lambda: None)
    )
    assert digests(config) == expected


def test_batches_drawn_together_equal_batches_drawn_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    together = digests(cartpole(num_envs=8, train_frequency=2))
    monkeypatch.setattr(UniformSampler, "lookahead", 1)
    assert digests(cartpole(num_envs=8, train_frequency=2)) == together


# ---- counters in agent steps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("envs", [1, 8])
@pytest.mark.parametrize("tau", [1.0, 0.25])
def test_the_target_network_is_updated_at_its_agent_steps(
    envs: int, tau: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Updates belong to agent steps 14, 18, 22, ...: those at 22, 42 and 62 enter a new period of 20 steps."""
    agent = make_agent(envs, learning_starts=10, train_frequency=4, target_network_frequency=20, tau=tau)
    filled(agent, 40 // envs + 1)
    moved = []
    update_target = agent.update_target

    def watched() -> None:
        weight = agent.target.network.head.weight
        before = weight.clone()
        update_target()
        if not torch.equal(weight, before):
            moved.append(10 + 4 * agent.updates)
            expected = before + tau * (agent.online.head.weight.detach() - before)
            torch.testing.assert_close(weight, expected)

    monkeypatch.setattr(agent, "update_target", watched)
    for step in range(0, 80, envs):
        agent.learn(step)
    assert moved == [22, 42, 62]


@pytest.mark.parametrize("envs", [1, 3, 8])
def test_updates_per_agent_step_do_not_depend_on_the_number_of_environments(envs: int) -> None:
    """(240 - 40) / 4 = 50 updates."""
    config = cartpole(num_envs=envs, total_timesteps=240, learning_starts=40, train_frequency=4)
    rows = [event for event in run(resolve(config)) if isinstance(event, Progress)]
    assert sum(row.metrics["updates"] for row in rows) == 50


@pytest.mark.parametrize(
    ("step", "due"), [(0, 0), (40, 0), (43, 0), (44, 1), (47, 1), (48, 2), (240, 50)], ids=lambda value: str(value)
)
def test_updates_due(step: int, due: int) -> None:
    assert dqn.Config(learning_starts=40, train_frequency=4).updates_due(step, num_envs=8) == due


# ---- environments with known values ----------------------------------------------------------------------------------


def learned(config: RunConfig[Any]) -> dqn.Agent:
    for event in run(resolve(config)):
        if isinstance(event, Started):
            agent: Any = event.agent
    return agent  # type: ignore[no-any-return]


def run_on(env_id: str, **changes: Any) -> RunConfig[Any]:
    """Return a run that explores at random and learns at every step."""
    options = {
        "env_id": env_id,
        "total_timesteps": 2_000,
        "start_e": 1.0,
        "end_e": 1.0,
        "train_frequency": 1,
        "learning_rate": 3e-3,
        "target_network_frequency": 25,
        "buffer_size": 2_000,
        "batch_size": 32,
        "hidden": (32,),
        "checkpoint_frequency": 0,
    }
    return cartpole(**options | changes)


@pytest.mark.parametrize(("double", "n_step"), [(True, 1), (False, 1)])
def test_it_learns_the_values_of_a_chain(double: bool, n_step: int) -> None:
    """Five states in a row: Q*(s, right) = 0.9^(4 - s). Every learned value is within 0.05 of it."""
    agent = learned(run_on("Chain-v0", gamma=0.9, double=double, n_step=n_step))
    with torch.no_grad():
        q = agent.online(torch.eye(5)).numpy()
    _, expected = exact.optimal_values(Chain.mdp)
    assert np.abs(q - expected).max() < 0.05
    assert q.argmax(axis=1).tolist() == [1] * 5
    untrained = dqn.Agent(agent.config, agent.spec)
    assert np.abs(untrained.online(torch.eye(5)).detach().numpy() - expected).max() > 0.3, "the values were learned"


def value_of(config: RunConfig[Any]) -> float:
    return learned(config).online(torch.ones(1, 1)).max().item()


def test_truncation_bootstraps_and_termination_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reward 1 forever at gamma 1/2 is worth 2, truncated after two steps or not.

    If the environment terminates after two steps, half of the returns stop: V = 1 + V/4 = 4/3.
    """
    assert value_of(run_on("Truncated-v0", gamma=0.5, double=True)) == pytest.approx(2, abs=0.05)
    assert value_of(run_on("Terminated-v0", gamma=0.5, double=True)) == pytest.approx(4 / 3, abs=0.05)
    observe = dqn.Agent.observe

    def confused(self: dqn.Agent, action: Any, result: Step) -> None:
        observe(self, action, result._replace(terminated=result.ended, truncated=np.zeros_like(result.truncated)))

    monkeypatch.setattr(dqn.Agent, "observe", confused)
    assert value_of(run_on("Truncated-v0", gamma=0.5, double=True)) == pytest.approx(4 / 3, abs=0.05), (
        "truncation treated as termination gives the wrong value"
    )


# ---- overlap, divergence, bounds -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "config"),
    [(GymnasiumEngine, cartpole()), (AtariEngine, invaders(total_timesteps=300))],
    ids=["Gymnasium", "Atari"],
)
def test_a_slow_environment_changes_no_result(
    engine: Any, config: RunConfig[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = digests(config)
    recv = engine.recv

    def late(self: Any) -> Any:
        time.sleep(random.random() / 500)
        return recv(self)

    monkeypatch.setattr(engine, "recv", late)
    assert digests(config) == fast


def test_a_run_that_diverges_raises() -> None:
    with pytest.raises(Diverged, match=r"after \d+ agent steps"):
        list(run(resolve(cartpole(learning_rate=1e30))))


def test_the_command_line_names_the_last_good_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    options = {"env_id": "CartPole-v1", "total_timesteps": 400, "num_envs": 4, "learning_starts": 64, "batch_size": 8}
    more = {"learning_rate": 1e30, "checkpoint_frequency": 20, "threads": 1, "device": "cpu", "run_dir": path}
    assert cli.main(["train", "dqn", *flags(options | more)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    step = manifest.steps(RunFolder(path).checkpoints)[-1]
    assert line.startswith("q2pi: training diverged: ")
    assert f"{path}/checkpoints/{step:012d}" in line
    assert "--learning-rate" in line
    _, state, _, warnings = load_checkpoint(RunFolder(path))
    assert not warnings
    assert all(weight.isfinite().all() for weight in state["agent"]["online"].values())


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"batch_size": 64, "buffer_size": 32}, "--batch-size 64 is larger than --buffer-size 32"),
        ({"learning_starts": 400}, "--learning-starts 400 is beyond the budget"),
        (
            {"n_step": 10, "learning_starts": 32},
            "--learning-starts 32 is before the first 10-step transition of 4 environments",
        ),
        ({"hidden": ()}, "--hidden () is out of range"),
        ({"hidden": (8, 0)}, "--hidden (8, 0) is out of range"),
        ({"gamma": 1.5}, "--gamma 1.5 is out of range: it must be in [0, 1]"),
        ({"tau": -0.1}, "--tau -0.1 is out of range"),
        ({"train_frequency": 0}, "--train-frequency 0 is out of range: it must be at least 1"),
        ({"learning_rate": -1.0}, "--learning-rate -1.0 is out of range: it must be at least 0"),
    ],
)
def test_mistakes_are_one_line_with_flag_and_bound(change: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(cartpole(**change))
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize(("envs", "n_step"), [(1, 1), (4, 1), (4, 3), (8, 10), (3, 7)])
def test_the_least_learning_starts_leave_time_for_one_transition(envs: int, n_step: int) -> None:
    """If episodes never end, n rewards in a row take n steps of each environment."""
    least = max(0, (n_step - 1) * envs - 4 + 1)
    options = {"num_envs": envs, "n_step": n_step, "total_timesteps": 160, "batch_size": 1, "env_id": "Chain-v0"}
    assert list(run(resolve(cartpole(learning_starts=least, **options))))
    if least:
        with pytest.raises(UserError, match=f"it must be at least {least} "):
            resolve(cartpole(learning_starts=least - 1, **options))


def test_a_buffer_of_one_transition_is_never_empty() -> None:
    """Every third row of these episodes is a final observation, from which no transition begins."""
    config = cartpole(env_id="Truncated-v0", buffer_size=1, batch_size=1)
    rows = [event for event in run(resolve(config)) if isinstance(event, Progress)]
    assert sum(row.metrics["updates"] for row in rows) == 84


def test_spaces_it_cannot_serve_are_refused() -> None:
    with pytest.raises(UserError, match=r"--env-id Pendulum-v1.*dqn"):
        next(run(resolve(cartpole(env_id="Pendulum-v1"))))


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    digests(cartpole(), keep=(200, tmp_path))
    _, state, _, _ = checkpoint.load_newest(tmp_path)
    with pytest.raises(UserError, match="--hidden") as caught:
        next(run(resolve(cartpole(hidden=(17,))), state))
    assert "\n" not in str(caught.value)


def test_metrics_name_the_exploration_rate_of_the_step() -> None:
    """From 1 to 0 over 100 agent steps: the updates of steps 20 and 40, made at step 50, are reported with 0.5."""
    agent = filled(make_agent(start_e=1.0, end_e=0.0, exploration_fraction=1.0, train_frequency=20), 40)
    assert [row["epsilon"] for row in agent.learn(50)] == [0.5, 0.5]


def test_a_loaded_target_network_is_used_in_bf16() -> None:
    """With bf16 the target network computes with weights that were cast: loading casts anew."""
    spec = replace(make_agent().spec, precision="bf16")
    saved, loaded = (dqn.Agent(dqn.Config(hidden=(3,), buffer_size=64), spec) for _ in range(2))
    with torch.no_grad():
        saved.target.network.head.bias.fill_(5.0)
    saved.target.refresh()
    loaded.load(saved.state())
    observation = torch.zeros(1, 2)
    with spec.autocast():
        torch.testing.assert_close(loaded.target(observation), saved.target(observation))
