"""Importing a module that the user names, from the current folder too."""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

from q2pi.envs.errors import first_line
from q2pi.errors import UserError


def load(module: str, option: str) -> ModuleType:
    """Return a module by its dotted name.

    A script that pip has installed, as q2pi is, does not search the current folder; `python -m` does. A module or
    package of the current folder has priority, as with `python -m`.

    Args:
        module: dotted name.
        option: the option with its value, for error messages.

    Raises:
        UserError: there is no such module, or importing it raises an exception.
    """
    folder, top = os.getcwd(), module.partition(".")[0]
    is_here = Path(folder, f"{top}.py").is_file() or Path(folder, top).is_dir()
    if is_here and not {"", folder} & set(sys.path):
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise UserError(f"{option} cannot be imported: {first_line(error)}") from error
