"""Action masks: which actions an environment allows, as one array of 0 and 1.

Discrete(n)            [n]
MultiDiscrete(nvec)    [sum(nvec)], the masks of the components one after another, as in sb3-contrib; environments
                       may also return a tuple of one mask per component, as `MultiDiscrete.sample(mask)` takes it
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from q2pi.envs.encoding import BadObservation, array_of, described_array
from q2pi.envs.errors import first_line
from q2pi.types import Array


def mask_sizes(space: Any) -> tuple[int, ...]:
    """Return the number of actions of each component of an action space; () if the space has no masks."""
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    return tuple(map(int, np.ravel(space.nvec))) if isinstance(space, spaces.MultiDiscrete) else ()


def action_mask(env: Any, info: Any, sizes: Sequence[int], terminated: bool = False) -> Array | None:
    """Return the mask [A] of the actions that are allowed now, True for allowed, or None if there is none.

    It is `info["action_mask"]`, else what `env.unwrapped.action_masks()` returns. After termination no action follows,
    so all are allowed.

    Raises:
        BadObservation: another shape, other values than 0 and 1, or no allowed action.
    """
    if terminated:
        return np.ones(sum(sizes), np.bool_)
    value = info.get("action_mask") if isinstance(info, Mapping) else None
    if value is None:
        method = getattr(env.unwrapped, "action_masks", None)
        if not callable(method):
            return None
        try:
            value = method()
        except Exception as error:
            raise BadObservation(f"no action mask: action_masks raised {first_line(error)}") from error
    mask = flat_mask(value, sizes)
    if mask is None or not ((mask == 0) | (mask == 1)).all():
        wanted = f"{sum(sizes)} values, 0 or 1, one per action"
        if len(sizes) > 1:
            wanted += f" of each component ({' + '.join(map(str, sizes))}), or a tuple of one mask per component"
        raise BadObservation(f"the action mask {described_array(array_of(value))}: it must be {wanted}")
    if (index := without_action(mask, sizes)) is not None:
        component = f" of component {index}" if len(sizes) > 1 else ""
        raise BadObservation(
            f"an action mask that allows no action{component}: an episode without actions must terminate"
        )
    return mask.astype(np.bool_)


def flat_mask(value: Any, sizes: Sequence[int]) -> Array | None:
    """Return a mask, or a tuple of one mask per component, as [A]; None if it has another shape."""
    parts = _leaves(value)
    if len(parts) == 1 and parts[0].shape == (sum(sizes),):
        return parts[0]
    if len(sizes) > 1 and [part.shape for part in parts] == [(size,) for size in sizes]:
        return np.concatenate(parts)
    return None


def _leaves(value: Any) -> list[Array]:
    """Return the arrays that a value consists of: nested tuples and lists have several."""
    if isinstance(value, tuple | list) and any(array_of(item).ndim or isinstance(item, tuple | list) for item in value):
        return [leaf for item in value for leaf in _leaves(item)]
    return [array_of(value)]


def without_action(masks: Array, sizes: Sequence[int]) -> int | None:
    """Return the first component of which a mask of `masks` [..., A] allows no action, or None."""
    parts = np.split(masks, np.cumsum(sizes)[:-1], axis=-1)
    return next((index for index, part in enumerate(parts) if not part.any(axis=-1).all()), None)


def sampling_mask(space: Any, mask: Array) -> Any:
    """Return a mask [A] as `space.sample` takes it: int8, for MultiDiscrete a nested tuple of one per component."""
    mask = mask.astype(np.int8)
    if isinstance(space, spaces.Discrete):
        return mask
    parts: Any = tuple(np.split(mask, np.cumsum(mask_sizes(space))[:-1]))
    for length in reversed(space.shape[1:]):
        parts = tuple(parts[start : start + length] for start in range(0, len(parts), length))
    return parts
