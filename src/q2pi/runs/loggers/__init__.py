"""Loggers of other services: one file for each, a `Sink`, chosen by `--log NAME`. Their packages are extras of q2pi."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from q2pi.errors import UserError, suggest
from q2pi.runs.sinks import Sink

LOGGERS = {"wandb": "WandB", "trackio": "Trackio"}
"""Name of the module and of the service's package -> class."""


class _LoggerClass(Protocol):
    def __call__(self, folder: Path | None = None) -> Sink: ...


def make_loggers(names: tuple[str, ...], folder: Path | None) -> list[Sink]:
    """Return the loggers of a run.

    Args:
        names: of services, see LOGGERS.
        folder: the run's folder; a resumed run continues what it logged before.

    Raises:
        UserError: an unknown name, or a package that is not installed.
    """
    check_loggers(names)
    return [_find(name)(folder) for name in dict.fromkeys(names)]


def check_loggers(names: tuple[str, ...]) -> None:
    """Raise a UserError if a name is unknown or its package is not installed."""
    for name in names:
        if name not in LOGGERS:
            known = ", ".join(LOGGERS)
            raise UserError(f"--log {name}: it must be one of {known}{suggest(name, LOGGERS)}")
        found = find_spec(name)
        # W&B's folder wandb/ in the current folder looks like a package without an origin.
        if found is None or found.origin is None:
            raise UserError(f"--log {name} needs the package {name}: pip install 'q2pi[{name}]'")


def _find(name: str) -> _LoggerClass:
    found: _LoggerClass = getattr(import_module(f"q2pi.runs.loggers.{name}"), LOGGERS[name])
    return found
