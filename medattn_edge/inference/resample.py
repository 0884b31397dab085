"""Separable linear interpolation between grids that share their centre."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Positions = npt.NDArray[np.float64]


def positions(size: int, out: int, step: float) -> Positions:
    """Where `out` samples, `step` voxels apart, lie on an axis of `size` voxels with the same centre; shape (out,).

    In voxels of that axis, 0 the centre of the first, clipped to its ends: a sample beyond them repeats the last voxel.
    Swap the sizes and invert the step for the way back.
    """
    offsets = np.arange(out, dtype=np.float64) + 0.5 - out / 2
    clipped: Positions = np.clip(offsets * step + size / 2 - 0.5, 0, size - 1)
    return clipped


def resample(array: npt.NDArray[Any], samples: Mapping[int, Positions]) -> Floats:
    """The float32 array interpolated linearly at samples[axis] along each of those axes; the others stay untouched."""
    # The axes that shrink come first, so that the intermediate is never larger than the larger end. Of two alike, the
    # later one: gathering along the innermost axis is the slowest, so it should see the fewest voxels.
    for axis in sorted(samples, key=lambda axis: (samples[axis].size / array.shape[axis], -axis)):
        array = _along(array, axis, samples[axis])
    return array


def between(below: Floats, above: Floats, share: np.float32 | Floats) -> Floats:
    """below + share * (above - below), written into `above`, which must be the caller's own."""
    with np.errstate(invalid="ignore", over="ignore"):  # logits that are not finite stay so and are reported later
        np.subtract(above, below, out=above)
        np.multiply(above, share, out=above)
        np.add(above, below, out=above)
    return above


def _along(array: Floats, axis: int, where: Positions) -> Floats:
    low = where.astype(np.intp)  # rounds down: positions are not negative
    high = np.minimum(low + 1, array.shape[axis] - 1)
    share = (where - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(array.ndim)])
    return between(np.take(array, low, axis), np.take(array, high, axis), share)
