"""q2pi algorithms: which algorithm serves which spaces."""

from rich.console import Console
from rich.table import Table

from q2pi import algorithms
from q2pi.presets import names


def main(arguments: list[str]) -> int:
    table = Table()
    for column in ("algorithm", "observations", "actions", "presets", "what it is"):
        table.add_column(column)
    for name in algorithms.names():
        module = algorithms.find(name)
        first_line = (module.__doc__ or "").splitlines()[0].rstrip(".")
        table.add_row(name, module.OBSERVATIONS, module.ACTIONS, ", ".join(names(name)), first_line)
    Console().print(table)
    return 0
