"""Exact resizing by area: each new pixel is the mean of the old pixels it covers.

Along one axis, from n pixels to m, new pixel i covers [i n/m, (i+1) n/m). In units of 1/m the overlaps are
integers that sum to n, so resizing is two products with small integer matrices. float32 represents every sum exactly:
the result has the same bytes on every machine, for any order of additions.
"""

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
    """Frames [..., H, W] uint8 to [..., h, w] uint8, by area, rounded to nearest (ties to even).

    When it shrinks, it agrees with OpenCV's INTER_AREA within one gray level. When it enlarges, a new pixel is the mean
    of at most two old pixels per axis; OpenCV interpolates.

    Raises:
        ValueError: old frames too large for exact sums.
    """

    def __init__(self, old: tuple[int, int], new: tuple[int, int]) -> None:
        area = old[0] * old[1]
        if 255 * area >= _EXACT:
            raise ValueError(f"frames of {old[0]} x {old[1]} pixels are too large for exact float32 sums")
        self._rows = area_weights(old[0], new[0])
        self._columns = area_weights(old[1], new[1]).T.copy()
        self._area = np.float32(area)

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        sums = self._rows @ frames.astype(np.float32) @ self._columns
        means: NDArray[np.uint8] = np.rint(sums / self._area).astype(np.uint8)
        return means
