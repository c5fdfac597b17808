"""q2pi digest: one SHA-256 over the complete training state of a run's newest checkpoint."""

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from q2pi.commands.options import parse
from q2pi.runs.folder import RunFolder


@dataclass(frozen=True)
class Options:
    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run."""


def main(arguments: list[str]) -> int:
    options = parse(
        Options, "digest", "Print one SHA-256 over the complete training state of a run's newest checkpoint.", arguments
    )
    run = RunFolder.open(options.run)
    # Imported here because they load torch, which takes seconds: a mistake in the options is reported before.
    from q2pi.runs.checkpoint import digest
    from q2pi.runs.load import load_checkpoint

    _, state, _, warnings = load_checkpoint(run)
    for warning in warnings:
        print(f"q2pi: {warning}", file=sys.stderr)
    print(digest(state))
    return 0
