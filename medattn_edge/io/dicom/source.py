"""What an object that is made from a series takes over from it: the grid, references, identity and date. No more."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.errors import ScanError
from medattn_edge.io.dicom.clean import (
    GEOMETRY,
    GROUPS,
    NEEDED,
    clean_multi_frame,
    clean_single,
    number,
)
from medattn_edge.io.dicom.files import failures, quiet, without_preamble
from medattn_edge.io.dicom.header import ENHANCED
from medattn_edge.io.dicom.identity import IDENTITY, is_date, is_time, valid_identity
from medattn_edge.io.dicom.planes import ImagePlane
from medattn_edge.io.dicom.reasons import RefusedSeries
from medattn_edge.io.dicom.series import Series
from medattn_edge.volume import Array, Volume

_KINDS_OF_DATE = ("Content", "Acquisition", "Series", "Study")
_DATES = tuple(f"{kind}{part}" for kind in _KINDS_OF_DATE for part in ("Date", "Time"))
_READ = (
    *IDENTITY,
    "SpecificCharacterSet",
    *NEEDED,
    *GEOMETRY,
    *GROUPS,
    *_DATES,
    "SeriesNumber",
    "WindowCenter",
    "WindowWidth",
)
_HIGHEST = 1_000_000  # a series number above it is no number that a person counts with


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice.

    Attributes:
        header: of its instance.
        number: in that instance, from 1; 0 for a single-frame instance.
    """

    header: Any
    number: int


@dataclass(frozen=True, eq=False)
class Source:
    """A series as the origin of derived objects.

    Attributes:
        frames: in slice order along the normal; their headers hold geometry and UIDs, and nothing of the patient.
        grid: a Volume of that order, (D, H, W) = slices, rows, columns, whose voxels mean nothing.
        identity: the elements of the patient and the study, and the character set.
        left_out: keywords of the identity whose values in the series are not valid.
        date: the latest content date of the instances, or of the acquisition, the series, the study where there is
            none, or 1900: what is derived carries it too, so that doing it again gives the same bytes.
        time: of that date.
        window: low and high of the scanner's own grey scale, or None.
        series_number: 0 where there is none.
    """

    frames: tuple[Frame, ...]
    grid: Volume
    identity: Any
    left_out: tuple[str, ...]
    date: str
    time: str
    window: tuple[float, float] | None
    series_number: int

    @property
    def headers(self) -> list[Any]:
        """One per instance, in slice order."""
        return list({id(frame.header): frame.header for frame in self.frames}.values())

    @property
    def sop_instance_uids(self) -> tuple[str, ...]:
        """Of every instance, in slice order."""
        return tuple(str(header.SOPInstanceUID) for header in self.headers)


def read_source(series: Series) -> Source:
    """The headers of an accepted series, without its pixels; the grid is the series' own.

    No message has a name, a number or a UID in it.

    Raises:
        RefusedSeries: for a refused series and for a damaged header.
        ScanError: when an instance is gone or another one than it was, or the series has several multi-frame instances.
    """
    planes, affine = series.usable_grid().planes, series.usable_grid().affine
    with lenient():
        try:
            headers = {path: _header(path, place) for place, path in enumerate(series.files, start=1)}
            if series.sop_class_uid in ENHANCED and len(headers) > 1:
                raise ScanError(
                    f"the series has {len(headers)} multi-frame instances",
                    expected="one multi-frame instance, or one instance per slice",
                    hint="write the labels as .nii.gz or .seg.nrrd",
                )
            if series.sop_class_uid in ENHANCED and len(planes) < planes[0].storage.frames:
                raise ScanError(
                    "only one of the volumes of a multi-frame instance was taken",
                    expected="a segmentation of all its frames: its frames are referred to by their numbers",
                    hint="write the labels as .nii.gz or .seg.nrrd",
                )
            _check_unchanged(planes, headers)
            return _source(series, planes, affine, [headers[plane.path] for plane in planes])
        except failures() as error:
            raise RefusedSeries("unreadable", f"a header is damaged ({type(error).__name__})") from error


@contextmanager
def lenient() -> Iterator[None]:
    """Let the DICOM libraries take values as they are, and keep silent: what they say quotes them.

    Not for two threads at once: how values are checked is a setting of pydicom's for the whole process. Commands write
    in their main thread, and the node in a worker process that does one thing at a time.
    """
    from pydicom import config

    settings, log = config.settings, logging.getLogger("highdicom")
    before = settings.reading_validation_mode, settings.writing_validation_mode, log.level
    settings.reading_validation_mode = settings.writing_validation_mode = config.IGNORE
    log.setLevel(logging.CRITICAL)
    try:
        with quiet():
            yield
    finally:
        settings.reading_validation_mode, settings.writing_validation_mode = before[:2]
        log.setLevel(before[2])


def _header(path: Path, place: int) -> Any:
    import pydicom

    try:
        with path.open("rb") as file:
            head = file.read(256)
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_READ), force=without_preamble(head))
    except (OSError, pydicom.errors.InvalidDicomError) as error:
        raise ScanError(
            f"instance {place} of the series can no longer be read ({type(error).__name__})",
            expected="the files of the series where they were found",
            hint="keep the series in its place until its results are written",
        ) from error


def _check_unchanged(planes: Sequence[ImagePlane], headers: Mapping[Path, Any]) -> None:
    for place, plane in enumerate(planes, start=1):
        header = headers[plane.path]
        if header.get("SOPInstanceUID") != plane.sop_instance_uid:
            raise ScanError(
                f"slice {place} of the series is another one than when it was headers",
                expected="the files of the series as they were headers",
                hint="keep the series as it is until its results are written",
            )


def _source(series: Series, planes: Sequence[ImagePlane], affine: Array, headers: Sequence[Any]) -> Source:
    """headers: of each plane's instance, in slice order."""
    enhanced = series.sop_class_uid in ENHANCED
    size = planes[0].storage.rows, planes[0].storage.columns
    grid = Volume(np.broadcast_to(np.uint8(0), (len(planes), *size)), affine)
    step = grid.spacing[0]
    clean = [clean_multi_frame(headers[0], step)] * len(planes) if enhanced else clean_single(headers, step)
    middle = len(planes) // 2
    return Source(
        tuple(Frame(header, plane.frame + 1 if enhanced else 0) for header, plane in zip(clean, planes, strict=True)),
        grid,
        *valid_identity(headers[0]),
        *_date(headers),
        _window(headers[middle], planes[middle].frame),
        max(0, min(int(number(headers[0], "SeriesNumber")), _HIGHEST)),
    )


def _date(headers: Sequence[Any]) -> tuple[str, str]:
    for kind in _KINDS_OF_DATE:
        dates = [(str(header.get(f"{kind}Date") or ""), str(header.get(f"{kind}Time") or "")) for header in headers]
        dates = [(date, time if is_time(time) else "000000") for date, time in dates if is_date(date)]
        if dates:
            return max(dates)
    return "19000101", "000000"


def _window(header: Any, frame: int) -> tuple[float, float] | None:
    """Of a frame, from 0; an enhanced image's is its own or the one that all frames share."""
    item = header
    for name in GROUPS:
        groups = item.get(name) or ()
        group = groups[min(frame, len(groups) - 1)] if groups else {}
        if group.get("FrameVOILUTSequence"):
            item = group["FrameVOILUTSequence"].value[0]
            break
    centre, width = number(item, "WindowCenter"), number(item, "WindowWidth")
    return (centre - width / 2, centre + width / 2) if width >= 1 else None
