"""The slices of one DICOM file: where each lies, and how its stored numbers become values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medattn_edge.io.dicom.attributes import Pairs, frame_attributes, single_frame
from medattn_edge.io.dicom.reasons import RefusedSeries
from medattn_edge.io.dicom.storage import Storage

# Of a CT: Hounsfield units, or a writer that does not say; anything else is another quantity in the shape of a CT.
_HOUNSFIELD = ("", "HU", "US", "HU_MOD")
# Of the functional groups: each is in the frame's own group, or in the one that all frames share.
_MACROS = (
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
)


@dataclass(frozen=True)
class ImagePlane:
    """One slice (DICOM PS3.3 C.7.6.2): where it lies, and how its stored numbers become values.

    Attributes:
        path: of its file.
        frame: of that file, from 0.
        sop_instance_uid: of its object.
        position: LPS mm of the centre of its first voxel.
        right: the unit step along a row.
        down: the unit step along a column.
        spacing: mm between (rows, columns).
        slope: value = stored * slope + intercept.
        intercept: of the same.
        units: of the values, "" when the header does not say.
        kinds: (keyword, value) of what tells one volume of a series from another (time, echo, kernel).
        orders: (keyword, value) of what tells volumes apart only between slices at one position.
        storage: how its voxels are stored.
    """

    path: Path = field(repr=False)
    frame: int
    sop_instance_uid: str = field(repr=False)
    position: tuple[float, ...]
    right: tuple[float, ...]
    down: tuple[float, ...]
    spacing: tuple[float, float]
    slope: float
    intercept: float
    units: str
    kinds: Pairs
    orders: Pairs
    storage: Storage


def planes_of(path: Path, dataset: Any, storage: Storage, *, enhanced: bool) -> tuple[ImagePlane, ...]:
    """The slices of a file in the order of its frames.

    Raises:
        RefusedSeries: when one has no place, no rescaling, or no description.
    """
    if not enhanced:
        place = _place(dataset, dataset, dataset)
        return (_plane(path, 0, place, _rescale(dataset, dataset), (dataset, single_frame(dataset), storage)),)
    shared = _first(dataset, "SharedFunctionalGroupsSequence")
    groups = list(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    if len(groups) != storage.frames:
        raise RefusedSeries("unreadable", f"{len(groups)} descriptions of {storage.frames} frames")
    planes = []
    for frame, group in enumerate(groups):
        position, orientation, measures, rescale = (_first(group, name) or _first(shared, name) for name in _MACROS)
        place = _place(position, orientation, measures)
        attributes = frame_attributes(shared, group, frame + 1)
        planes.append(_plane(path, frame, place, _rescale(dataset, rescale), (dataset, attributes, storage)))
    return tuple(planes)


_Place = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]


def _plane(
    path: Path,
    frame: int,
    place: _Place,
    rescale: tuple[float, float, str],
    rest: tuple[Any, tuple[Pairs, Pairs], Storage],
) -> ImagePlane:
    position, directions, spacing = place
    dataset, attributes, storage = rest
    return ImagePlane(
        path,
        frame,
        str(dataset.SOPInstanceUID),
        position,
        directions[:3],
        directions[3:],
        (spacing[0], spacing[1]),
        *rescale,
        *attributes,
        storage,
    )


def _place(position: Any, orientation: Any, measures: Any) -> _Place:
    """Position, directions and spacing, each from the item that holds it."""
    directions = _numbers(orientation, "ImageOrientationPatient", 6)
    spacing = _numbers(measures, "PixelSpacing", 2)
    right, down = directions[:3], directions[3:]
    if any(abs(math.hypot(*step) - 1) > 1e-3 for step in (right, down)) or abs(_dot(right, down)) > 1e-3:
        raise RefusedSeries("no_geometry", f"rows and columns along {right} and {down}, not orthonormal")
    if not all(1e-3 < step < 1e3 for step in spacing):
        raise RefusedSeries("no_geometry", f"a pixel spacing of {spacing} mm")
    unit = tuple(value / math.hypot(*step) for step in (right, down) for value in step)
    return _numbers(position, "ImagePositionPatient", 3), unit, spacing


def _rescale(dataset: Any, item: Any) -> tuple[float, float, str]:
    """Slope, intercept and the name of the units; 1 and 0 for an MR image, whose numbers have none."""
    modality = str(dataset.get("Modality") or "")
    if "ModalityLUTSequence" in dataset:
        raise RefusedSeries("no_rescale", "values through a lookup table")
    missing = item is None or item.get("RescaleSlope") is None or item.get("RescaleIntercept") is None
    if missing and modality != "MR":
        raise RefusedSeries("no_rescale", "no rescale slope and intercept")
    if missing:
        return 1.0, 0.0, ""
    slope, intercept = float(item.RescaleSlope), float(item.RescaleIntercept)
    units = str(item.get("RescaleType") or "").strip().upper()
    if not (math.isfinite(slope) and math.isfinite(intercept) and slope != 0):
        raise RefusedSeries("no_rescale", f"a rescale slope of {slope:g} and intercept of {intercept:g}")
    if modality == "CT" and units not in _HOUNSFIELD:
        raise RefusedSeries("no_rescale", "CT values that are not Hounsfield units")
    return slope, intercept, units


def _numbers(item: Any, keyword: str, count: int) -> tuple[float, ...]:
    values = item.get(keyword) if item is not None else None
    numbers = tuple(float(value) for value in values) if values is not None and not isinstance(values, str) else ()
    if len(numbers) != count or not all(math.isfinite(number) and abs(number) < 1e6 for number in numbers):
        raise RefusedSeries("no_geometry", f"a slice has no {keyword} of {count} numbers")
    return numbers


def _first(item: Any, keyword: str) -> Any:
    """The first item of a sequence, None when there is none."""
    sequence = item.get(keyword) if item is not None else None
    return sequence[0] if sequence else None


def _dot(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))
