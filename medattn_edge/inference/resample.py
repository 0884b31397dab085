"""Separable linear interpolation between grids that weight their centre."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Positions = npt.NDArray[np.float64]
_BLOCK_BYTES = 2**20


def positions(size: int, out: int, step: float) -> Positions:
    """Where `out` samples, `step` voxels apart, lie on an axis of `size` voxels with the same centre; shape (out,).

    In voxels of that axis, 0 the centre of the first, clipped to its ends: a sample beyond them repeats the last voxel.
    Swap the sizes and invert the step for the way back.
    """
    offsets = np.arange(out, dtype=np.float64) + 0.5 - out / 2
    clipped: Positions = np.clip(offsets * step + size / 2 - 0.5, 0, size - 1)
    return clipped


def resample(array: npt.NDArray[Any], samples: Mapping[int, Positions]) -> Floats:
    """The float32 array interpolated linearly at samples[axis] along each of those axes; the others stay untouched.

    Memory: the array, the result and one block between them for each axis in turn.
    """
    for axis in by_ratio(samples, array.shape):
        array = _along(array, axis, samples[axis])
    return array


def by_ratio(samples: Mapping[int, Positions], shape: tuple[int, ...]) -> list[int]:
    """The axes in the order in which they are resampled.

    Those that shrink come first, so that the intermediate is never larger than the larger end. Of two alike, the later
    one: gathering along the innermost axis is the slowest, so it should see the fewest voxels.
    """
    return sorted(samples, key=lambda axis: (samples[axis].size / shape[axis], -axis))


def between(below: Floats, above: Floats, weight: np.float32 | Floats) -> Floats:
    """below + weight * (above - below), written into `above`, which must be the caller's own."""
    with np.errstate(invalid="ignore", over="ignore"):  # logits that are not finite stay so and are reported later
        np.subtract(above, below, out=above)
        np.multiply(above, weight, out=above)
        np.add(above, below, out=above)
    return above


def _along(array: Floats, axis: int, where: Positions) -> Floats:
    low = where.astype(np.intp)  # rounds down: positions are not negative
    high = np.minimum(low + 1, array.shape[axis] - 1)
    weight = (where - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(array.ndim)])
    out = np.empty((*array.shape[:axis], where.size, *array.shape[axis + 1 :]), np.float32)
    # In blocks along the first other axis that has some length, so that what lies between is a block and no image.
    others = [i for i in range(array.ndim) if i != axis]
    by = next((i for i in others if array.shape[i] > 1), others[0] if others else None)
    step = 1 if by is None else max(1, _BLOCK_BYTES * array.shape[by] // max(1, out.nbytes))
    for start in range(0, 1 if by is None else array.shape[by], step):
        part = () if by is None else (slice(None),) * by + (slice(start, start + step),)
        out[part] = between(np.take(array[part], low, axis), np.take(array[part], high, axis), weight)
    return out
