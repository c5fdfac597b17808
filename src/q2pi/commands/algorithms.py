"""q2pi algorithms: list the algorithms, their observation and action spaces and their presets."""

from dataclasses import dataclass

from q2pi.algorithms import registry
from q2pi.commands.options import parse
from q2pi.training.presets import names


@dataclass(frozen=True)
class Options:
    """No options."""


def main(arguments: list[str]) -> int:
    parse(
        Options, "algorithms", "List the algorithms, their observation and action spaces and their presets.", arguments
    )
    for name in registry.names():
        module = registry.find(name)
        first_line = (module.__doc__ or "").splitlines()[0].rstrip(".")
        print(f"{name:<14}{first_line}")
        print(f"{'':<14}{module.Config.OBSERVATIONS} -> {module.Config.ACTIONS}")
        print(f"{'':<14}presets: {', '.join(names(name))}")
    return 0
