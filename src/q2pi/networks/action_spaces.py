"""Action spaces that policies support; no torch, so that configurations are read fast."""

import math
from typing import Any

SPACES = ("Discrete", "MultiDiscrete", "MultiBinary", "Box")
"""Action spaces for which there is a policy head."""


def kind_of(space: Any) -> str:
    """Return the name of a space's class among `SPACES`, subclasses included, or of its own class."""
    names = [kind.__name__ for kind in type(space).__mro__]
    return next((name for name in names if name in SPACES), names[0])


def serves(space: Any) -> bool:
    """Return whether `networks.policy.policy_head` supports an action space."""
    kind = kind_of(space)
    if kind not in SPACES or math.prod(space.shape) == 0:
        return False
    return kind != "Box" or (space.dtype.kind in "fiub" and space.dtype.itemsize <= 8)


def action_bytes(space: Any) -> int:
    """Return the bytes of one stored action of a policy: 4 per number of a `Box`, else 8."""
    return int(math.prod(space.shape)) * (4 if kind_of(space) == "Box" else 8)
