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


MAKE: dict[str, Make] = {
    "deadly_triad": _deadly_triad,
    "concave_objective": _concave_objective,
    "policy_gradient_theorem": _policy_gradient_theorem,
    "bias_and_variance": _bias_and_variance,
    "aliased_states": _aliased_states,
}


def synthetic(name: str, true: bool, seeds: int = SEEDS) -> list[Any]:
    """Return the data of each seed."""
    noise = np.random.default_rng(0)
    return [MAKE[name](noise, true) for _ in range(seeds)]
