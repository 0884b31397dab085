"""Tiling: which windows cover a scan, and how much each counts where they overlap."""

from __future__ import annotations

import itertools
import math
from functools import reduce

import numpy as np
import numpy.typing as npt

from medattn_edge.errors import UsageError
from medattn_edge.inference.resample import Floats

Window = tuple[int, int, int]  # where a window starts on each axis of the image


def gaussian(patch: tuple[int, ...], sigma: float = 1 / 8) -> npt.NDArray[np.float64]:
    """Importance of each voxel of a patch, shape *patch, 1 in the middle, never 0: a network is surest there.

    sigma is in patch sizes. After nnU-Net (Isensee et al., Nature Methods 18, 203-211, 2021).
    """
    squares = [((np.arange(size) - (size - 1) / 2) / (sigma * size)) ** 2 for size in patch]
    axes = [np.exp((square.min() - square) / 2) for square in squares]  # an even size has no voxel in the middle
    weights: npt.NDArray[np.float64] = reduce(np.multiply.outer, axes)
    return np.maximum(weights, 1e-12, out=weights)


def starts(size: int, patch: int, overlap: float) -> list[int]:
    """Evenly spread starts of windows that cover an axis: the first 0, the last size - patch; only 0 on a short axis.

    The step is at most patch * (1 - overlap), but at least one voxel. Raises UsageError unless 0 <= overlap < 1.
    """
    if not 0 <= overlap < 1:
        raise UsageError(f"an overlap of {overlap:g}", expected="0 <= overlap < 1", hint="--overlap 0.5")
    span = size - patch
    if span <= 0:
        return [0]
    step = max(1, math.floor(patch * (1 - overlap) + 1e-9))  # 10 * (1 - 0.8) is a little less than 2
    count = math.ceil(span / step)
    return [index * span // count for index in range(count + 1)]


EVERY_CHANNEL = (slice(None),)  # before a place in space, in an index


class Tiling:
    """Windows over an image of three axes; a 2-D patch tiles every slice along the first axis.

    Attributes:
        shape: of the image.
        patch: three sizes, the first 1 for a 2-D network.
        windows: in the order of their starts, first axis outermost.
        size: the voxels of the image that a window covers, less than the patch where the image is smaller; then the
            image lies in the middle of the patch, at `inside`.
        inside: where the image lies in the patch.
    """

    def __init__(self, shape: tuple[int, ...], patch: tuple[int, ...], overlap: float) -> None:
        self.shape = shape
        self.patch = (1,) * (3 - len(patch)) + tuple(patch)
        grids = [starts(size, window, overlap) for size, window in zip(shape, self.patch, strict=True)]
        self.windows: list[Window] = [(d, h, w) for d, h, w in itertools.product(*grids)]
        self.size = tuple(map(min, shape, self.patch))
        margins = [(window - size) // 2 for window, size in zip(self.patch, self.size, strict=True)]
        self.inside = tuple(slice(margin, margin + size) for margin, size in zip(margins, self.size, strict=True))
        self._weights = [_axis_weights(*axis) for axis in zip(shape, self.size, grids, strict=True)]

    def background(self, image: Floats) -> Floats:
        """(C, 1, 1, 1): what surrounds an image that is smaller than the patch, each channel's minimum."""
        lowest: Floats = image.min(axis=(1, 2, 3), keepdims=True)
        return lowest

    def read(self, image: Floats, window: Window, patch: Floats) -> None:
        """Copy a window of an image (C, *shape) into a patch (C, *patch), whose margins are not written."""
        patch[EVERY_CHANNEL + self.inside] = image[EVERY_CHANNEL + self.area(window)]

    def area(self, window: Window) -> tuple[slice, ...]:
        """Where a window lies in the image."""
        return tuple(slice(start, start + size) for start, size in zip(window, self.size, strict=True))

    def weights(self, window: Window, out: Floats | None = None) -> Floats | None:
        """float32, shape `size`: the window's weight at each voxel, or None when it overlaps no other window.

        The weights of all windows at one voxel add up to 1, so that sums need no division. This is the Gaussian average
        as usual: starts and Gaussian are both separable, and so is the sum to divide by. out: where to write them.
        """
        d, h, w = (axis[start] for axis, start in zip(self._weights, window, strict=True))
        if d.min() == h.min() == w.min() == 1:
            return None
        product: Floats = np.multiply(d[:, None, None] * h[:, None], w, out=out)
        return product


def _axis_weights(length: int, size: int, grid: list[int]) -> dict[int, Floats]:
    """Per start, the weight of each voxel along one axis; exactly 1 where no other window comes."""
    bell, total = gaussian((size,)), np.zeros(length)
    for start in grid:
        total[start : start + size] += bell
    return {start: (bell / total[start : start + size]).astype(np.float32) for start in grid}
