"""From an algorithm's name to its module and to its default configuration.

An algorithm's options are in `algorithms/configs/`, which imports no torch: a command line is read before torch is.
"""

import ast
import importlib
import pkgutil
from importlib.resources import files
from types import ModuleType
from typing import Any

from q2pi import algorithms
from q2pi.algorithms.configs.base import AlgorithmConfig
from q2pi.config import RunConfig
from q2pi.errors import UserError, suggest

NOT_ALGORITHMS = {"base", "build", "common", "configs", "registry"}


def names() -> list[str]:
    """Return the algorithms' names: the files of the package but the contract and those that serve all algorithms."""
    found = {module.name for module in pkgutil.iter_modules(algorithms.__path__)}
    return sorted(found - NOT_ALGORITHMS)


def find(name: str) -> ModuleType:
    """Return the module of the algorithm `name`, which holds its `Config` and its `Agent`; loads torch.

    Raises:
        UserError: no algorithm has this name.
    """
    return importlib.import_module(f"{algorithms.__name__}.{_known(name)}")


def find_config(name: str) -> type[AlgorithmConfig]:
    """Return the class of the hyperparameters of the algorithm `name`, without loading torch.

    Raises:
        UserError: no algorithm has this name.
    """
    config: type[AlgorithmConfig] = importlib.import_module(f"{algorithms.__name__}.configs.{_known(name)}").Config
    return config


def title(name: str) -> str:
    """Return the first line of an algorithm's docstring, read from its source, which is not imported."""
    source = (files(algorithms) / f"{_known(name)}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0].rstrip(".")


def default_config(algorithm: str) -> RunConfig[Any]:
    """Return the configuration of `algorithm` with every default."""
    return RunConfig(algorithm=algorithm, hyper=find_config(algorithm)())


def _known(name: str) -> str:
    if name not in names():
        raise UserError(f"unknown algorithm {name!r}: it must be one of {', '.join(names())}{suggest(name, names())}")
    return name
