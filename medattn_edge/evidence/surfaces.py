"""How far the surfaces of two masks are apart: 95th percentile of the Hausdorff distance, and surface Dice.

Distances are SciPy's exact Euclidean ones (Maurer's transform) between the centres of surface voxels. HD95 is the
larger of both directions' 95th percentiles, as MONAI and BraTS have it; the surface Dice is the share of both surfaces'
voxels within a tolerance (Nikolov et al., JMIR 2021, e26151), each voxel counting as one, as in MONAI without
subvoxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medattn_edge.evidence.records import SurfaceFigures

Mask = npt.NDArray[np.bool_]
PERCENTILE, VOXELS, MM = 95.0, 1.0, 2.0
_ROUNDING = 1e-6  # of a distance that is exactly the tolerance


@dataclass(frozen=True, eq=False)
class _Distances:
    """From each surface voxel of one mask to the surface of the other, and back."""

    there: npt.NDArray[Any]
    back: npt.NDArray[Any]

    def hausdorff(self, percentile: float) -> float:
        return float(max(np.percentile(self.there, percentile), np.percentile(self.back, percentile)))

    def within(self, tolerance: float) -> float:
        near = sum(int(np.count_nonzero(one <= tolerance + _ROUNDING)) for one in (self.there, self.back))
        return near / (self.there.size + self.back.size)


def surface_figures(first: Mask, second: Mask, spacing: Sequence[float], *, calibrated: bool = True) -> SurfaceFigures:
    """The distance of two masks.

    Args:
        first: (D, H, W).
        second: of the same shape.
        spacing: between voxel centres along (D, H, W), mm.
        calibrated: whether the spacing is known; without, HD95 is in pixels and nothing is said of millimetres.

    Returns:
        The figures; None where one of the masks is empty, for then there is no distance.
    """
    if not first.any() or not second.any():
        return SurfaceFigures(None, None, None)
    box = _box(first | second)
    first, second = _flat(first[box]), _flat(second[box])
    steps = [float(step) for step in spacing][3 - first.ndim :]
    surfaces = _surface(first), _surface(second)
    grid = _between(*surfaces, [1.0] * len(steps))
    world = _between(*surfaces, steps) if calibrated else grid
    return SurfaceFigures(world.hausdorff(PERCENTILE), grid.within(VOXELS), world.within(MM) if calibrated else None)


def _box(mask: Mask) -> tuple[slice, ...]:
    """Around everything, with a voxel to spare where the array has one."""
    sides = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        places = np.flatnonzero(mask.any(axis=others))
        sides.append(slice(max(0, int(places[0]) - 1), int(places[-1]) + 2))
    return tuple(sides)


def _flat(mask: Mask) -> Mask:
    """A single slice as a picture: in three dimensions all of it would be surface."""
    return mask[0] if mask.shape[0] == 1 else mask


def _surface(mask: Mask) -> Mask:
    from scipy.ndimage import binary_erosion

    return np.asarray(mask & ~binary_erosion(mask))


def _between(first: Mask, second: Mask, spacing: Sequence[float]) -> _Distances:
    from scipy.ndimage import distance_transform_edt

    to_second = distance_transform_edt(~second, sampling=spacing)
    to_first = distance_transform_edt(~first, sampling=spacing)
    return _Distances(to_second[first], to_first[second])
