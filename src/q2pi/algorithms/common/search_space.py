"""Ranges to search hyperparameters in: what an algorithm's `SPACE` is made of, in the options' own units.

    SPACE = {"learning_rate": Float(1e-4, 1e-2, log=True), "loss": Choice("mse", "huber")}

Both ends of a range belong to it. Nothing here draws; `q2pi.tuning.space` turns ranges into what its
engine draws from.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Float:
    """A real number, drawn uniformly or, with `log`, so that each decade is as likely as the next."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Int:
    """A whole number, drawn uniformly or on a logarithmic scale."""

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class PowerOfTwo:
    """A power of two, each as likely as the next."""

    low: int
    high: int

    def __post_init__(self) -> None:
        for end in (self.low, self.high):
            if not isinstance(end, int) or end < 1 or end & (end - 1):
                raise ValueError(f"{end} is not a power of two")


@dataclass(frozen=True)
class OneMinus:
    """A number below 1 whose distance to 1 is drawn on a logarithmic scale, as discount factors ask for."""

    low: float
    high: float


@dataclass(frozen=True, init=False)
class Choice:
    """One of several values: numbers, words, switches or tuples."""

    options: tuple[Any, ...]

    def __init__(self, *options: Any) -> None:
        object.__setattr__(self, "options", options)


Range = Float | Int | PowerOfTwo | OneMinus | Choice
Space = dict[str, Range]
"""Name of an option -> its range."""


def ends(values: Range) -> tuple[Any, ...]:
    """Return the extreme values of a range; all values of a choice."""
    return values.options if isinstance(values, Choice) else (values.low, values.high)
