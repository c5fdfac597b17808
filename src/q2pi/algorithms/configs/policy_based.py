"""Options of a policy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from q2pi.algorithms.configs.base import AlgorithmConfig


@dataclass(frozen=True, kw_only=True)
class PolicyConfig(AlgorithmConfig):
    """Options of a policy."""

    normalize_observations: bool = False
    """Normalisation of observation vectors by running mean and standard deviation."""
    squash: bool = False
    """Box actions: tanh squashing into the bounds; without it actions are clipped on their way to the environment."""
    log_std: float = 0.0
    """Box actions: logarithm of the initial standard deviation."""
    hidden: tuple[int, ...] = (64, 64)
    """Units of the hidden layers for observations that are not one image; an image has the Nature torso, or below
    36 x 36 pixels that of MinAtar."""
    evaluation_deterministic: bool = True
    """Evaluation with the policy's mode; if off, actions are sampled."""

    ACTIONS: ClassVar[str] = "Discrete, MultiDiscrete, MultiBinary, Box"
    AT_LEAST: ClassVar[Mapping[str, float]] = {"hidden": 1}
    WITHIN: ClassVar[Mapping[str, tuple[float, float]]] = {"log_std": (-20, 5)}
