"""One file is one algorithm: the files of this package are the list."""

import difflib
import importlib
import pkgutil
from types import ModuleType

from q2pi.errors import UserError


def names() -> list[str]:
    """Return the algorithms' names: the files of this package but the contract."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def find(name: str) -> ModuleType:
    """Return the module of the algorithm `name`, which holds its `Config`, `check` and `Agent`."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(f"unknown algorithm {name!r}: it must be one of {', '.join(names())}{hint}")
    return importlib.import_module(f"{__name__}.{name}")
