"""q2pi watch: watch the agents of one or two runs in the browser."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from q2pi.commands.options import parse
from q2pi.errors import UserError
from q2pi.runs.folder import RunFolder
from q2pi.viewer.server import ServerOptions, require_nicegui, serve

DESCRIPTION = """Serve a page on which the agent of a run plays, during training or after: the screen, the network's
input and output, its value over time, and how the run learns. Two runs play side by side on the same seed. The run
folders are only read."""


@dataclass(frozen=True)
class Options(ServerOptions):
    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folder of the run, or folders of two runs."""


def main(arguments: list[str]) -> int:
    options = parse(Options, "watch", DESCRIPTION, arguments)
    if not 1 <= len(options.runs) <= 2:
        raise UserError(f"watch needs the folders of one or two runs, got {len(options.runs)} (q2pi runs lists them)")
    options.check()
    paths = [RunFolder.open(path).path for path in options.runs]
    require_nicegui("watch")

    def build(app: Any) -> None:
        # Imported after the URL is printed: loading the web framework takes a second.
        from q2pi.viewer.page import add_watch_page, agents_of_runs

        add_watch_page(app, agents_of_runs(paths, "q2pi watch"))

    return serve(build, options, f"{' and '.join(path.name for path in paths)} - q2pi")
