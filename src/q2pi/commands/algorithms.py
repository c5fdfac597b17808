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
        config = registry.find_config(name)
        print(f"{name:<14}{registry.title(name)}")
        print(f"{'':<14}{config.OBSERVATIONS} -> {config.ACTIONS}")
        print(f"{'':<14}presets: {', '.join(names(name))}")
    return 0
