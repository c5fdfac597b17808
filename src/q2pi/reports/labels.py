"""Labels of runs in legends and tables: the options in which the runs differ."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from q2pi.algorithms import registry
from q2pi.envs.spec import EnvSpec
from q2pi.errors import UserError
from q2pi.runs.history import History

KEYS_IN_LABEL = 3
"""Largest number of options in the label of a curve."""
Options = dict[str, Any]
"""Dotted name -> value, such as {"hyper.gamma": 0.99}."""


def leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of every option in nested tables."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


NO_PROPERTIES = (
    *("seed", "algorithm", "env.env_id", "preset", "from_run", "from_digest"),
    *("evaluation_episodes", "evaluation_frequency", "checkpoint_frequency", "log_frequency", "threads"),
)
"""Options that are no property of a method: they do not change what is learned, or the label names them otherwise."""


def without_effect(history: History) -> frozenset[str]:
    """Return the dotted names of the hyperparameters of a run that change nothing beside the others."""
    if history.algorithm not in registry.names():
        return frozenset()
    config = registry.find_config(history.algorithm)
    return frozenset(f"hyper.{name}" for name in config.options_without_effect(history.config.get("hyper", {})))


def options_of(history: History) -> Options:
    """Return the options of a run that are properties of its method."""
    left_out = {*NO_PROPERTIES, *without_effect(history)}
    options = {name: value for name, value in leaves(history.config) if name not in left_out}
    # The seeds of a method may each start from a run of their own.
    return options | ({"from_run": "another run"} if history.config.get("from_run") else {})


def differing(tables: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the names whose values differ between tables; a hyperparameter that a table lacks has no effect there."""
    found = set()
    for name in {name for table in tables for name in table}:
        values = [table.get(name) for table in tables if name in table or not name.startswith("hyper.")]
        if any(value != values[0] for value in values):
            found.add(name)
    return found


def short(name: str) -> str:
    """Return the last part of a dotted name."""
    return name.rpartition(".")[2]


def curve_labels(histories: Sequence[History]) -> list[str]:
    """Return a label for each run: the first options in which it differs from other runs of its family.

    A family is all runs of one algorithm on one environment; the label names it if there are several families.
    """
    families: dict[tuple[str, str], list[Options]] = {}
    for history in histories:
        families.setdefault((history.algorithm, history.env_id), []).append(options_of(history))
    labels = []
    for history in histories:
        family = history.algorithm, history.env_id
        own = options_of(history)
        names = sorted(differing(families[family]) - without_effect(history))
        words = [f"{short(name)} {own.get(name, 'default')}" for name in names[:KEYS_IN_LABEL]]
        if len(names) > KEYS_IN_LABEL:
            words.append("...")
        if len(families) > 1 or not words:
            words.insert(0, " on ".join(family))
        labels.append(", ".join(words))
    return _numbered(labels)


def _numbered(labels: Sequence[str]) -> list[str]:
    """Return the labels; repeated labels are numbered by their position, from 1."""
    return [label if labels.count(label) == 1 else f"{label} ({index})" for index, label in enumerate(labels, 1)]


def refuse_same_seeds(histories: Iterable[History]) -> None:
    """Raise a UserError if two of these runs, which differ only in their seeds, have the same seed."""
    first: dict[int, History] = {}
    for history in histories:
        known = first.setdefault(history.seed, history)
        if known is not history:
            paths = f"{known.run.path} and {history.run.path}"
            raise UserError(f"{paths} have the same configuration and the same seed {history.seed}")


def rules_of(env: EnvSpec) -> str:
    """Return the rules of an environment that affect scores."""
    if env.protocol is None:
        return f"raw rewards, {'clipped' if env.clip_rewards else 'not clipped'} for learning"
    sticky = env.repeat_action_probability
    return "; ".join(
        (
            f"{env.protocol} protocol, {f'sticky actions {sticky:g}' if sticky else 'no sticky actions'}",
            f"whole games{', a lost life ends the return for learning' if env.life_loss_discount else ''}",
            f"raw scores{' (rewards clipped for learning)' if env.clip_rewards else ''}",
            f"1 agent step = {env.frame_skip} frames",
        )
    )
