"""Switches of Rainbow: their off values, combinations for an ablation, and checks of combinations."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from q2pi.config import flag
from q2pi.errors import UserError

Config = TypeVar("Config")
OFF: dict[str, Any] = {
    "double": False,
    "dueling": False,
    "n_step": 1,
    "prioritized": False,
    "noisy": False,
    "distribution": "none",
    "munchausen": False,
    "spectral_norm": False,
}
"""Switch -> its value when off. The network is no switch: not every network fits every image."""
FOREIGN: dict[str, tuple[str, ...]] = {
    "atoms": ("categorical",),
    "quantiles": ("quantile",),
    "kappa": ("quantile", "implicit"),
    **dict.fromkeys(("tau_samples", "target_tau_samples", "acting_taus", "cosines"), ("implicit",)),
    "loss": ("none",),
}
"""Option -> distributions that it has an effect on. `v_min` and `v_max` describe the environment: they may stay set."""


def combinations(config: Config) -> dict[str, Config]:
    """Return configurations by name: all, no SWITCH and only SWITCH for each switch that is on, and none."""
    on = [name for name, off in OFF.items() if getattr(config, name) != off]
    result = {"all": config}
    result |= {f"no {name}": _without(config, [name]) for name in on}
    result |= {f"only {name}": _without(config, [other for other in on if other != name]) for name in on}
    return result | {"none": _without(config, on)}


def _without(config: Config, switches: Iterable[str]) -> Config:
    return without_foreign_options(replace(config, **{name: OFF[name] for name in switches}))  # type: ignore[type-var]


def foreign_options(config: Any) -> list[str]:
    """Return the options of another distribution that differ from their defaults."""
    defaults = {entry.name: entry.default for entry in fields(config)}
    return [
        name
        for name, kinds in FOREIGN.items()
        if config.distribution not in kinds and getattr(config, name) != defaults[name]
    ]


def without_foreign_options(config: Config) -> Config:
    """Return the configuration with options of another distribution at their defaults."""
    defaults = {entry.name: entry.default for entry in fields(config)}  # type: ignore[arg-type]
    return replace(config, **{name: defaults[name] for name in foreign_options(config)})  # type: ignore[type-var]


NEEDS: dict[str, str] = {
    "noisy_sigma": "noisy",
    "noisy_epsilon": "noisy",
    **dict.fromkeys(("alpha", "beta_start", "beta_end"), "prioritized"),
    **dict.fromkeys(("munchausen_alpha", "munchausen_temperature", "munchausen_floor"), "munchausen"),
}
"""Option -> the switch without which it has no effect."""


def options_without_effect(hyper: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the options that change nothing beside these values of the switches."""
    foreign = {name for name, kinds in FOREIGN.items() if hyper.get("distribution", "none") not in kinds}
    return frozenset(foreign | {name for name, switch in NEEDS.items() if not hyper.get(switch)})


def check_switches(config: Any) -> None:
    """Raise a UserError for the first combination of switches that cannot work."""
    if not config.noisy and config.start_e == config.end_e == 0:
        raise UserError(
            "--no-noisy with --start-e 0 and --end-e 0: nothing explores; switch on --noisy, or set --end-e above 0"
        )
    if not config.v_min < config.v_max:
        raise UserError(f"--v-min {config.v_min} is out of range: it must be below --v-max {config.v_max}")
    for name in foreign_options(config):
        kinds = " or ".join(FOREIGN[name])
        raise UserError(
            f"{flag(name)} {getattr(config, name)} has no effect with --distribution {config.distribution}: "
            f"it is an option of --distribution {kinds}"
        )
