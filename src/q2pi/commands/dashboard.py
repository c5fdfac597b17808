"""q2pi dashboard: show many runs in the browser."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from q2pi.commands.options import parse
from q2pi.errors import UserError
from q2pi.viewer.server import ServerOptions, require_nicegui, serve

DESCRIPTION = """Serve a page with all runs below a folder: a table to sort and filter, learning curves with intervals
over seeds, the options in which runs differ, and sweeps and studies with their states. The page follows the folder
while runs train; the run folders are only read."""


@dataclass(frozen=True)
class Options(ServerOptions):
    folder: Annotated[str, tyro.conf.Positional] = "runs"
    """Folder to search for runs, at any depth."""


def main(arguments: list[str]) -> int:
    options = parse(Options, "dashboard", DESCRIPTION, arguments)
    folder = Path(options.folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; q2pi train creates runs/, or name another folder")
    options.check()
    require_nicegui("dashboard")

    def build(app: Any) -> None:
        # Imported after the URL is printed: loading the web framework takes seconds.
        from q2pi.viewer.dashboard import add_dashboard_pages

        add_dashboard_pages(app, folder)

    return serve(build, options, f"{folder} - q2pi")
