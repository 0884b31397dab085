"""Slices to one regular grid, or the reason why not. Nothing is interpolated, sorted by number, or guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medattn_edge.io.dicom.planes import ImagePlane
from medattn_edge.io.dicom.reasons import RefusedSeries
from medattn_edge.io.dicom.volumes import SAME_POSITION, volumes_of
from medattn_edge.volume import Array

_SAME_DIRECTION = 1e-3  # of a unit vector
_SAME_SPACING = 1e-4  # of the pixel spacing
_EQUAL_GAPS = 0.01, 0.02  # of a gap, and mm: positions are written with two decimals
_STRAIGHT = 0.1  # degrees between the stack and the normal
_BESIDE = 0.25  # of a voxel, that a slice may lie off the line of the others


@dataclass(frozen=True)
class Grid:
    """Slices that form one regular grid.

    Attributes:
        planes: in slice order, along the normal.
        affine: a Volume's, of (D, H, W) = slices, rows, columns.
    """

    planes: tuple[ImagePlane, ...]
    affine: Array


def grid_of(planes: Sequence[ImagePlane], volume: int = 0) -> Grid:
    """The grid that the slices of one series form.

    Args:
        planes: in any order.
        volume: which of several volumes, from 1; 0 for the only one.

    Raises:
        RefusedSeries: when they form none.
    """
    planes = volumes_of(planes).chosen(volume)
    _check_alike(planes)
    if len(planes) < 2:
        raise RefusedSeries("single_slice", "1 slice")
    first = planes[0]
    normal = np.cross(first.right, first.down)
    positions = np.array([plane.position for plane in planes])
    # Equal heights are refused below; the name makes the order, and so the message, the same on every host.
    heights = positions @ normal
    order = sorted(range(len(planes)), key=lambda index: (heights[index], planes[index].sop_instance_uid, index))
    _check_gaps(np.diff(heights[order]))
    step = _straight_step(positions[order], normal, min(first.spacing))
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = np.array(first.down) * first.spacing[0]
    affine[:3, 2] = np.array(first.right) * first.spacing[1]
    affine[:3, 3] = positions[order[0]]
    affine.setflags(write=False)
    return Grid(tuple(planes[index] for index in order), affine)


def _check_alike(planes: Sequence[ImagePlane]) -> None:
    """Sizes, spacing, units and directions are those of the first slice."""
    first = planes[0]
    for number, plane in enumerate(planes[1:], start=2):
        size, other = ((p.storage.rows, p.storage.columns) for p in (plane, first))
        if size != other:
            raise RefusedSeries("mixed_series", f"slices of {other[0]}x{other[1]} and of {size[0]}x{size[1]} pixels")
        if not np.allclose(plane.spacing, first.spacing, rtol=_SAME_SPACING, atol=0):
            raise RefusedSeries("mixed_series", f"pixel spacings of {first.spacing} and {plane.spacing} mm")
        if plane.units != first.units or plane.storage.photometric != first.storage.photometric:
            raise RefusedSeries("mixed_series", "slices of different units or polarity")
        if np.abs(np.subtract(plane.right + plane.down, first.right + first.down)).max() > _SAME_DIRECTION:
            raise RefusedSeries("mixed_orientation", f"slice {number} of {len(planes)} points elsewhere")


def _check_gaps(gaps: Array) -> None:
    """Refuse copies, holes and unequal distances; the smallest gap is the unit that holes are counted in."""
    copies = int((gaps < SAME_POSITION).sum())
    if copies:
        raise RefusedSeries("duplicate_position", f"{copies} of {len(gaps) + 1} slices lie where another one lies")
    unit = float(gaps.min())
    counts = np.maximum(np.rint(gaps / unit), 1)
    off = np.abs(gaps - counts * unit)
    share, least = _EQUAL_GAPS
    if (off > counts * unit * share + least).any():
        raise RefusedSeries("non_uniform_spacing", f"distances of {unit:.3f} to {gaps.max():.3f} mm")
    if counts.max() > 1:
        missing, place = int((counts - 1).sum()), int(counts.argmax()) + 1
        raise RefusedSeries("missing_slice", f"{missing} missing, the first gap after slice {place} of {len(gaps) + 1}")


def _straight_step(positions: Array, normal: Array, pixel: float) -> Array:
    """The mean step of sorted positions, after checking that all lie on one line along the normal."""
    span = positions[-1] - positions[0]
    step: Array = span / (len(positions) - 1)
    line = positions[0] + np.arange(len(positions))[:, None] * step
    off = positions - line
    along = off @ normal
    gap = float(step @ normal)
    if np.abs(along).max() > _BESIDE * gap:
        raise RefusedSeries("non_uniform_spacing", f"a slice lies {np.abs(along).max():.3f} mm from its place")
    beside = np.linalg.norm(off - along[:, None] * normal, axis=1)
    if beside.max() > _BESIDE * pixel:
        raise RefusedSeries("shifted_slice", f"slice {int(beside.argmax()) + 1} lies {beside.max():.2f} mm beside")
    across = float(np.linalg.norm(span - (span @ normal) * normal))
    degrees = float(np.degrees(np.arctan2(across, span @ normal)))
    if degrees > _STRAIGHT and across > _BESIDE * pixel:
        raise RefusedSeries("gantry_tilt", f"the stack leans by {degrees:.1f} degrees")
    return step
