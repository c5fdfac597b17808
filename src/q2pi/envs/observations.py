"""From an environment's observation to one frame, whatever its Gymnasium space.

    Box of images (uint8, bool, or numbers from 0 to 1 or 255)      image     [C, H, W], uint8 or float32
    Box, other                                                      vector    float32 [D], flattened
    Discrete, MultiDiscrete, and nests of nothing else              one-hot   int64 [D], indices from 0
    MultiBinary                                                     vector    float32 [D]
    Dict, Tuple, nested; any space with an action mask              packed    float32 or uint8 [F], see `layout`
    Text within a Dict or a Tuple                                   left out, see `ObservationReader.unread`

An image is a Box with two axes for height and width, at least 3 pixels each. The axis of the channels is the one that
has 1, 3 or 4 entries, else the smaller one of the first and the last, else the last. Without it (a matrix), a Box of
bytes is a gray image, and a Box of other numbers is one from 8 pixels on. A fourth axis before the others is a stack
of frames.

Values are cast if nothing is lost; else, and if the shape differs, `BadObservation` names what was returned.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium import spaces

from q2pi.envs.errors import first_line
from q2pi.envs.interaction import described
from q2pi.envs.layout import BYTE, Part
from q2pi.envs.resize import AreaResize
from q2pi.errors import UserError
from q2pi.types import Array

if TYPE_CHECKING:
    from q2pi.envs.spec import EnvSpec

SMALLEST_IMAGE = 3
"""Least height and width of an image, in pixels: the size of the smallest convolution."""
SMALLEST_MATRIX = 8
"""Least height and width of a matrix of numbers that counts as a gray image; a matrix of bytes always does."""
SHOWN = 4
"""Largest number of values that a message shows."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in gray (ITU-R BT.601), as ALE has them."""
_BYTES: np.dtype[Any] = np.dtype(np.uint8)
_FLOATS: np.dtype[Any] = np.dtype(np.float32)


class BadObservation(ValueError):
    """An environment returned an observation or a mask that its spaces do not contain; the message says what."""

    index = 0
    """Index of the observation among those that were converted together."""


class _Leaf(NamedTuple):
    """One part, and how to get it from an observation."""

    part: Part
    path: tuple[Any, ...]
    """Keys and positions that lead to it in nested spaces."""
    space: Any
    encode: Callable[[Any], Array]
    """Value -> array of the part's shape."""


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
        self._leaves = [_leaf(spec, path, part) for path, part in nested if not isinstance(part, spaces.Text)]
        self.unread = tuple(_name(path) for path, part in nested if isinstance(part, spaces.Text))
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
            leaves = [(_array(_follow(value, leaf.path)), leaf.space) for leaf in self._leaves]
        except BadObservation:
            return None
        if all(array.shape == _shape(space) for array, space in leaves):
            return [value], True
        first = leaves[0][0]
        if not all(array.ndim and array.shape == (len(first), *_shape(space)) for array, space in leaves):
            return None
        return [_row(self.space, value, index) for index in range(len(first))], False

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
        if array.dtype.kind not in "iu" or array.shape[1:] != _shape(self.space):
            return None
        indices: Array = (array - self.space.start).astype(np.int64, copy=False).reshape(len(array), -1)
        return indices if ((indices >= 0) & (indices <= self.frame_space.high)).all() else None


def action_mask(env: Any, info: Any, size: int, terminated: bool = False) -> Array | None:
    """Return the mask [A] of the actions that are allowed now, True for allowed, or None if there is none.

    It is `info["action_mask"]`, else what `env.unwrapped.action_masks()` returns. After termination no action follows,
    so all are allowed.

    Raises:
        BadObservation: another shape, other values than 0 and 1, or no allowed action.
    """
    if terminated:
        return np.ones(size, np.bool_)
    value = info.get("action_mask") if isinstance(info, Mapping) else None
    if value is None:
        method = getattr(env.unwrapped, "action_masks", None)
        if not callable(method):
            return None
        try:
            value = method()
        except Exception as error:
            raise BadObservation(f"no action mask: action_masks raised {first_line(error)}") from error
    mask = _array(value)
    if mask.shape != (size,) or not ((mask == 0) | (mask == 1)).all():
        raise BadObservation(f"the action mask {_described(mask)}: it must be {size} values, 0 or 1, one per action")
    if not mask.any():
        raise BadObservation("an action mask that allows no action: an episode without actions must terminate")
    return mask.astype(np.bool_)


def _flattened(env_id: str, space: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    """Return (path, space) of the spaces that a nested space consists of, in order."""
    if isinstance(space, spaces.Dict):
        return [item for key, part in space.spaces.items() for item in _flattened(env_id, part, (*path, key))]
    if isinstance(space, spaces.Tuple):
        return [item for index, part in enumerate(space) for item in _flattened(env_id, part, (*path, index))]
    known = isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
    if known or (isinstance(space, spaces.Box) and space.dtype.kind in "fiub"):
        return [] if 0 in _shape(space) else [(path, space)]
    if path and isinstance(space, spaces.Text):
        return [(path, space)]
    name = f" {_name(path)!r}" if path else ""
    raise UserError(
        f"--env-id {env_id} has the observation{name} of type {type(space).__name__}, which no network reads: "
        "convert or remove it with an observation wrapper (Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple "
        "are read)"
    )


def _leaf(spec: "EnvSpec", path: tuple[Any, ...], space: Any) -> _Leaf:
    """Return the part of one space that is not nested."""
    name = _name(path)
    if isinstance(space, spaces.Box):
        image = _image(space)
        if image is None:
            return _Leaf(Part(name, "vector", (int(np.prod(space.shape)),)), path, space, lambda v: _numbers(v, space))
        shape, scale, encode = _preprocessed(spec, space, *image)
        return _Leaf(Part(name, "image", shape, scale=scale), path, space, encode)
    if isinstance(space, spaces.MultiBinary):
        return _Leaf(Part(name, "vector", (int(np.prod(space.shape)),)), path, space, lambda v: _bits(v, space))
    nvec = np.asarray(space.n if isinstance(space, spaces.Discrete) else space.nvec).reshape(-1)
    start = np.asarray(space.start).reshape(-1)
    sizes = tuple(int(size) for size in nvec)
    return _Leaf(Part(name, "one-hot", (len(sizes),), sizes), path, space, lambda v: _indices(v, space, nvec, start))


def _image(space: Any) -> tuple[int | None, float, np.dtype[Any]] | None:
    """Return (axis of the channels, pixel that is read as 1, dtype of frames), or None if a Box is no image."""
    low, high, kind = float(space.low.min()), float(space.high.max()), space.dtype.kind
    shape = space.shape[1:] if len(space.shape) == 4 else space.shape
    if kind == "f":
        if low != 0 or space.low.max() != 0 or high not in (1.0, BYTE) or space.high.min() != high:
            return None
        scale, dtype = high, _FLOATS
    elif low >= 0 and high <= BYTE:
        scale, dtype = BYTE if kind == "b" or high <= 0 else high, _BYTES
    else:
        return None
    if len(shape) == 2 and len(space.shape) == 2:
        is_bytes = kind == "b" or space.dtype == np.uint8
        return (None, scale, dtype) if min(shape) >= (SMALLEST_IMAGE if is_bytes else SMALLEST_MATRIX) else None
    if len(shape) != 3:
        return None
    axis = _channel_axis(shape)
    size = shape[:-1] if axis == -1 else shape[1:]
    return (axis, scale, dtype) if min(size) >= SMALLEST_IMAGE else None


def _channel_axis(shape: tuple[int, ...]) -> int:
    """Return 0 or -1, the axis of the channels of an image with three axes."""
    first, last = shape[0] in (1, 3, 4), shape[-1] in (1, 3, 4)
    if first != last:
        return 0 if first else -1
    return 0 if shape[0] < shape[-1] else -1


def _preprocessed(
    spec: "EnvSpec", space: Any, axis: int | None, scale: float, dtype: np.dtype[Any]
) -> tuple[tuple[int, int, int], float, Callable[[Any], Array]]:
    """Return (shape of a frame, pixel that is read as 1, value -> frame) of an image, with the options of the spec."""

    def channels_first(value: Any) -> Array:
        image = _pixels(value, space, dtype, scale)
        if axis is None:
            return image[None]
        image = np.moveaxis(image, -1, -3) if axis == -1 else image
        return image.reshape(-1, *image.shape[-2:])

    steps: list[Callable[[Array], Array]] = [channels_first]
    channels, height, width = channels_first(np.zeros(space.shape, space.dtype)).shape
    frames = space.shape[0] if len(space.shape) == 4 else 1
    colours = channels // frames
    if spec.grayscale and colours != 1:
        if colours not in (3, 4):
            raise UserError(f"--grayscale: {spec.env_id} has images of {colours} channels, not of 3 colours")
        channels = frames
        steps.append(lambda image: _gray(image, colours))
    if spec.crop is not None:
        top, bottom, left, right = spec.crop
        if top + bottom >= height or left + right >= width:
            crop = " ".join(map(str, spec.crop))
            raise UserError(f"--crop {crop} removes the whole {height} x {width} image of {spec.env_id}")
        window = (..., slice(top, height - bottom), slice(left, width - right))
        height, width = height - top - bottom, width - left - right
        steps.append(lambda image: image[window])
    if spec.resize is not None and spec.resize != (height, width):
        steps.append(AreaResize((height, width), spec.resize))
        height, width = spec.resize

    def encode(value: Any) -> Array:
        for step in steps:
            value = step(value)
        frame: Array = value
        return frame

    return (channels, height, width), scale, encode


def _gray(image: Array, colours: int) -> Array:
    """Return the gray of frames [K * colours, H, W] as [K, H, W]; a fourth channel (alpha) is not read."""
    frames = image.reshape(-1, colours, *image.shape[1:])[:, :3]
    gray = np.tensordot(np.array(LUMA), frames.astype(np.float64), axes=(0, 1))
    return (np.rint(gray) if image.dtype == np.uint8 else gray).astype(image.dtype)


def _frame_space(parts: tuple[Part, ...], leaves: list[_Leaf]) -> spaces.Box:
    """Return the Box of one frame."""
    first, *others = parts
    if not others:
        if first.kind == "one-hot":
            return spaces.Box(0, np.array(first.sizes, np.int64) - 1, dtype=np.int64)
        if first.kind == "image":
            dtype = _image_dtype(leaves[0])
            return spaces.Box(0, first.scale if dtype == np.float32 else 255, first.shape, dtype)
        space = leaves[0].space
        if isinstance(space, spaces.Box):
            low, high = (np.asarray(bound, np.float32).reshape(-1) for bound in (space.low, space.high))
            return spaces.Box(low, high, dtype=np.float32)
        return spaces.Box(0, 1, first.shape, np.float32)
    fits = all(
        (leaf.part.kind == "image" and _image_dtype(leaf) == np.uint8)
        or (leaf.part.kind == "one-hot" and max(leaf.part.sizes) <= 256)
        or isinstance(leaf.space, spaces.MultiBinary)
        for leaf in leaves
    )
    shape = (sum(part.length for part in parts),)
    return spaces.Box(0, 255, shape, np.uint8) if fits else spaces.Box(-np.inf, np.inf, shape, np.float32)


def _image_dtype(leaf: _Leaf) -> np.dtype[Any]:
    return _FLOATS if leaf.space.dtype.kind == "f" else _BYTES


def _pixels(value: Any, space: Any, dtype: np.dtype[Any], scale: float) -> Array:
    """Return an image as uint8, 0 or 255 if it is boolean, or as float32, in the axes of its space."""
    image = _array(value)
    if image.shape != space.shape or image.dtype.kind not in "fiub":
        raise _misfit(image, space)
    if space.dtype.kind == "b":
        if image.dtype.kind != "b" and not ((image == 0) | (image == 1)).all():
            raise _misfit(image, space)
        return image.astype(np.uint8) * np.uint8(255)
    if dtype == np.float32:
        # Rounding may exceed a bound a little; numbers up to 255 in a space up to 1 would be read 255 times too bright.
        if not (image.min() >= -0.01 * scale and image.max() <= 1.01 * scale):
            raise _misfit(image, space)
        return image.astype(np.float32)
    if image.dtype == np.uint8:
        return image
    if not (image.min() >= 0 and image.max() <= BYTE) or (image.astype(np.uint8) != image).any():
        raise _misfit(image, space)
    return image.astype(np.uint8)


def _numbers(value: Any, space: Any) -> Array:
    """Return the numbers of a Box, of MultiBinary too, flattened to float32 [D]."""
    array = _array(value)
    if array.shape != space.shape or array.dtype.kind not in "fiub":
        raise _misfit(array, space)
    return array.reshape(-1).astype(np.float32)


def _bits(value: Any, space: Any) -> Array:
    array = _numbers(value, space)
    if not ((array == 0) | (array == 1)).all():
        raise _misfit(_array(value), space)
    return array


def _indices(value: Any, space: Any, sizes: Array, start: Array) -> Array:
    """Return the values of Discrete or MultiDiscrete as indices from 0, int64 [D]."""
    array = _array(value)
    if array.shape != _shape(space) or array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise _misfit(array, space)
    indices = array.reshape(-1).astype(np.int64) - start
    if (indices + start != array.reshape(-1)).any() or (indices < 0).any() or (indices >= sizes).any():
        raise _misfit(array, space)
    return indices


def _misfit(found: Array, space: Any) -> BadObservation:
    shown = _described(found) if found.shape == _shape(space) else _object(found)
    return BadObservation(f"the observation {shown}: its space is {space}")


def _described(found: Array) -> str:
    """Return a short description of an array: its value if it is small, else its shape, type and range."""
    if found.dtype.kind not in "fiub":
        return _object(found)
    if found.size <= SHOWN:
        return f"{found.tolist()}" if found.ndim else f"{found[()]}"
    return f"an array of shape {found.shape}, {found.dtype} from {found.min():g} to {found.max():g}"


def _object(found: Array) -> str:
    return described(found if found.ndim else found.item())


def _array(value: Any) -> Array:
    """Return a value as an array; of type object if its parts have different shapes."""
    try:
        return np.asarray(value)
    except (ValueError, TypeError):
        array = np.empty((), object)
        array[()] = value
        return array


def _follow(value: Any, path: tuple[Any, ...]) -> Any:
    """Return the part of an observation at a path."""
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError) as error:
            raise BadObservation(f"an observation without the part {_name(path)!r} of its space") from error
    return value


def _row(space: Any, value: Any, index: int) -> Any:
    """Return one observation of a batch; without the texts of a Dict, which need not be given."""
    if isinstance(space, spaces.Dict):
        read = {key: part for key, part in space.spaces.items() if not isinstance(part, spaces.Text)}
        return {key: _row(part, value[key], index) for key, part in read.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_row(part, item, index) for part, item in zip(space, value, strict=True))
    return np.asarray(value)[index]


def _shape(space: Any) -> tuple[int, ...]:
    """Return the shape of a space's values, () for Discrete."""
    return () if isinstance(space, spaces.Discrete) else tuple(space.shape)


def _name(path: tuple[Any, ...]) -> str:
    """Return a path as text: "goal[0]", "camera.left"."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")
