"""Ablations: a method, each of its switches left out, each alone, and none of them, over seeds.

The runs are a sweep, each in the folder VARIANT/seed-N, so an interrupted ablation continues where it stopped.
`effects` compares the finished runs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from q2pi.config import RunConfig, resolve
from q2pi.errors import UserError
from q2pi.runs.folder import RunFolder
from q2pi.runs.stored_config import is_finished
from q2pi.runs.sweep import Sweep, SweepRun
from q2pi.statistics.permutation import least_p_value, permutation_interval
from q2pi.statistics.scores import Interval, bootstrap_interval, mean

ALL, NONE = "all", "none"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ablation:
    """The variants of a method and their runs."""

    sweep: Sweep
    variants: dict[str, str]
    """Variant -> the variant whose runs it has: another one if both have the same configuration."""
    root: Path

    @property
    def switches(self) -> list[str]:
        """The switches that are on."""
        return [name.removeprefix("no ") for name in self.variants if name.startswith("no ")]


def plan(config: RunConfig[Any], seeds: int, workers: int, root: Path, with_alone: bool = True) -> Ablation:
    """Return the ablation of a configuration; nothing is written.

    Args:
        config: the method with all of its switches.
        seeds: number of seeds, 1 to `seeds`.
        workers: number of runs at a time.
        root: folder of the runs.
        with_alone: whether each switch alone is a variant, too.

    Raises:
        UserError: the algorithm has no switches, none is on, or a configuration is not valid.
    """
    found = config.hyper.ablations()
    if not found:
        raise UserError(f"{config.algorithm} has no switches: an ablation needs an algorithm that has, such as rainbow")
    if set(found) == {ALL, NONE}:
        raise UserError("every switch is off: there is nothing to leave out")
    if not with_alone:
        found = {name: hyper for name, hyper in found.items() if not name.startswith("only ")}
    owners: dict[Any, str] = {}
    variants = {name: owners.setdefault(hyper, name) for name, hyper in found.items()}
    runs = []
    for seed in range(1, seeds + 1):
        for name in owners.values():
            threads = config.threads or 1
            variant = resolve(replace(config, hyper=found[name], seed=seed, threads=threads))
            label = f"{folder_name(name)}/seed-{seed}"
            runs.append(SweepRun(label, root / label, variant))
    return Ablation(Sweep(tuple(runs), workers), variants, root)


def folder_name(variant: str) -> str:
    """Return a variant as the name of a folder."""
    return re.sub(r"[^\w.=+-]+", "-", variant)


def scores(ablation: Ablation) -> dict[str, dict[int, float]]:
    """Return variant -> seed -> mean raw score of the evaluation at the end of training, of the finished runs."""
    found: dict[str, dict[int, float]] = {name: {} for name in ablation.variants}
    for run in ablation.sweep.runs:
        if is_finished(run.path) and (rows := RunFolder(run.path).rows("evaluation")):
            owner, _, _ = run.name.partition("/")
            for name, other in ablation.variants.items():
                if folder_name(other) == owner:
                    found[name][run.config.seed] = rows[-1]["statistics"]["mean"]
    return found


def report(ablation: Ablation, config: RunConfig[Any], command: str) -> dict[str, Any]:
    """Return the scores of the variants and the effects of the switches as a JSON-able dict, with the command.

    An effect is a difference of mean scores: of all and all without the switch, and of the switch alone and none.
    """
    found = scores(ablation)
    effects = {
        switch: {
            "left_out": effect(found[ALL], found[f"no {switch}"]),
            "alone": effect(found.get(f"only {switch}", {}), found[NONE]),
        }
        for switch in ablation.switches
    }
    return {
        "command": command,
        "env_id": config.env.env_id,
        "algorithm": config.algorithm,
        "agent_steps": config.total_timesteps,
        "score": f"mean raw score of {config.evaluation_episodes} whole episodes after training",
        "interval": "95 %: of effects by inverting the permutation test, of means by the bootstrap, over seeds",
        "variants": {name: _summary(values) for name, values in found.items()},
        "switches": effects,
    }


def effect(with_switch: Mapping[int, float], without: Mapping[int, float]) -> dict[str, Any]:
    """Return the effect of a switch: mean difference, interval (None if it is unbounded) and verdict."""
    if not with_switch or not without:
        return {"effect": None, "interval": None, "verdict": "no runs"}
    first, second = list(with_switch.values()), list(without.values())
    interval = permutation_interval(first, second, CONFIDENCE)
    bounded = least_p_value(len(first), len(second)) <= 1 - CONFIDENCE
    return {
        "effect": mean(first) - mean(second),
        "interval": list(interval) if bounded else None,
        "verdict": verdict(interval),
    }


def verdict(interval: Interval) -> str:
    """Return helps, hurts or undecided: whether the interval of an effect is above 0, below 0 or contains it."""
    low, high = interval
    return "helps" if low > 0 else "hurts" if high < 0 else "undecided"


def _summary(values: Mapping[int, float]) -> dict[str, Any]:
    numbers = list(values.values())
    return {
        "seeds": list(values),
        "scores": numbers,
        "mean": mean(numbers) if numbers else None,
        "interval": list(bootstrap_interval(numbers, mean)) if len(numbers) > 1 else None,
    }
