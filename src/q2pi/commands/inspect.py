"""q2pi inspect: draw each preprocessing step of an Atari game, from the raw screen to the network input."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from q2pi.commands.options import parse
from q2pi.envs.spec import EnvSpec, resolve


@dataclass(frozen=True)
class Options:
    game: Annotated[str, tyro.conf.Positional] = "SpaceInvaders"
    """Atari game."""
    out: str | None = None
    """File of the picture (.png, .svg, .pdf); by default GAME-preprocessing.png in the working directory."""
    seed: int = 0
    """Seed of the episode and of its random actions."""
    spec: Annotated[EnvSpec, tyro.conf.OmitArgPrefixes] = field(default_factory=EnvSpec)


def main(arguments: list[str]) -> int:
    options = parse(
        Options,
        "inspect",
        "Draw each preprocessing step of an Atari game, from the raw screen to the network input.",
        arguments,
        help_default=lambda: Options(spec=resolve(EnvSpec())),
        hidden={"env_options", "wrappers", "obs_type"},
        refused={"env_id": "name the game first, as in q2pi inspect Pong"},
    )
    spec = resolve(replace(options.spec, env_id=options.game))
    path = Path(options.out or f"{spec.env_id}-preprocessing.png")
    # Imported here because it loads Matplotlib and ALE, which take a second.
    from q2pi.reports.preprocessing import preprocessing_picture

    preprocessing_picture(spec, path, seed=options.seed)
    print(path)
    return 0
