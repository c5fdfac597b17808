"""What an observation consists of: images, vectors, indices and an action mask, as networks read them.

An observation of one part is the part's frame itself: an image [C, H, W], a vector [D] or indices [D]. Several parts
are packed into one vector, in their order, and the action mask comes last:

    Dict(camera, speed), mask      parts   camera: image 3 x 8 x 8   speed: vector 2   mask: 4
    frame [198]                            0 ... 191                 192, 193          194 ... 197

A stack of K frames of one part is concatenated along the first axis; K packed frames are K vectors, one after another.
So replay, rollouts and checkpoints store frames of one shape whatever the space, and a mask travels with its
observation. Only the mask of the newest frame counts: the last entries of an observation.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["image", "vector", "one-hot", "mask"]
BYTE = 255.0


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an observation."""

    name: str
    """Its place in the observation, such as "camera" or "goal[0]"; "" if the observation is one space."""
    kind: Kind
    shape: tuple[int, ...]
    """Of one frame: an image [C, H, W], a vector [D], indices [D] (one-hot), or an action mask [A], see `masks`."""
    sizes: tuple[int, ...] = ()
    """One-hot: the number of values of each index."""
    scale: float = BYTE
    """Image: the pixel that the network reads as 1."""

    @property
    def length(self) -> int:
        """Entries in a packed frame."""
        return math.prod(self.shape)

    @property
    def width(self) -> int:
        """Entries that the network reads, with each index as a one-hot vector."""
        return sum(self.sizes) if self.kind == "one-hot" else self.length


@dataclass(frozen=True)
class Layout:
    """The parts of a stacked observation.

    Args:
        parts: of one frame; an action mask comes last.
        stack: frames per observation.
    """

    parts: tuple[Part, ...]
    stack: int = 1

    @classmethod
    def of_shape(cls, shape: tuple[int, ...], stack: int = 1) -> "Layout":
        """Return the layout of images [C, H, W] of bytes, or of vectors [D]."""
        return cls((Part("", "image" if len(shape) == 3 else "vector", shape),), stack)

    @property
    def is_packed(self) -> bool:
        """Whether a frame is a vector of several parts."""
        return len(self.parts) > 1

    @property
    def images(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.kind == "image")

    @property
    def mask_size(self) -> int:
        """Number of actions of the mask; 0 without one."""
        last = self.parts[-1]
        return last.length if last.kind == "mask" else 0

    @property
    def frame_length(self) -> int:
        """Entries of a packed frame."""
        return sum(part.length for part in self.parts)

    def vector_entries(self) -> Any:
        """Return which entries of a stacked observation belong to vectors: bool [K * F], for normalisation."""
        frame = np.concatenate([np.full(part.length, part.kind == "vector") for part in self.parts])
        return np.tile(frame, self.stack)


def plain_part(frame_space: Any) -> Part:
    """Return the only part of a frame space: an image of bytes, a vector, or indices (int64) from 0 to `high`."""
    if np.dtype(frame_space.dtype) == np.int64:
        return Part("", "one-hot", frame_space.shape, tuple(int(high) + 1 for high in frame_space.high))
    return Layout.of_shape(frame_space.shape).parts[0]
