"""Names of an environment's actions, and the keys with which a person chooses them."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from q2pi.envs.spec import EnvSpec, is_atari
from q2pi.networks.action_spaces import kind_of
from q2pi.types import Array

UP, DOWN, LEFT, RIGHT, FIRE = "up", "down", "left", "right", "fire"
KEYS = {"ArrowUp": UP, "ArrowDown": DOWN, "ArrowLeft": LEFT, "ArrowRight": RIGHT, " ": FIRE}
"""Key, as the browser names it, -> part of an action."""
ATARI_PARTS = {"UP": UP, "DOWN": DOWN, "LEFT": LEFT, "RIGHT": RIGHT, "FIRE": FIRE}

_Named = tuple[tuple[str, frozenset[str]], ...]


def _named(*actions: tuple[str, str]) -> _Named:
    return tuple((name, frozenset(parts.split())) for name, parts in actions)


_COMPASS = _named(("north", UP), ("east", RIGHT), ("south", DOWN), ("west", LEFT))
_PUSH = _named(("left", LEFT), ("nothing", ""), ("right", RIGHT))
KNOWN: dict[str, _Named] = {
    "CartPole-v1": _named(("left", LEFT), ("right", RIGHT)),
    "MountainCar-v0": _PUSH,
    "Acrobot-v1": _PUSH,
    "LunarLander-v3": _named(("nothing", ""), ("left engine", LEFT), ("main engine", UP), ("right engine", RIGHT)),
    "FrozenLake-v1": _named((LEFT, LEFT), (DOWN, DOWN), (RIGHT, RIGHT), (UP, UP)),
    "q2pi/FrozenLakeNoSlip-v1": _named((LEFT, LEFT), (DOWN, DOWN), (RIGHT, RIGHT), (UP, UP)),
    "q2pi/CliffWalking-v1": _named((UP, UP), (RIGHT, RIGHT), (DOWN, DOWN), (LEFT, LEFT)),
    "q2pi/AliasedVacuum-v0": _COMPASS,
    "q2pi/AliasedVacuumDiscrete-v0": _COMPASS,
    "q2pi/AliasedVacuumCells-v0": _COMPASS,
}
"""Environment -> (name, parts) of each action; environments that are not listed are played with the number keys."""


@dataclass(frozen=True)
class Controls:
    """The actions of an environment and their keys."""

    names: tuple[str, ...]
    """Names of the actions of a Discrete space; () for other spaces."""
    parts: tuple[frozenset[str], ...]
    """Parts of each action, such as {up, fire}; () if the number keys choose."""
    low: Array | None = None
    """Lower bounds of Box actions."""
    high: Array | None = None

    @property
    def is_real_time(self) -> bool:
        """Whether an action exists for "no key is pressed"; else the environment waits for a key."""
        return frozenset() in self.parts or self.low is not None

    @property
    def help(self) -> str:
        """The keys, in words."""
        if self.low is not None:
            second = ", up and down the second" if self.low.size > 1 else ""
            return f"left and right arrow keys: lowest and highest first component{second}"
        if not self.names:
            return "no keys: an action of this environment has several parts"
        if not self.parts:
            return f"number keys: 1 to {min(9, len(self.names))}, in the order of the bars"
        used = frozenset().union(*self.parts)
        arrows = "arrow keys" if used & {UP, DOWN, LEFT, RIGHT} else ""
        return " and ".join(part for part in (arrows, "space to fire" if FIRE in used else "") if part)

    def action(self, held: Set[str]) -> Any:
        """Return the action of the keys that are held, None if they choose none.

        A Discrete action counts from 0. Of several actions whose parts are all held, the one with the most parts is
        chosen.

        Args:
            held: keys, as the browser names them.
        """
        wanted = {KEYS[key] for key in held if key in KEYS}
        if self.low is not None and self.high is not None:
            return self._box(wanted)
        if not self.parts:
            digits = [int(key) - 1 for key in held if key.isdecimal() and 0 < int(key) <= len(self.names)]
            return min(digits, default=None)
        matching = [index for index, parts in enumerate(self.parts) if parts <= wanted]
        return max(matching, key=lambda index: len(self.parts[index]), default=None)

    def _box(self, wanted: set[str]) -> Array:
        assert self.low is not None
        assert self.high is not None
        flat = np.clip(np.zeros(self.low.size, np.float32), self.low.reshape(-1), self.high.reshape(-1))
        for component, (down, up) in enumerate(((LEFT, RIGHT), (DOWN, UP))[: self.low.size]):
            if (down in wanted) != (up in wanted):
                flat[component] = (self.high if up in wanted else self.low).reshape(-1)[component]
        return flat.reshape(self.low.shape)


def controls_of(spec: EnvSpec, action_space: Any) -> Controls:
    """Return the controls of an environment.

    Args:
        spec: resolved specification.
        action_space: its Gymnasium space.
    """
    kind = kind_of(action_space)
    if kind == "Box":
        return Controls((), (), np.asarray(action_space.low), np.asarray(action_space.high))
    if kind != "Discrete":
        return Controls((), ())
    count = int(action_space.n)
    named = _atari(spec) if is_atari(spec.env_id) else KNOWN.get(spec.env_id, ())
    if len(named) != count:
        return Controls(tuple(f"action {index}" for index in range(count)), ())
    return Controls(tuple(name for name, _ in named), tuple(parts for _, parts in named))


def _atari(spec: EnvSpec) -> _Named:
    from q2pi.envs.atari import action_names

    names = action_names(spec.env_id, bool(spec.full_action_space))
    return tuple((name, parts_of(name)) for name in names)


def parts_of(name: str) -> frozenset[str]:
    """Return the parts of an Atari action, such as {up, right, fire} of UPRIGHTFIRE."""
    return frozenset(part for word, part in ATARI_PARTS.items() if word in name)


def labels(names: Sequence[str], numbers: int) -> list[str]:
    """Return one label per bar: the names of the actions, or "component k" for Box actions."""
    return list(names) if len(names) == numbers else [f"component {index}" for index in range(numbers)]
