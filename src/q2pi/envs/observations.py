"""From an environment's observation to one frame, whatever its Gymnasium space.

    Box of images (uint8, bool, or numbers from 0 to 1 or 255)      image     [C, H, W], uint8 or float32
    Box, other                                                      vector    float32 [D], flattened
    Discrete, MultiDiscrete, and nests of nothing else              one-hot   int64 [D], indices from 0
    MultiBinary                                                     vector    float32 [D]
    Dict, Tuple, nested; any space with an action mask              packed    float32 or uint8 [F], see `layout`
    Text within a Dict or a Tuple                                   left out, see `ObservationReader.unread`

Values are cast if nothing is lost; else, and if the shape differs, `BadObservation` names what was returned.
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from q2pi.envs.encoding import BadObservation, Leaf, array_of, image_dtype, leaf_of, name_of, shape_of
from q2pi.envs.layout import Part
from q2pi.errors import UserError
from q2pi.types import Array

if TYPE_CHECKING:
    from q2pi.envs.spec import EnvSpec


class ObservationReader:
    """Turns observations of one Gymnasium space into frames.

    Args:
        spec: its image options are applied to every image.
        space: the observation space.
        mask_size: number of actions if an action mask belongs to each observation, else 0.

    Raises:
        UserError: a space that no network reads, or an image option that an image cannot have.
    """

    def __init__(self, spec: "EnvSpec", space: Any, mask_size: int = 0) -> None:
        self.env_id, self.space = spec.env_id, space
        nested = _flattened(spec.env_id, space)
        self._texts = frozenset(path for path, part in nested if is_text(part))
        self._leaves = [leaf_of(spec, path, part) for path, part in nested if path not in self._texts]
        self.unread = tuple(name_of(path) for path, _ in nested if path in self._texts)
        """Names of the texts that are left out, such as "mission" of MiniGrid."""
        if not self._leaves:
            raise UserError(f"--env-id {spec.env_id} has no observations: its observation space is {space}")
        mask = (Part("action mask", "mask", (mask_size,)),) if mask_size else ()
        parts = tuple(leaf.part for leaf in self._leaves)
        if not mask and all(part.kind == "one-hot" for part in parts):
            name = parts[0].name if len(parts) == 1 else ""
            sizes = tuple(size for part in parts for size in part.sizes)
            parts = (Part(name, "one-hot", (len(sizes),), sizes),)
        self.parts = (*parts, *mask)
        self.is_float_box = isinstance(space, spaces.Box) and space.dtype.kind == "f" and parts[0].kind == "vector"
        self.is_table = isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and not mask
        self.frame_space = _frame_space(self.parts, self._leaves)
        self._dtype: np.dtype[Any] = np.dtype(self.frame_space.dtype)

    def frames(self, observations: Sequence[Any], masks: Sequence[Any] | None = None) -> Array:
        """Return the frames [n, *frame_shape] of n observations, a new array.

        Args:
            observations: as the environment returns them.
            masks: bool [A] each, if the observations have masks.

        Raises:
            BadObservation: an observation is not in the space.
        """
        if self.is_float_box and masks is None:
            return self._vectors(observations)
        if self.is_table and (indices := self._table_rows(observations)) is not None:
            return indices
        frames = np.empty((len(observations), *self.frame_space.shape), self._dtype)
        for index, observation in enumerate(observations):
            parts = self._parts_of(observation, index)
            if masks is not None:
                parts.append(np.asarray(masks[index]))
            if len(parts) == 1:
                frames[index] = parts[0]
            else:
                np.concatenate([part.reshape(-1) for part in parts], out=frames[index], casting="unsafe")
        return frames

    def batch_of(self, value: Any) -> tuple[list[Any], bool] | None:
        """Return (observations, whether a single one was given), or None if the value has no observation's shape.

        Args:
            value: an observation as the environment returns it, or a batch: the same structure with one more axis.
                A number of a Discrete space may also be an array of one.
        """
        if isinstance(self.space, spaces.Discrete) and np.ndim(value) and np.shape(value)[-1] == 1:
            value = np.asarray(value)[..., 0]
        try:
            leaves = [(array_of(_follow(value, leaf.path)), leaf.space) for leaf in self._leaves]
        except BadObservation:
            return None
        if all(array.shape == shape_of(space) for array, space in leaves):
            return [value], True
        first = leaves[0][0]
        if not all(array.ndim and array.shape == (len(first), *shape_of(space)) for array, space in leaves):
            return None
        return [_row(self.space, value, index, self._texts) for index in range(len(first))], False

    def _parts_of(self, observation: Any, index: int) -> list[Array]:
        """Return the parts of observation `index`, without a mask."""
        try:
            return [leaf.encode(_follow(observation, leaf.path)) for leaf in self._leaves]
        except BadObservation as problem:
            problem.index = index
            raise

    def _vectors(self, observations: Sequence[Any]) -> Array:
        """Return the frames [n, D] of vectors of numbers, all at once: half the time of one by one."""
        try:
            array = np.array(observations)
        except ValueError:  # of different shapes
            array = np.empty(0, object)
        if array.shape[1:] != self.space.shape or array.dtype.kind not in "fiub":
            array = np.stack([self._parts_of(item, index)[0] for index, item in enumerate(observations)])
        return array.reshape(len(array), -1).astype(np.float32, copy=False)

    def _table_rows(self, observations: Sequence[Any]) -> Array | None:
        """Return the frames [n, D] of indices, all at once, or None if they must be checked one by one."""
        try:
            array = np.array(observations)
        except ValueError:
            return None
        if array.dtype.kind not in "iu" or array.shape[1:] != shape_of(self.space):
            return None
        indices: Array = (array - self.space.start).astype(np.int64, copy=False).reshape(len(array), -1)
        return indices if ((indices >= 0) & (indices <= self.frame_space.high)).all() else None


def _flattened(env_id: str, space: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    """Return (path, space) of the spaces that a nested space consists of, in order."""
    if isinstance(space, spaces.Dict):
        return [item for key, part in space.spaces.items() for item in _flattened(env_id, part, (*path, key))]
    if isinstance(space, spaces.Tuple):
        return [item for index, part in enumerate(space) for item in _flattened(env_id, part, (*path, index))]
    known = isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
    if known or (isinstance(space, spaces.Box) and space.dtype.kind in "fiub"):
        return [] if 0 in shape_of(space) else [(path, space)]
    if path and is_text(space):
        return [(path, space)]
    name = f" {name_of(path)!r}" if path else ""
    raise UserError(
        f"--env-id {env_id} has the observation{name} of type {type(space).__name__}, which no network reads: "
        "convert or remove it with an observation wrapper (Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple "
        "are read)"
    )


def is_text(space: Any) -> bool:
    """Return whether a space holds texts: Gymnasium's `Text`, or another class, such as MiniGrid's `MissionSpace`."""
    if type(space).__module__.startswith("gymnasium."):
        return isinstance(space, spaces.Text)
    try:
        return isinstance(copy.deepcopy(space).sample(), str)
    except Exception:  # no space that can be sampled: it is refused by its name
        return False


def _frame_space(parts: tuple[Part, ...], leaves: list[Leaf]) -> spaces.Box:
    """Return the Box of one frame."""
    first, *others = parts
    if not others:
        if first.kind == "one-hot":
            return spaces.Box(0, np.array(first.sizes, np.int64) - 1, dtype=np.int64)
        if first.kind == "image":
            dtype = image_dtype(leaves[0])
            return spaces.Box(0, first.scale if dtype == np.float32 else 255, first.shape, dtype)
        space = leaves[0].space
        if isinstance(space, spaces.Box):
            low, high = (np.asarray(bound, np.float32).reshape(-1) for bound in (space.low, space.high))
            return spaces.Box(low, high, dtype=np.float32)
        return spaces.Box(0, 1, first.shape, np.float32)
    fits = all(
        (leaf.part.kind == "image" and image_dtype(leaf) == np.uint8)
        or (leaf.part.kind == "one-hot" and max(leaf.part.sizes) <= 256)
        or isinstance(leaf.space, spaces.MultiBinary)
        for leaf in leaves
    )
    shape = (sum(part.length for part in parts),)
    return spaces.Box(0, 255, shape, np.uint8) if fits else spaces.Box(-np.inf, np.inf, shape, np.float32)


def _follow(value: Any, path: tuple[Any, ...]) -> Any:
    """Return the part of an observation at a path."""
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError) as error:
            raise BadObservation(f"an observation without the part {name_of(path)!r} of its space") from error
    return value


def _row(space: Any, value: Any, index: int, texts: frozenset[Any], path: tuple[Any, ...] = ()) -> Any:
    """Return one observation of a batch; without the `texts` of a Dict, given by path, which may be missing."""
    if isinstance(space, spaces.Dict):
        read = {key: part for key, part in space.spaces.items() if (*path, key) not in texts}
        return {key: _row(part, value[key], index, texts, (*path, key)) for key, part in read.items()}
    if isinstance(space, spaces.Tuple):
        parts = enumerate(zip(space, value, strict=True))
        return tuple(_row(part, item, index, texts, (*path, place)) for place, (part, item) in parts)
    return np.asarray(value)[index]
