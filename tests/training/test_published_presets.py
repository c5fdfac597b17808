"""Presets that name a published agent have its values: written by hand from the sources, never from the TOML.

Sources, as in docs/presets.md: CleanRL fe8d8a03, Dopamine 5873f549, purejaxql 47af6d7b (the code of PQN's authors), RL
Zoo 22e3ff24, Stable-Baselines3 e05d2dbe. A value that is left out here differs or has no option: see docs/presets.md.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from q2pi.algorithms import a2c, dqn, ppo, pqn
from q2pi.algorithms.base import AgentSpec
from q2pi.config import RunConfig
from q2pi.envs.spec import resolve
from q2pi.networks.options import torso_of
from q2pi.training.presets import configure

CLEANRL_DQN_ATARI = {
    "total_timesteps": 10_000_000,
    "learning_rate": 1e-4,
    "anneal_learning_rate": False,
    "adam_eps": 1e-8,
    "buffer_size": 1_000_000,
    "gamma": 0.99,
    "n_step": 1,
    "tau": 1.0,
    "target_network_frequency": 1_000,
    "batch_size": 32,
    "start_e": 1.0,
    "end_e": 0.01,
    "eval_epsilon": 0.01,
    "exploration_fraction": 0.10,
    "exploration_steps": 0,
    "exploration_delay": 0,
    "learning_starts": 80_000,
    "train_frequency": 4,
    "double": False,
    "loss": "mse",
    "max_grad_norm": 0.0,
    "layer_norm": False,
    "network": "nature",
    "initial_weights": "torch",
}
DOPAMINE_DQN = {
    "learning_rate": 6.25e-5,
    "anneal_learning_rate": False,
    "adam_eps": 1.5e-4,
    "buffer_size": 1_000_000,
    "gamma": 0.99,
    "n_step": 1,
    "tau": 1.0,
    "target_network_frequency": 8_000,
    "batch_size": 32,
    "start_e": 1.0,
    "end_e": 0.01,
    "eval_epsilon": 0.001,
    "exploration_steps": 250_000,
    "exploration_delay": 20_000,
    "learning_starts": 20_000,
    "train_frequency": 4,
    "double": False,
    "loss": "mse",
    "max_grad_norm": 0.0,
    "layer_norm": False,
    "network": "nature",
    "initial_weights": "xavier_uniform",
}
CLEANRL_DQN = {
    "learning_rate": 2.5e-4,
    "adam_eps": 1e-8,
    "buffer_size": 10_000,
    "gamma": 0.99,
    "tau": 1.0,
    "target_network_frequency": 500,
    "batch_size": 128,
    "start_e": 1.0,
    "end_e": 0.05,
    "loss": "mse",
    "max_grad_norm": 0.0,
    "hidden": (120, 84),
    "initial_weights": "torch",
}
PQN_ATARI = {
    "num_envs": 128,
    "num_steps": 32,
    "num_minibatches": 32,
    "update_epochs": 2,
    "start_e": 1.0,
    "end_e": 0.001,
    "exploration_fraction": 0.1,
    "exploration_steps": 0,
    "exploration_delay": 0,
    "learning_rate": 2.5e-4,
    "anneal_learning_rate": False,
    "max_grad_norm": 10.0,
    "gamma": 0.99,
    "q_lambda": 0.65,
    "network": "nature",
}
CLEANRL_PPO_ATARI = {
    "num_envs": 8,
    "optimizer": "adam",
    "optimizer_eps": 1e-5,
    "learning_rate": 2.5e-4,
    "anneal_learning_rate": True,
    "num_steps": 128,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "num_minibatches": 4,
    "update_epochs": 4,
    "normalize_advantages": True,
    "clip_coefficient": 0.1,
    "anneal_clip_coefficient": False,
    "clip_value_loss": True,
    "entropy_coefficient": 0.01,
    "value_coefficient": 0.5 * 0.5,  # its loss has a factor of one half
    "max_grad_norm": 0.5,
    "target_kl": 0.0,
}
SCHULMAN_2017_CONTROL = {
    "rollout": 2_048,
    "minibatch": 64,
    "learning_rate": 3e-4,
    "update_epochs": 10,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_coefficient": 0.2,
    "entropy_coefficient": 0.0,
    "hidden": (64, 64),
}
SB3_PPO = {
    "optimizer": "adam",
    "optimizer_eps": 1e-5,
    "learning_rate": 3e-4,
    "anneal_learning_rate": False,
    "minibatch": 64,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_coefficient": 0.2,
    "anneal_clip_coefficient": False,
    "clip_value_loss": False,
    "normalize_advantages": True,
    "entropy_coefficient": 0.0,
    "value_coefficient": 0.5,  # its loss is the plain mean of squares
    "max_grad_norm": 0.5,
    "target_kl": 0.0,
    "hidden": (64, 64),
    "squash": False,
    "log_std": 0.0,
    "normalize_observations": False,
    "normalize_rewards": False,
    "evaluation_deterministic": True,
}
NORMALIZED = {"normalize_observations": True, "normalize_rewards": True}
ZOO_CARTPOLE = {
    "total_timesteps": 100_000,
    "num_envs": 8,
    "num_steps": 32,
    "minibatch": 256,
    "gae_lambda": 0.8,
    "gamma": 0.98,
    "update_epochs": 20,
    "learning_rate": 1e-3,
    "anneal_learning_rate": True,
    "anneal_clip_coefficient": True,
}
ZOO_ACROBOT = {"num_envs": 16, "num_steps": 256, "gae_lambda": 0.94, "update_epochs": 4} | NORMALIZED
ZOO_LUNAR_LANDER = {
    "total_timesteps": 1_000_000,
    "num_envs": 16,
    "num_steps": 1_024,
    "gae_lambda": 0.98,
    "gamma": 0.999,
    "update_epochs": 4,
    "entropy_coefficient": 0.01,
}
ZOO_PENDULUM = {
    "total_timesteps": 100_000,
    "num_envs": 4,
    "num_steps": 1_024,
    "gamma": 0.9,
    "update_epochs": 10,
    "learning_rate": 1e-3,
}
ZOO_MOUNTAIN_CAR = {
    "anneal_learning_rate": False,
    "gamma": 0.9999,
    "entropy_coefficient": 0.00429,
    "clip_coefficient": 0.1,
    "clip_value_loss": False,
    "update_epochs": 10,
    "gae_lambda": 0.9,
    "max_grad_norm": 5.0,
    "value_coefficient": 0.19,
} | NORMALIZED
SB3_A2C = {
    "num_envs": 8,  # the RL Zoo's for CartPole
    "optimizer": "rmsprop",
    "optimizer_eps": 1e-5,
    "learning_rate": 7e-4,
    "anneal_learning_rate": False,
    "num_steps": 5,
    "gamma": 0.99,
    "gae_lambda": 1.0,
    "entropy_coefficient": 0.0,
    "value_coefficient": 0.5,
    "max_grad_norm": 0.5,
    "normalize_advantages": False,
    "hidden": (64, 64),
}
ZOO_A2C_ATARI = {
    "optimizer": "rmsprop",
    "optimizer_eps": 1e-5,
    "learning_rate": 7e-4,
    "num_steps": 5,
    "value_coefficient": 0.25,
    "entropy_coefficient": 0.01,
    "evaluation_deterministic": False,
}
PUBLISHED: dict[tuple[str, str, str], dict[str, Any]] = {
    ("dqn", "nature", "Breakout"): CLEANRL_DQN_ATARI,
    ("dqn", "machado", "Breakout"): DOPAMINE_DQN,
    ("dqn", "CartPole-v1", "CartPole-v1"): CLEANRL_DQN,
    ("pqn", "nature", "Breakout"): PQN_ATARI,
    ("pqn", "machado", "Breakout"): PQN_ATARI,
    ("ppo", "quick", "Breakout"): CLEANRL_PPO_ATARI | {"evaluation_deterministic": False},
    ("ppo", "classic", "CartPole-v1"): SCHULMAN_2017_CONTROL,
    ("ppo", "CartPole-v1", "CartPole-v1"): SB3_PPO | ZOO_CARTPOLE,
    ("ppo", "Acrobot-v1", "Acrobot-v1"): SB3_PPO | ZOO_ACROBOT,
    ("ppo", "LunarLander-v3", "LunarLander-v3"): SB3_PPO | ZOO_LUNAR_LANDER,
    ("ppo", "Pendulum-v1", "Pendulum-v1"): SB3_PPO | ZOO_PENDULUM,
    ("ppo", "MountainCarContinuous-v0", "MountainCarContinuous-v0"): ZOO_MOUNTAIN_CAR,
    ("a2c", "classic", "CartPole-v1"): SB3_A2C | {"total_timesteps": 500_000},
    ("a2c", "quick", "Breakout"): ZOO_A2C_ATARI,
}
"""(algorithm, preset, environment) -> option or quantity -> the source's value."""

WRAPPERS = {
    "clip_rewards": True,
    "grayscale": True,
    "crop": None,
    "resize": (84, 84),
    "frame_skip": 4,
    "max_pool": True,
    "stack": 4,
    "max_frames_per_episode": 108_000,
    "full_action_space": False,
}
NATURE = {"repeat_action_probability": 0.0, "noop_max": 30, "fire_on_reset": True, "life_loss_discount": True}
MACHADO = {"repeat_action_probability": 0.25, "noop_max": 0, "fire_on_reset": False, "life_loss_discount": False}


def value(config: RunConfig[Any], name: str) -> Any:
    """Return an option, or the steps of a rollout or of a minibatch."""
    rollout = config.num_envs * getattr(config.hyper, "num_steps", 0)
    if name == "rollout":
        return rollout
    if name == "minibatch":
        return rollout / config.hyper.num_minibatches
    if name == "network":
        return torso_of(config.hyper.network, 84, 84)
    return getattr(config if hasattr(config, name) else config.hyper, name)


def build(algorithm: Any, preset: str, env_id: str, budget: int = 0, **hyper: Any) -> Any:
    """Return the agent of a preset, for images with six actions if `env_id` is an Atari game, else for CartPole."""
    config = configure(algorithm.__name__.rpartition(".")[2], env_id, preset)[0]
    image = env_id == "Breakout"
    spec = AgentSpec(
        env=resolve(config.env),
        num_envs=config.num_envs,
        frame_space=spaces.Box(0, 255, (1, 84, 84), np.uint8) if image else spaces.Box(-9, 9, (4,), np.float32),
        stack=4 if image else 1,
        action_space=spaces.Discrete(6 if image else 2),
        total_timesteps=budget or config.total_timesteps,
        seed=1,
        device=torch.device("cpu"),
        precision="fp32",
    )
    return algorithm.Agent(replace(config.hyper, **hyper), spec)


@pytest.mark.parametrize("key", PUBLISHED, ids="-".join)
def test_values_are_those_of_the_source(key: tuple[str, str, str]) -> None:
    algorithm, preset, env_id = key
    config, used = configure(algorithm, env_id, preset)
    assert used == preset
    assert {name: value(config, name) for name in PUBLISHED[key]} == PUBLISHED[key]


@pytest.mark.parametrize("algorithm", ["dqn", "pqn"])
@pytest.mark.parametrize(("preset", "rules"), [("nature", NATURE), ("machado", MACHADO)])
def test_the_protocols_of_atari(algorithm: str, preset: str, rules: dict[str, Any]) -> None:
    env = resolve(configure(algorithm, "Breakout", preset)[0].env)
    expected = WRAPPERS | rules
    assert {name: getattr(env, name) for name in expected} == expected


def test_defaults_name_their_sources() -> None:
    """The defaults of the algorithms: CleanRL's DQN and PPO for Atari, the authors' PQN, and A2C's two sources."""
    two_sources = SB3_A2C | {"anneal_learning_rate": True, "entropy_coefficient": 0.01}
    pqn_defaults = {name: PQN_ATARI[name] for name in PQN_ATARI if name not in ("num_envs", "num_minibatches")}
    for algorithm, source in (
        (dqn, CLEANRL_DQN_ATARI),
        (ppo, CLEANRL_PPO_ATARI),
        (pqn, pqn_defaults),
        (a2c, two_sources),
    ):
        options = {name: found for name, found in source.items() if hasattr(algorithm.Config, name)}
        options |= {"network": "auto"} if "network" in options else {}  # nature for Atari's 84 x 84
        assert len(options) > 10
        assert {name: getattr(algorithm.Config(), name) for name in options} == options


@pytest.mark.parametrize("budget", [300_000, 10_000_000])
def test_epsilon_of_dopamine_does_not_depend_on_the_budget(budget: int) -> None:
    """1 for the first 20,000 agent steps, then a line to 0.01 over 250,000."""
    agent = build(dqn, "machado", "Breakout", budget, buffer_size=64)
    epsilons = [agent.epsilon(step) for step in (0, 20_000, 145_000, 270_000, 299_999)]
    assert epsilons == pytest.approx([1.0, 1.0, 0.505, 0.01, 0.01])


@pytest.mark.parametrize("budget", [1_000_000, 10_000_000])
def test_epsilon_of_cleanrl_falls_over_a_tenth_of_the_budget(budget: int) -> None:
    agent = build(dqn, "nature", "Breakout", budget, buffer_size=64)
    epsilons = [agent.epsilon(budget * percent // 100) for percent in (0, 5, 10, 100)]
    assert epsilons == pytest.approx([1.0, 0.505, 0.01, 0.01])


def test_first_update_and_target_updates_of_the_source() -> None:
    """CleanRL updates after each fourth step beyond 80,000, Dopamine beyond 20,000 stored transitions."""
    for preset, start in (("nature", 80_000), ("machado", 20_000)):
        hyper = configure("dqn", "Breakout", preset)[0].hyper
        assert [hyper.updates_due(start + steps) for steps in (0, 3, 4, 8, 8_000)] == [0, 0, 1, 2, 2_000]


@pytest.mark.parametrize(("preset", "zero_biases"), [("nature", False), ("machado", True)])
def test_initial_weights_of_dqn(preset: str, zero_biases: bool) -> None:
    """torch's defaults: uniform within 1 / sqrt(fan_in); Xavier: within sqrt(6 / (fan_in + fan_out))."""
    network = build(dqn, preset, "Breakout", buffer_size=64).online
    fans = {(32, 4, 8, 8): (256, 2048), (64, 32, 4, 4): (512, 1024), (64, 64, 3, 3): (576, 576)}
    fans |= {(512, 3136): (3136, 512), (6, 512): (512, 6)}
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert [tuple(layer.weight.shape) for layer in layers] == list(fans)
    for layer, (fan_in, fan_out) in zip(layers, fans.values(), strict=True):
        bound = (6 / (fan_in + fan_out)) ** 0.5 if zero_biases else fan_in**-0.5
        assert 0.98 * bound < layer.weight.abs().max().item() <= bound
        assert (layer.bias == 0).all().item() is zero_biases


def test_schedules_of_the_zoo_for_cartpole() -> None:
    """`lin_` falls to 0 over the budget: half of the budget, half of the learning rate and of the clip range."""
    agent = build(ppo, "CartPole-v1", "CartPole-v1")
    rates, clips = [], []
    for step in (0, 50_000, 75_000):
        agent.set_learning_rate(step)
        rates.append(agent.optimizer.param_groups[0]["lr"])
        clips.append(agent.clip_coefficient(step))
    assert rates == pytest.approx([1e-3, 5e-4, 2.5e-4])
    assert clips == pytest.approx([0.2, 0.1, 0.05])


def test_optimizers() -> None:
    """Adam's betas and epsilons, and RMSProp's decay."""
    for agent, eps in (
        (build(dqn, "nature", "Breakout", buffer_size=64), 1e-8),
        (build(dqn, "machado", "Breakout", buffer_size=64), 1.5e-4),
        (build(ppo, "CartPole-v1", "CartPole-v1"), 1e-5),
        (build(pqn, "CartPole-v1", "CartPole-v1"), 1e-8),
    ):
        group = agent.optimizer.param_groups[0]
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), eps, 0)
    group = build(a2c, "classic", "CartPole-v1").optimizer.param_groups[0]
    assert (group["alpha"], group["eps"], group["momentum"], group["centered"]) == (0.99, 1e-5, 0, False)
