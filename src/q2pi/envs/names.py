"""Names of environments: from every usual spelling to one name, with suggestions for unknown names.

SpaceInvaders, space_invaders, ALE/SpaceInvaders-v5, SpaceInvadersNoFrameskip-v4, SpaceInvaders-v4 -> SpaceInvaders
CartPole -> CartPole-v1 (the newest version), CartPole-v0 -> CartPole-v0, my_module:Maze -> my_module:Maze-v0

An id that is registered with Gymnasium is that environment, also if it could be the spelling of an Atari game.
"""

import re
import sys
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec

from q2pi.envs import modules
from q2pi.errors import UserError, suggest

_ATARI_ID = re.compile(r"(?:ALE/)?(?P<name>\w+?)(?:NoFrameskip|Deterministic)?(?:-v[045])?")
_TWO_PLAYER_ROMS = {"combat", "joust", "maze_craze", "warlords"}
"""Games that ALE includes but that need two players."""


@lru_cache(maxsize=1)
def atari_roms() -> dict[str, str]:
    """Return the ROM name of each Atari game, such as {"SpaceInvaders": "space_invaders"}."""
    # Importing ale_py loads Gymnasium too, for a list of names: load its module of names alone.
    package = find_spec("ale_py")
    assert package is not None
    spec = PathFinder.find_spec("ale_py.roms", package.submodule_search_locations)
    assert spec is not None
    assert spec.loader is not None
    roms = module_from_spec(spec)
    spec.loader.exec_module(roms)
    return {rom.title().replace("_", ""): rom for rom in roms.get_all_rom_ids() if rom not in _TWO_PLAYER_ROMS}


@lru_cache(maxsize=1)
def _spellings() -> dict[str, str]:
    return {rom.replace("_", ""): game for game, rom in atari_roms().items()}


def _atari_name(env_id: str) -> str | None:
    match = _ATARI_ID.fullmatch(env_id)
    return _spellings().get(match["name"].replace("_", "").lower()) if match else None


def is_atari(env_id: str) -> bool:
    """Return whether `env_id`, in any spelling, is an Atari game."""
    return _atari_name(env_id) is not None and not _is_registered(env_id)


def _is_registered(env_id: str) -> bool:
    """Return whether `env_id` is exactly the id of a Gymnasium environment other than Atari's."""
    # Who has registered an environment has imported Gymnasium; other processes need not load it for an Atari game.
    return "gymnasium" in sys.modules and env_id in _gymnasium_ids()


def _gymnasium_ids() -> dict[str, str]:
    """Return the registered ids except Atari's, this package's included, each with its id without version."""
    import gymnasium

    registered = gymnasium.registry.items()
    return {name: name.rsplit("-v", 1)[0] for name, entry in registered if "ale_py" not in str(entry.entry_point)}


def _gymnasium_name(env_id: str) -> str | None:
    import gymnasium

    ids = _gymnasium_ids()
    if env_id in ids:
        return env_id
    versions = [name for name, base in ids.items() if base == env_id and _VERSION.search(name)]
    if versions:
        return max(versions, key=_version)
    if ":" not in env_id:
        return None
    module, name = env_id.split(":", 1)
    modules.load(module, f"--env-id {env_id}")
    if name in gymnasium.registry:
        return env_id
    found = [other for other in gymnasium.registry if other.rsplit("-v", 1)[0] == name and _VERSION.search(other)]
    if not found:
        close = suggest(name, gymnasium.registry)
        raise UserError(f"--env-id {env_id} cannot be imported: {module} registers no environment {name}{close}")
    return f"{module}:{max(found, key=_version)}"


_VERSION = re.compile(r"-v(\d+)$")


def _version(env_id: str) -> int:
    match = _VERSION.search(env_id)
    return int(match[1]) if match else -1


def canonical(env_id: str) -> str:
    """Return the canonical name of an environment: an Atari game (`SpaceInvaders`) or a Gymnasium id (`CartPole-v1`).

    The protocol in an Atari id (`NoFrameskip`, `-v5`) is dropped: it belongs to the specification.

    Raises:
        UserError: no environment has this name; the message suggests up to three similar names.
    """
    name = _gymnasium_name(env_id) if _is_registered(env_id) else _atari_name(env_id) or _gymnasium_name(env_id)
    if name is None:
        raise UserError(f"--env-id {env_id} is unknown{_suggestion(env_id)}")
    return name


def _suggestion(env_id: str) -> str:
    name = env_id.lower().removeprefix("ale/")
    # MinAtar's games have the names of Atari's: only a name with a namespace resembles one with another.
    similar = [registered for registered in _gymnasium_ids() if "/" in name or "/" not in registered]
    close = suggest(name, [*similar, *atari_roms()], most=3)
    return close or "; no Atari game or Gymnasium id has a similar name"
