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
        raise UserError(
            f"watch needs the folder of one run or of two runs, got {len(options.runs)} (q2pi runs lists them)"
        )
    options.check()
    paths = [RunFolder.open(path).path for path in options.runs]
    require_nicegui("watch")
    title = " and ".join(path.name or str(path) for path in paths)

    def build(app: Any) -> None:
        # Imported after the URL is printed: loading torch and the web framework takes seconds.
        from q2pi.viewer.page import add_watch_page
        from q2pi.viewer.source import RunSource

        add_watch_page(app, title, "q2pi watch", lambda: [RunSource(path) for path in paths])

    return serve(build, options, f"{title} - q2pi")
