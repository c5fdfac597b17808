"""The cards of the agents that come with the package, read without importing torch; see `shipped`."""

import json
from pathlib import Path
from typing import Any

from q2pi.errors import UserError, suggest

FOLDER = Path(__file__).parent / "agents"


def names() -> list[str]:
    """Return the names of the agents that come with the package."""
    return sorted(path.parent.name for path in FOLDER.glob("*/card.json"))


def find(game: str) -> Path:
    """Return the folder of the agent for a game: its name, in any case, or the environment's id.

    Raises:
        UserError: there is none; the message lists the agents that exist.
    """
    for name in names():
        if game.lower() in (name, card(FOLDER / name)["env_id"].lower()):
            return FOLDER / name
    raise UserError(
        f"no agent for {game!r} comes with q2pi{suggest(game, names())}; there are {', '.join(names()) or 'none'}; "
        "q2pi watch RUN shows an agent that you trained"
    )


def card(path: Path) -> dict[str, Any]:
    """Return the card of an agent."""
    found: dict[str, Any] = json.loads((path / "card.json").read_text())
    return found


def score(path: Path) -> str:
    """Return what an agent is, and its score with interval and protocol, in words."""
    about = card(path)
    statistics = about["statistics"]
    low, high = statistics["mean_interval"]
    return (
        f"{about['method']} on {about['env_id']}: mean {statistics['mean']:.4g} [{low:.4g}, {high:.4g}] over "
        f"{statistics['n']} episodes, {about['protocol']['policy']}"
    )
