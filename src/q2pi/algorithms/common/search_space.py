"""Ranges of hyperparameters for tuning: the entries of an algorithm's `SPACE`, in the options' own units.

    SPACE = {"learning_rate": Float(1e-4, 1e-2, log=True), "loss": Choice("mse", "huber")}

Ranges include both ends. `q2pi.tuning.space` translates them for the sampler.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Float:
    """A real number, sampled uniformly or, with `log`, log-uniformly."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Int:
    """An integer, sampled uniformly or, with `log`, log-uniformly."""

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class PowerOfTwo:
    """A power of two; all have the same probability."""

    low: int
    high: int

    def __post_init__(self) -> None:
        for end in (self.low, self.high):
            if not isinstance(end, int) or end < 1 or end & (end - 1):
                raise ValueError(f"{end} is not a power of two")


@dataclass(frozen=True)
class OneMinus:
    """A number below 1 whose distance to 1 is sampled log-uniformly, for discount factors."""

    low: float
    high: float


@dataclass(frozen=True, init=False)
class Choice:
    """One of several values: numbers, strings, booleans or tuples."""

    options: tuple[Any, ...]

    def __init__(self, *options: Any) -> None:
        object.__setattr__(self, "options", options)


Range = Float | Int | PowerOfTwo | OneMinus | Choice
Space = dict[str, Range]
"""Name of an option -> its range."""


def ends(values: Range) -> tuple[Any, ...]:
    """Return both ends of a range, or all values of a choice."""
    return values.options if isinstance(values, Choice) else (values.low, values.high)
