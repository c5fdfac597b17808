"""Exact resizing by area: each new pixel is the mean of the old pixels it covers.

Along one axis, from n pixels to m, new pixel i covers [i n/m, (i+1) n/m). In units of 1/m the overlaps are
integers that sum to n, so resizing is two products with small integer matrices. float32 (float64 for large frames)
represents every sum of bytes exactly: the result has the same bytes on every machine, for any order of additions.

The matrices are zero but for a band, so few new pixels at a time are computed, each from the old ones that they cover.
Products that small also stay below the size at which numpy's OpenBLAS divides a product among its threads, which wait
for each other in busy loops and take the cores from the emulators and the networks.
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


BLOCK = 16
"""New pixels along one axis that are computed at a time."""


def bands(weights: NDArray[Any]) -> list[tuple[slice, slice, NDArray[Any]]]:
    """Return (new pixels, old pixels that they cover, their weights) for each `BLOCK` of new pixels of [new, old]."""
    found = []
    for start in range(0, len(weights), BLOCK):
        block = weights[start : start + BLOCK]
        covered = np.flatnonzero(block.any(axis=0))
        old = slice(int(covered[0]), int(covered[-1]) + 1)
        found.append((slice(start, start + len(block)), old, np.ascontiguousarray(block[:, old])))
    return found


class AreaResize:
    """Frames [..., H, W] to [..., h, w] of the same type, by area: uint8 rounded to nearest (ties to even), or floats.

    When it shrinks, it agrees with OpenCV's INTER_AREA within one gray level. When it enlarges, a new pixel is the mean
    of at most two old pixels per axis; OpenCV interpolates.
    """

    def __init__(self, old: tuple[int, int], new: tuple[int, int]) -> None:
        area = old[0] * old[1]
        self._dtype = np.dtype(np.float32 if 255 * area < _EXACT else np.float64)
        self._new = new
        self._rows = bands(area_weights(old[0], new[0]).astype(self._dtype))
        columns = bands(area_weights(old[1], new[1]).astype(self._dtype))
        self._columns = [(pixels, covered, np.ascontiguousarray(weights.T)) for pixels, covered, weights in columns]
        self._area = self._dtype.type(area)

    def __call__(self, frames: NDArray[Any]) -> NDArray[Any]:
        frames_as_floats, outer = frames.astype(self._dtype), frames.shape[:-2]
        fewer_rows = np.empty((*outer, self._new[0], frames.shape[-1]), self._dtype)
        for new, old, weights in self._rows:
            np.matmul(weights, frames_as_floats[..., old, :], out=fewer_rows[..., new, :])
        sums = np.empty((*outer, *self._new), self._dtype)
        for new, old, weights in self._columns:
            np.matmul(fewer_rows[..., old], weights, out=sums[..., new])
        means: NDArray[Any] = sums / self._area
        return np.rint(means).astype(np.uint8) if frames.dtype == np.uint8 else means.astype(frames.dtype)
