"""Probabilities as a DICOM Parametric Map, through highdicom: float32, for each label, on the series' own slices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from medattn_edge.atomic import replacing
from medattn_edge.errors import InputError, MissingDependency, UsageError
from medattn_edge.io.dicom.derived import MANUFACTURER, complete, software_versions
from medattn_edge.io.dicom.seg import check_frame_of_reference
from medattn_edge.io.dicom.series import Series
from medattn_edge.io.dicom.source import lenient, read_source
from medattn_edge.io.dicom.uids import Algorithm, Identity
from medattn_edge.volume import Volume

_MOST_BYTES: Final = 2**32 - 2  # of the pixels of a DICOM object: their length has 32 bits, and is even


@dataclass(frozen=True)
class ParametricMapFile:
    """A parametric map on disk.

    Attributes:
        path: of the file.
        sop_instance_uid: of the object.
        series_instance_uid: of its own series.
        names: of the maps, in order.
        frames: one for each slice of each map.
        remarks: for people.
    """

    path: Path
    sop_instance_uid: str
    series_instance_uid: str
    names: tuple[str, ...]
    frames: int
    remarks: tuple[str, ...] = ()


def write_parametric_map(
    path: Path, maps: Volume, names: Sequence[str], series: Series, algorithm: Algorithm
) -> ParametricMapFile:
    """Write the probabilities of a series; the file appears whole or not at all, the same bytes each time.

    The values are stored as they are, float32, and mean themselves: a real-world value is the stored one. Viewers that
    show no floating-point pixels take the .nii.gz instead.

    Args:
        path: to write to.
        maps: (K, D, H, W) float32 from 0 to 1, on the series' own grid, in any order of its axes.
        names: one for each map.
        series: that they belong to.
        algorithm: that made them.

    Raises:
        GeometryError: when the grid is not the series'.
        UsageError: for maps that are no probabilities, or names that are not theirs.
        InputError: for maps that are larger than a DICOM object can be.
        RefusedSeries: for a series without a frame of reference.
        ScanError: when the series is gone, or is one of several volumes of a multi-frame instance.
        OutputError: when the file cannot be written.
        MissingDependency: without highdicom.
    """
    try:
        import highdicom.pm
        from pydicom.sr.codedict import codes
    except ImportError as error:
        raise MissingDependency.of_extra("highdicom", "dicom") from error
    _check(maps, names)
    check_size(maps.voxels.shape)
    check_frame_of_reference(series)
    source = read_source(series)
    pixels = np.moveaxis(maps.like(source.grid).voxels.astype(np.float32, copy=False), 0, -1)
    order = [frame.number for frame in source.frames]
    pixels = pixels if order == sorted(order) else pixels[np.argsort(order)]
    identity = Identity(series.series_instance_uid, source.sop_instance_uids, algorithm, "probabilities")
    meanings = [
        [
            highdicom.pm.RealWorldValueMapping(
                lut_label=f"{number}",
                lut_explanation=f"probability of {name}"[:64],
                unit=codes.UCUM.NoUnits,
                value_range=(0.0, 1.0),
                slope=1.0,
                intercept=0.0,
            )
        ]
        for number, name in enumerate(names, start=1)
    ]
    with lenient():
        dataset: Any = highdicom.pm.ParametricMap(
            source_images=source.headers,
            pixel_array=pixels,
            series_instance_uid=identity.uid("series"),
            series_number=5000 + source.series_number,
            sop_instance_uid=identity.uid("instance"),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=algorithm.name,
            software_versions=software_versions(algorithm),  # type: ignore[arg-type]  # it takes more than one
            device_serial_number=algorithm.model_sha256,
            contains_recognizable_visual_features=False,
            real_world_value_mappings=meanings,
            window_center=0.5,
            window_width=1.0,
            content_label="PROBABILITIES",
            content_description=f"probabilities: {', '.join(names)}"[:64],
            series_description=f"{algorithm.name} probabilities"[:64],
        )
        dataset.ContentCreatorName = ""  # no person
        if "Laterality" not in dataset:
            dataset.Laterality = ""  # not known; the standard wants it of images that may be of one side
        complete(dataset, source, identity, (*names, algorithm.name, algorithm.version))
        with replacing(Path(path)) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
    left_out = ", ".join(source.left_out)
    remarks = (f"not copied, because the series' own values are not valid: {left_out}",) if left_out else ()
    return ParametricMapFile(
        Path(path), identity.uid("instance"), identity.uid("series"), tuple(names), int(dataset.NumberOfFrames), remarks
    )


def check_size(shape: tuple[int, ...]) -> None:
    """Raise InputError for maps (K, D, H, W) that are larger than a DICOM object can be."""
    size = 4 * math.prod(shape)
    if size > _MOST_BYTES:
        raise InputError(
            f"maps of {size / 2**30:.1f} GiB, {' x '.join(map(str, shape))} voxels",
            expected="less than 4 GiB, which is all that a DICOM object holds",
            hint="--probabilities maps.nii.gz; at a node: probabilities = false",
        )


def _check(maps: Volume, names: Sequence[str]) -> None:
    voxels = maps.voxels
    fits = voxels.ndim == 4 and len(names) == len(voxels) > 0
    if not (fits and voxels.dtype.kind == "f" and float(voxels.min()) >= 0 and float(voxels.max()) <= 1):
        raise UsageError(
            f"maps of type {voxels.dtype}, shape {voxels.shape} with {len(names)} names",
            expected="(K, D, H, W) probabilities from 0 to 1, and K names",
            hint="write what segment returns with probabilities=True",
        )
