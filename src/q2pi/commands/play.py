"""q2pi play: watch an agent that comes with the package, and play its game."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from q2pi.commands.options import parse
from q2pi.errors import UserError
from q2pi.viewer import cards
from q2pi.viewer.server import ServerOptions, require_nicegui, serve

DESCRIPTION = """Serve a page on which an agent that comes with the package plays; you can take over with the keyboard.
Two agents play side by side on the same seed. Without a game, the command lists the agents and their scores."""


@dataclass(frozen=True)
class Options(ServerOptions):
    games: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Game, or two games; the name of an agent or the id of its environment."""


def main(arguments: list[str]) -> int:
    options = parse(Options, "play", DESCRIPTION, arguments)
    if not options.games:
        print("\n".join(f"{name:<14} {cards.score(cards.FOLDER / name)}" for name in cards.names()))
        return 0
    if len(options.games) > 2:
        raise UserError(f"play shows one game or two, got {len(options.games)}")
    paths = [cards.find(game) for game in options.games]
    options.check()
    require_nicegui("play")
    titles = [path.name for path in paths]

    def sources() -> Any:
        # Imported in the thread of a tab: it loads torch.
        from q2pi.viewer.shipped import ShippedSource

        return [ShippedSource(path) for path in paths]

    def build(app: Any) -> None:
        # Imported after the URL is printed: loading the web framework takes a second.
        from q2pi.viewer.page import Agents, add_watch_page

        add_watch_page(app, Agents(titles, "; ".join(cards.score(path) for path in paths), sources))

    return serve(build, options, f"{' and '.join(titles)} - q2pi")
