"""One space that is not nested as one part of a frame: what it is read as, and how its values are encoded.

An image is a Box with two axes for height and width, at least 3 pixels each. The axis of the channels is the one that
has 1, 3 or 4 entries, else the smaller one of the first and the last, else the last. Without it (a matrix), a Box of
bytes is a gray image, and a Box of other numbers is one from 8 pixels on. A fourth axis before the others is a stack
of frames.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium import spaces

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


class Leaf(NamedTuple):
    """One part, and how to get it from an observation."""

    part: Part
    path: tuple[Any, ...]
    """Keys and positions that lead to it in nested spaces."""
    space: Any
    encode: Callable[[Any], Array]
    """Value -> array of the part's shape."""


def leaf_of(spec: "EnvSpec", path: tuple[Any, ...], space: Any) -> Leaf:
    """Return the part of one space that is not nested."""
    name = name_of(path)
    if isinstance(space, spaces.Box):
        image = _image(space)
        if image is None:
            return Leaf(Part(name, "vector", (int(np.prod(space.shape)),)), path, space, lambda v: _numbers(v, space))
        shape, scale, encode = _preprocessed(spec, space, *image)
        return Leaf(Part(name, "image", shape, scale=scale), path, space, encode)
    if isinstance(space, spaces.MultiBinary):
        return Leaf(Part(name, "vector", (int(np.prod(space.shape)),)), path, space, lambda v: _bits(v, space))
    nvec = np.asarray(space.n if isinstance(space, spaces.Discrete) else space.nvec).reshape(-1)
    start = np.asarray(space.start).reshape(-1)
    sizes = tuple(int(size) for size in nvec)
    return Leaf(Part(name, "one-hot", (len(sizes),), sizes), path, space, lambda v: _indices(v, space, nvec, start))


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


def image_dtype(leaf: Leaf) -> np.dtype[Any]:
    return _FLOATS if leaf.space.dtype.kind == "f" else _BYTES


def _pixels(value: Any, space: Any, dtype: np.dtype[Any], scale: float) -> Array:
    """Return an image as uint8, 0 or 255 if it is boolean, or as float32, in the axes of its space."""
    image = array_of(value)
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
    array = array_of(value)
    if array.shape != space.shape or array.dtype.kind not in "fiub":
        raise _misfit(array, space)
    return array.reshape(-1).astype(np.float32)


def _bits(value: Any, space: Any) -> Array:
    array = _numbers(value, space)
    if not ((array == 0) | (array == 1)).all():
        raise _misfit(array_of(value), space)
    return array


def _indices(value: Any, space: Any, sizes: Array, start: Array) -> Array:
    """Return the values of Discrete or MultiDiscrete as indices from 0, int64 [D]."""
    array = array_of(value)
    if array.shape != shape_of(space) or array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise _misfit(array, space)
    indices = array.reshape(-1).astype(np.int64) - start
    if (indices + start != array.reshape(-1)).any() or (indices < 0).any() or (indices >= sizes).any():
        raise _misfit(array, space)
    return indices


def _misfit(found: Array, space: Any) -> BadObservation:
    shown = described_array(found) if found.shape == shape_of(space) else _object(found)
    return BadObservation(f"the observation {shown}: its space is {space}")


def described_array(found: Array) -> str:
    """Return a short description of an array: its value if it is small, else its shape, type and range."""
    if found.dtype.kind not in "fiub":
        return _object(found)
    if found.size <= SHOWN:
        return f"{found.tolist()}" if found.ndim else f"{found[()]}"
    return f"an array of shape {found.shape}, {found.dtype} from {found.min():g} to {found.max():g}"


def _object(found: Array) -> str:
    return described(found if found.ndim else found.item())


def array_of(value: Any) -> Array:
    """Return a value as an array; of type object if its parts have different shapes."""
    try:
        return np.asarray(value)
    except (ValueError, TypeError):
        array = np.empty((), object)
        array[()] = value
        return array


def shape_of(space: Any) -> tuple[int, ...]:
    """Return the shape of a space's values, () for Discrete."""
    return () if isinstance(space, spaces.Discrete) else tuple(space.shape)


def name_of(path: tuple[Any, ...]) -> str:
    """Return a path as text: "goal[0]", "camera.left"."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")
