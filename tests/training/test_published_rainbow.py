"""Presets of Rainbow that name a published agent have its values: written by hand from the sources.

Sources, as in docs/presets.md: Hessel et al. 2018 (table 1), Dopamine 9f616b92, Dabney et al. 2018, van Hasselt et al.
2019, Clark et al. 2024, Obando-Ceron and Castro 2021. A value that is left out differs or has no option.
"""

from typing import Any

import pytest

from q2pi.envs.spec import resolve
from q2pi.networks.options import torso_of
from q2pi.training.presets import configure

EPSILON = {"start_e": 1.0, "end_e": 0.01, "exploration_steps": 250_000, "exploration_delay": 20_000}
DOPAMINE = EPSILON | {
    "gamma": 0.99,
    "buffer_size": 1_000_000,
    "batch_size": 32,
    "learning_starts": 20_000,
    "train_frequency": 4,
    "target_network_frequency": 8_000,
    "eval_epsilon": 0.001,
    "double": False,
    "dueling": False,
    "noisy": False,
    "munchausen": False,
    "spectral_norm": False,
    "network": "nature",
    "initial_weights": "variance_scaling",
}
C51 = {"distribution": "categorical", "atoms": 51, "v_min": -10.0, "v_max": 10.0}
PUBLISHED: dict[str, dict[str, Any]] = {
    "rainbow": C51
    | {
        "double": True,
        "dueling": True,
        "n_step": 3,
        "prioritized": True,
        "alpha": 0.5,
        "beta_start": 0.4,
        "beta_end": 1.0,
        "noisy": True,
        "noisy_sigma": 0.5,
        "noisy_epsilon": False,
        "learning_rate": 0.0000625,
        "adam_eps": 1.5e-4,
        "learning_starts": 80_000 // 4,
        "target_network_frequency": 32_000 // 4,
        "train_frequency": 4,
        "batch_size": 32,
        "gamma": 0.99,
        "buffer_size": 1_000_000,
        "munchausen": False,
        "spectral_norm": False,
    },
    "machado": DOPAMINE
    | C51
    | {"n_step": 3, "prioritized": True, "alpha": 0.5, "beta_start": 0.5, "beta_end": 0.5}
    | {"learning_rate": 6.25e-5, "adam_eps": 1.5e-4, "num_envs": 1, "network": "dopamine"},
    "c51": DOPAMINE | C51 | {"n_step": 1, "prioritized": False, "learning_rate": 2.5e-4, "adam_eps": 3.125e-4},
    "qrdqn": DOPAMINE
    | {"distribution": "quantile", "quantiles": 200, "kappa": 1.0, "n_step": 1, "prioritized": False}
    | {"learning_rate": 5e-5, "adam_eps": 0.01 / 32},
    "iqn": DOPAMINE
    | {"distribution": "implicit", "tau_samples": 64, "target_tau_samples": 64, "acting_taus": 32, "kappa": 1.0}
    | {"n_step": 3, "prioritized": False, "learning_rate": 5e-5, "adam_eps": 3.125e-4, "cosines": 64},
    "prioritized": {"alpha": 0.6, "beta_start": 0.4, "beta_end": 1.0, "n_step": 1, "distribution": "none"},
    "dueling": {"max_grad_norm": 10.0, "n_step": 1, "distribution": "none"},
    "data-efficient": C51
    | {
        "total_timesteps": 100_000,
        "num_envs": 1,
        "n_step": 20,
        "learning_starts": 1_600,
        "train_frequency": 1,
        "target_network_frequency": 2_000,
        "noisy_sigma": 0.1,
        "learning_rate": 1e-4,
        "adam_eps": 1.5e-4,
        "batch_size": 32,
        "network": "data_efficient",
        **dict.fromkeys(("double", "dueling", "prioritized", "noisy"), True),
    },
    "beyond": {
        "num_envs": 64,
        "batch_size": 256,
        "train_frequency": 64,
        "target_network_frequency": 500 * 64,
        "learning_rate": 1e-4,
        "adam_eps": 0.005 / 256,
        "max_grad_norm": 10.0,
        "gamma": 0.997,
        "n_step": 3,
        "buffer_size": 2**20,
        "learning_starts": 200_000,
        "alpha": 0.2,
        "beta_start": 0.45,
        "beta_end": 1.0,
        "noisy_sigma": 0.5,
        "noisy_epsilon": True,
        "exploration_steps": 2_000_000,
        "distribution": "implicit",
        **dict.fromkeys(("tau_samples", "target_tau_samples", "acting_taus"), 8),
        "cosines": 64,
        "munchausen_alpha": 0.9,
        "munchausen_temperature": 0.03,
        "munchausen_floor": -1.0,
        "network": "impala",
        "width": 2,
        "pool": 6,
        "double": False,
        **dict.fromkeys(("dueling", "prioritized", "noisy", "munchausen", "spectral_norm"), True),
    },
}
REVISITING = {
    "learning_rate": 1e-4,
    "adam_eps": 3.125e-4,
    "buffer_size": 100_000,
    "learning_starts": 1_000,
    "train_frequency": 4,
    "batch_size": 32,
    "target_network_frequency": 1_000,
    "n_step": 3,
    "gamma": 0.99,
    "atoms": 51,
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_values_are_those_of_the_source(preset: str) -> None:
    config, _ = configure("rainbow", "Breakout", preset)
    found = {name: getattr(config if hasattr(config, name) else config.hyper, name) for name in PUBLISHED[preset]}
    if "network" in found:
        found["network"] = torso_of(found["network"], 84, 84)
    assert found == PUBLISHED[preset]


def test_values_for_minatar_are_those_of_the_source() -> None:
    config, _ = configure("rainbow", "MinAtar/Breakout-v1")
    assert {name: getattr(config.hyper, name) for name in REVISITING} == REVISITING


@pytest.mark.parametrize(
    ("preset", "protocol"),
    [
        *((name, "nature") for name in ("rainbow", "data-efficient")),
        *(
            (name, "machado")
            for name in ("machado", "double", "dueling", "prioritized", "c51", "qrdqn", "iqn", "beyond")
        ),
    ],
)
def test_the_protocol_is_the_sources(preset: str, protocol: str) -> None:
    assert resolve(configure("rainbow", "Breakout", preset)[0].env).protocol == protocol
