"""Synthetic data in which each claim is true, and in which it is false: one seed's data from a random effect."""

from collections.abc import Callable
from typing import Any

import numpy as np

from q2pi.lab.claim import Data
from q2pi.lab.claims.deadly_triad import COMBINATIONS, TRIAD, name_of

SEEDS = 10
Make = Callable[[np.random.Generator, bool], Data]
"""(noise, whether the claim is true) -> data of one seed."""


def _deadly_triad(noise: np.random.Generator, true: bool) -> Data:
    ends = {name_of(one): -1 + 0.1 * noise.normal() for one in COMBINATIONS}
    ends[TRIAD] = (5.0 if true else -0.5) + 0.1 * noise.normal()
    return {"updates": [0, 1], "growth": {name: [0.0, end] for name, end in ends.items()}}


def _concave_objective(noise: np.random.Generator, true: bool) -> Data:
    height = 0.0 if true else -0.1 * noise.random() - 0.01
    part = {"height": height, "ends": [[0, 0], [1, 1]], "along": [0.0, height, 0.0]}
    return {"logits": part, "probabilities": part, "surface": [[0.0, 0.5], [0.5, 1.0]]}


def _policy_gradient_theorem(noise: np.random.Generator, true: bool) -> Data:
    slope = (-0.5 if true else -0.1) + 0.005 * noise.normal()
    return {
        "episodes": [1, 4, 16],
        "error": [4.0, 2.0, 1.0],
        "slope": slope,
        "error_of_all": (0.01 if true else 0.5) * (1 + 0.1 * noise.random()),
    }


def _bias_and_variance(noise: np.random.Generator, true: bool) -> Data:
    monte_carlo = 0.005 * noise.normal() if true else 0.3 + 0.01 * noise.normal()
    bias = [0.2 + 0.01 * noise.normal()] * 6 + [monte_carlo]
    return {"bias": bias, "variance": [0.2] * 6 + [1.0 if true else 0.2 + 0.01 * noise.normal()]}


def _aliased_states(noise: np.random.Generator, true: bool) -> Data:
    reinforce = (0.9 if true else 0.1) + 0.01 * noise.normal()
    optima = [[1.0, 0.9, 0.5, 0.4]] * 2
    return {"lengths": [5, 7], "optima": optima, "learned": [[reinforce, 0.45, 0.4 + 0.01 * noise.normal()]] * 2}


def _q_table(noise: np.random.Generator, true: bool) -> Data:
    shares = {"Taxi-v3": 0.98, "raw": 0.01, "gray": 0.01, "84x84": 0.01, "84x84, stack 4": 0.02 if true else 0.9}
    met = {
        name: {"known": [share + 0.005 * noise.random()] * 20, "distinct": 500, "bytes": 4e8 if true else 4e4}
        for name, share in shares.items()
    }
    return {"agent_steps": 100, "met": met, "network_bytes": 6_800_000}


def _preprocessing(noise: np.random.Generator, true: bool) -> Data:
    cost = {"raw": 10.0, "gray": 4.0, "cropped": 3.0, "84x84": 1.0 if true else 9.5, "42x42": 0.3}
    lost = dict.fromkeys(cost, 0.95) | {"84x84": (0.94 if true else 0.3) + 0.005 * noise.normal()}
    timed = {name: value * (1 + 0.01 * noise.random()) for name, value in cost.items()}
    return {"bytes": cost, "multiply_adds": cost, "milliseconds": timed, "probe": lost}


def _motion(noise: np.random.Generator, true: bool) -> Data:
    probe = {"1": 0.1 + 0.01 * noise.normal(), "2": 0.7, "4": (0.9 if true else 0.1) + 0.01 * noise.normal()}
    curves = {"1": [40 + noise.normal()] * 15, "4": [(200 if true else 40) + noise.normal()] * 15}
    return {"agent_steps": 150, "probe": probe, "curves": curves}


def _replay(noise: np.random.Generator, true: bool) -> Data:
    best = 150 if true else 20
    curves = {name: [25 + noise.normal()] * 15 for name in ("reuse 1", "reuse 4")}
    curves |= {"reuse 8": [best + noise.normal()] * 15, "newest, reuse 8": [40 + noise.normal()] * 15}
    error = {"reuse 1": 1.0, "reuse 4": 1.0, "reuse 8": 0.5, "newest, reuse 8": 5.0 + 0.1 * noise.normal()}
    correlation = {"uniform": 0.01 * noise.normal(), "newest": 0.8}
    return {"agent_steps": 150, "curves": curves, "td_error_on_oldest": error, "correlation": correlation}


def _fixed_targets(noise: np.random.Generator, true: bool) -> Data:
    def part(oscillation: float) -> dict[str, Any]:
        scale = oscillation * (1 + 0.05 * noise.random())
        return {"error": [scale] * 40, "oscillation": scale, "value": [1.0] * 40, "return": [100.0] * 10}

    both = {"period 1": part(1.0), "period 200": part(0.3 if true else 2.0)}
    return {"settings": {"known_steps": 400, "game_steps": 400}, "known": both, "game": both}


def _double_q(noise: np.random.Generator, true: bool) -> Data:
    double = (0.1 if true else 0.9) + 0.01 * noise.normal()
    return {
        "table_steps": 100,
        "game_steps": 100,
        "table": {"q_learning": [0.5] * 10, "double_q": [double] * 10},
        "game": {"DQN": [0.5] * 10, "Double DQN": [double] * 10},
        "return": {"DQN": 100.0, "Double DQN": 100.0},
    }


def _exploration(noise: np.random.Generator, true: bool) -> Data:
    names = ("0", "0.1", "1", "1 to 0.05")
    data: Data = {"steps": [10, 20], "coverage": {}, "training_return": {}, "greedy_return": {}}
    for name in names:
        high = (name == "1 to 0.05") == true
        data["coverage"][name] = [0.2, (0.9 if high else 0.4) + 0.01 * noise.normal()]
        data["training_return"][name] = [0.2, (0.8 if high else 0.2) + 0.01 * noise.normal()]
        data["greedy_return"][name] = (0.7 if high else 0.2) + 0.01 * noise.normal()
    return data


def _large_actions(noise: np.random.Generator, true: bool) -> Data:
    names = ("DQN, 3 bins", "DQN, 11 bins", "DQN, 51 bins", "DQN, 501 bins", "PPO, Gaussian")
    curves = {name: [-1000.0 + noise.normal()] * 12 for name in names}
    curves["DQN, 11 bins"] = [(-200.0 if true else -1500.0) + noise.normal()] * 12
    sizes = [
        {
            "bins parameters": 1e3 * (11.0**d if true else 1),
            "bins microseconds": 50 * (2.0**d if true else 1) + noise.random(),
            "gaussian parameters": 5e3,
            "gaussian microseconds": 60 + noise.random(),
        }
        for d in (1, 2, 3, 4)
    ]
    cheetah = {"steps": list(range(10, 130, 10)), "DQN, 729 actions": [0.0 + noise.normal()] * 12}
    cheetah["PPO, Gaussian"] = [(50.0 if true else -50.0) + noise.normal()] * 12
    return {"agent_steps": 120, "curves": curves, "cheetah": cheetah, "dimensions": [1, 2, 3, 4], "sizes": sizes}


def _policy_change(noise: np.random.Generator, true: bool) -> Data:
    largest = {"DQN": 0.8 if true else 0.02, "REINFORCE": 0.03, "PPO": 0.05}
    return {
        name: {
            "updates": 10,
            "flips": 0.02,
            "largest": value + 0.005 * noise.random(),
            "mean": 0.01,
            "histogram": [1 / 17] * 17,
            "return": 100.0,
        }
        for name, value in largest.items()
    }


def _gradient_variance(noise: np.random.Generator, true: bool) -> Data:
    levels = {"whole return": 8.0, "reward-to-go": 4.0, "batch mean": 3.0, "exact value": 2.0, "GAE 0.9": 1.0}
    if not true:
        levels = dict(zip(levels, reversed(levels.values()), strict=True))
    return {
        "sizes": [2, 8],
        "variance": {name: [level * (1 + 0.05 * noise.random())] * 2 for name, level in levels.items()},
        "curves": {name: [0.0, 1 / level + 0.001 * noise.random()] for name, level in levels.items()},
    }


def _local_optima(noise: np.random.Generator, true: bool) -> Data:
    share = (0.8 if true else 0.05) + 0.02 * noise.random()
    bonus = [0.1 + 0.02 * noise.random()] * 3
    return {"reinforce": [[share] * 3, [share] * 3, bonus], "q_learning": 0.02 * noise.random()}


def _sample_reuse(noise: np.random.Generator, true: bool) -> Data:
    def curves(*finals: float) -> list[list[float]]:
        return [[0.0, final + 0.01 * noise.normal()] for final in finals]

    plain = (0.5, 0.5, 0.3, -0.8) if true else (0.5, 0.6, 0.9, 0.9)
    clipped = (0.5, 0.7, 0.9, 0.9) if true else (0.5, 0.4, 0.3, 0.2)
    return {
        "episodes": 8,
        "curves": {"plain": curves(*plain), "importance-weighted": curves(*plain), "clipped": curves(*clipped)},
    }


def _hyperparameters(noise: np.random.Generator, true: bool) -> Data:
    tuned = 450 if true else 110
    last = {
        f"{algorithm} {name}": value + 5 * noise.normal()
        for algorithm in ("reinforce", "dqn")
        for name, value in (("defaults", 100), ("tuned", tuned))
    }
    curves = {name: [value] * 10 for name, value in last.items()}
    return {"settings": {"reinforce": 100, "dqn": 100}, "last": last, "curves": curves}


MAKE: dict[str, Make] = {
    "q_table": _q_table,
    "preprocessing": _preprocessing,
    "motion": _motion,
    "replay": _replay,
    "fixed_targets": _fixed_targets,
    "double_q": _double_q,
    "deadly_triad": _deadly_triad,
    "exploration": _exploration,
    "aliased_states": _aliased_states,
    "large_actions": _large_actions,
    "policy_change": _policy_change,
    "policy_gradient_theorem": _policy_gradient_theorem,
    "gradient_variance": _gradient_variance,
    "local_optima": _local_optima,
    "sample_reuse": _sample_reuse,
    "hyperparameters": _hyperparameters,
    "concave_objective": _concave_objective,
    "bias_and_variance": _bias_and_variance,
}


def synthetic(name: str, true: bool, seeds: int = SEEDS) -> list[Any]:
    """Return the data of each seed."""
    noise = np.random.default_rng(0)
    return [MAKE[name](noise, true) for _ in range(seeds)]
