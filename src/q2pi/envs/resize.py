"""Exact resizing by area: each new pixel is the mean of the old pixels it covers.

Along one axis, from n pixels to m, new pixel i covers [i n/m, (i+1) n/m). In units of 1/m the overlaps are
integers that sum to n, so resizing is two products with small integer matrices. float32 (float64 for large frames)
represents every sum of bytes exactly: the result has the same bytes on every machine, for any order of additions.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_EXACT = 2**24
"""float32 represents all integers up to this one exactly."""


def area_weights(old: int, new: int) -> NDArray[np.float32]:
    """Return [new, old] the overlaps of new and old pixels along one axis, in units of 1/new; rows sum to old."""
    new_edges = np.arange(new + 1) * old
    old_edges = np.arange(old + 1) * new
    ends = np.minimum(new_edges[1:, None], old_edges[None, 1:])
    starts = np.maximum(new_edges[:-1, None], old_edges[None, :-1])
    overlaps: NDArray[np.float32] = np.maximum(ends - starts, 0).astype(np.float32)
    return overlaps


class AreaResize:
    """Frames [..., H, W] to [..., h, w] of the same type, by area: uint8 rounded to nearest (ties to even), or floats.

    When it shrinks, it agrees with OpenCV's INTER_AREA within one gray level. When it enlarges, a new pixel is the mean
    of at most two old pixels per axis; OpenCV interpolates.
    """

    def __init__(self, old: tuple[int, int], new: tuple[int, int]) -> None:
        area = old[0] * old[1]
        self._dtype = np.dtype(np.float32 if 255 * area < _EXACT else np.float64)
        self._rows: NDArray[Any] = area_weights(old[0], new[0]).astype(self._dtype)
        self._columns: NDArray[Any] = np.ascontiguousarray(area_weights(old[1], new[1]).T, self._dtype)
        self._area = self._dtype.type(area)

    def __call__(self, frames: NDArray[Any]) -> NDArray[Any]:
        means: NDArray[Any] = self._rows @ frames.astype(self._dtype) @ self._columns / self._area
        return np.rint(means).astype(np.uint8) if frames.dtype == np.uint8 else means.astype(frames.dtype)
