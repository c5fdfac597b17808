"""A claim: one sentence, the rules that would refute it, an experiment, a figure, and the verdict that data give.

    experiment(seed, settings) -> data     one JSON-able dict per seed
    Rule.measure(data) -> number           the effect in one seed
    verdict(claim, data of all seeds)      intervals of the effects over seeds, then holds, fails or undecided

Rules are written before the data: a rule names an effect and the bound that separates a claim that holds from a claim
that fails. The interval of the mean effect over seeds is that of the sign-flip test (`statistics.pairs`), which needs
no distribution; with fewer than 6 seeds it is infinite, so a verdict over few seeds is `undecided`.

Several rules of one claim share the error: with k rules each interval has confidence 1 - 0.05 / k, so at most 5 % of
claims whose effects equal the bounds get `holds` or `fails` (Bonferroni).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from q2pi.statistics.pairs import sign_flip_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Data = dict[str, Any]
"""JSON-able result of one seed."""
Settings = Mapping[str, Any]
"""Sizes of an experiment, such as the number of steps."""
Budget = Literal["quick", "full"]
Outcome = Literal["holds", "fails", "undecided"]
LEVEL = 0.05
"""Probability of a wrong `holds` or `fails` of a claim whose effects equal the bounds of its rules."""


@dataclass(frozen=True)
class Rule:
    """An effect and the bound that decides: the claim needs the mean effect on one side of it."""

    effect: str
    """What the number is, in words."""
    unit: str
    """Unit of the number; "" for a pure number."""
    measure: Callable[[Data], float]
    """The effect in the data of one seed."""
    bound: float
    side: Literal["above", "below"] = "above"
    """Side of the bound on which the claim holds."""
    is_exact: bool = False
    """Whether the effect is computed without sampling: its interval is then the range over seeds."""

    @property
    def refutation(self) -> str:
        """What would refute the claim, in words."""
        side = "below" if self.side == "above" else "above"
        return f"the interval of {self.effect} is {side} {self.bound:g}{' ' if self.unit else ''}{self.unit}"


@dataclass(frozen=True)
class Effect:
    """A rule applied to the data of all seeds."""

    rule: Rule
    by_seed: list[float]
    low: float
    high: float
    confidence: float

    @property
    def mean(self) -> float:
        return float(np.mean(self.by_seed))

    @property
    def outcome(self) -> Outcome:
        """`holds` if the interval is on the rule's side of the bound, `fails` if it is on the other side."""
        low, high, bound = self.low, self.high, self.rule.bound
        if np.isnan(low) or np.isnan(high):
            return "undecided"
        if self.rule.side == "below":
            low, high, bound = -high, -low, -bound
        if low > bound:
            return "holds"
        return "fails" if high < bound else "undecided"


@dataclass(frozen=True)
class Claim:
    """A claim and the experiment that decides it."""

    name: str
    """Name on the command line; also the name of the file."""
    sentence: str
    """The claim in one sentence."""
    rules: Sequence[Rule]
    """The claim holds if all rules do, and fails if one of them does."""
    experiment: Callable[[int, Settings], Data]
    """(seed, settings) -> data of the seed."""
    figure: Callable[[Sequence[Data]], "Figure"]
    """Data of all seeds -> figure."""
    quick: Settings
    """Sizes for a test that the experiment runs."""
    full: Settings
    """Sizes for a result."""
    package: str = ""
    """Package that the experiment needs beside q2pi's own, also the name of the extra."""

    @property
    def is_runnable(self) -> bool:
        """Whether the package is installed."""
        return not self.package or find_spec(self.package) is not None

    def settings(self, budget: Budget) -> Settings:
        return self.quick if budget == "quick" else self.full

    def effects(self, data: Sequence[Data]) -> list[Effect]:
        """Return the effect of each rule over the data of all seeds."""
        confidence = 1 - LEVEL / len(self.rules)
        effects = []
        for rule in self.rules:
            by_seed = [float(rule.measure(one)) for one in data]
            low, high = (np.min(by_seed), np.max(by_seed)) if rule.is_exact else sign_flip_interval(by_seed, confidence)
            effects.append(Effect(rule, by_seed, float(low), float(high), confidence))
        return effects


def outcome(effects: Sequence[Effect]) -> Outcome:
    """Return `fails` if one effect refutes the claim, `holds` if all effects support it, else `undecided`."""
    outcomes = {effect.outcome for effect in effects}
    if "fails" in outcomes:
        return "fails"
    return "holds" if outcomes == {"holds"} else "undecided"


def verdict(claim: Claim, data: Sequence[Data]) -> dict[str, Any]:
    """Return the verdict on a claim as a JSON-able dict.

    Keys: claim, sentence, verdict, and effects: one dict per rule with effect, unit, refutation, side, bound, mean,
    low and high (null if infinite), confidence, is_exact, outcome, by_seed.

    Args:
        claim: the claim.
        data: of each seed, at least one.
    """
    effects = claim.effects(data)
    return {
        "claim": claim.name,
        "sentence": claim.sentence,
        "verdict": outcome(effects),
        "effects": [
            {
                "effect": effect.rule.effect,
                "unit": effect.rule.unit,
                "refuted_if": effect.rule.refutation,
                "side": effect.rule.side,
                "bound": effect.rule.bound,
                "mean": _finite(effect.mean),
                "low": _finite(effect.low),
                "high": _finite(effect.high),
                "confidence": effect.confidence,
                "is_exact": effect.rule.is_exact,
                "outcome": effect.outcome,
                "by_seed": [_finite(value) for value in effect.by_seed],
            }
            for effect in effects
        ],
    }


def _finite(value: float) -> float | None:
    """Return a number, or None if JSON cannot hold it."""
    return float(value) if np.isfinite(value) else None
