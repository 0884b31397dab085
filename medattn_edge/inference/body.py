"""Which windows see nothing but the air around the body, as the scan's own voxels say."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from medattn_edge.inference.preprocess import Prepared
from medattn_edge.inference.resample import positions
from medattn_edge.inference.tiling import Tiling
from medattn_edge.volume import Volume

AIR_HU = -500.0  # half lines between air and water
_SPARE = 8  # a window is widened by one part in this many on each side: the deviation of its Gaussian weights

Mask = npt.NDArray[np.bool_]


def windows_of_air(prepared: Prepared, tiling: Tiling) -> list[int]:
    """The indices of the tiling's windows that lie outside the body, with an eighth of their size to spare all around.

    Careful rather than keen: a window that sees any voxel of `hull` is not among them.
    """
    lps = prepared.oriented.to_lps()  # the body is closed in axial slices, whichever a network sees
    seen = prepared.in_network_order(lps.with_voxels(hull(lps)).like(prepared.oriented).voxels)
    places = []
    # One axis after the other: every voxel is looked at about twice, however much the windows overlap.
    for axis, size in enumerate(tiling.size):
        starts = sorted({window[axis] for window in tiling.windows})
        spans = (_span(prepared, axis, start, size) for start in starts)
        parts = [seen[(slice(None),) * axis + (span,)].any(axis) for span in spans]
        seen = np.stack(parts, axis)
        places.append({start: place for place, start in enumerate(starts)})
    d, h, w = places
    return [index for index, (z, y, x) in enumerate(tiling.windows) if not seen[d[z], h[y], w[x]]]


def hull(volume: Volume) -> Mask:
    """Whether each voxel (D, H, W) of a scan in LPS order may belong to the body.

    In a scan with voxels below AIR_HU, which can only be HU, what counts is AIR_HU or more; in any other all but its
    lowest value, so that noise is never taken for air. A voxel is outside when nothing that counts lies between it and
    an edge of its axial slice, straight to the left, right, front or back: lungs and bowel gas are inside.
    """
    channels = volume.voxels[None] if volume.voxels.ndim == 3 else volume.voxels
    inside = np.zeros(volume.shape, bool)
    for channel in channels:
        lowest = channel.min()
        in_hu = bool(lowest < AIR_HU)
        for plane, into in zip(channel, inside, strict=True):
            into |= plane >= AIR_HU if in_hu else plane > lowest
    for plane in inside:
        plane[...] = np.logical_and.reduce([_passed(plane, axis, step) for axis in (0, 1) for step in (1, -1)])
    return inside


def _passed(plane: Mask, axis: int, step: int) -> Mask:
    """Whether anything is met on the way to a voxel, or at it: step 1 from the start of the axis, -1 from its end."""
    lines = plane if axis == 0 else plane.T
    met: Mask = np.logical_or.accumulate(lines[::step])[::step]
    return met if axis == 0 else met.T


def _span(prepared: Prepared, axis: int, start: int, size: int) -> slice:
    """The voxels of the scan that a window sees along an axis of the image, and a spare part on each side."""
    length, spare = prepared.image.shape[1 + axis], size // _SPARE
    scan = prepared.oriented.shape[prepared.order[axis]]
    where = positions(scan, length, prepared.steps[axis])
    first, last = where[max(0, start - spare)], where[min(length, start + size + spare) - 1]
    return slice(math.floor(first), math.ceil(last) + 1)
