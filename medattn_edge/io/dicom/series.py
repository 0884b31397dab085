"""Files to series: what lies in a folder, which of it is one 3-D scan, and why the rest is not."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from medattn_edge.errors import ScanError
from medattn_edge.io.bounds import MOST_VOXELS
from medattn_edge.io.dicom.files import Listing, listing
from medattn_edge.io.dicom.geometry import Grid, grid_of
from medattn_edge.io.dicom.header import Header, read_header
from medattn_edge.io.dicom.planes import ImagePlane
from medattn_edge.io.dicom.reasons import RefusedSeries
from medattn_edge.nearby import missing

_FOREIGN = ("not_an_image", "unsupported_modality")


@dataclass(frozen=True)
class Series:
    """Headers of one series; no pixels. Its repr shows no identifier, no file name and no free text.

    Attributes:
        series_instance_uid: "" when no file of it has one.
        study_instance_uid: of its first file.
        modality: CT, MR or PT, "" when it cannot be read.
        sop_class_uid: of its first file.
        files: in slice order when accepted.
        body_part: for choosing a model, never for a log.
        description: for choosing a model, never for a log.
        slices: how many there are, as far as they can be counted.
        reason: None, or a code of `medattn_edge.reasons.SERIES_REASONS`.
        detail: for people, without identifiers.
        grid: the slices in order and their affine, None when refused.
        hint: what to do next, where it is not the action of the reason.
        volume: which of several volumes was asked for, from 1; 0 for the only one.
        notes: what was left out of it, for people.
        frame_of_reference_uid: "" for a series without one, which no segmentation can refer to.
        patient_id: of its first file; to compare with that of another series, never for a log.
    """

    series_instance_uid: str = field(repr=False)
    study_instance_uid: str = field(repr=False)
    modality: str
    sop_class_uid: str
    files: tuple[Path, ...] = field(repr=False)
    body_part: str = field(repr=False)
    description: str = field(repr=False)
    slices: int
    reason: str | None
    detail: str
    grid: Grid | None = field(repr=False)
    hint: str = field(default="", repr=False)
    volume: int = 0
    notes: tuple[str, ...] = ()
    frame_of_reference_uid: str = field(default="", repr=False)
    patient_id: str = field(default="", repr=False)

    @property
    def accepted(self) -> bool:
        """Whether it can become a volume."""
        return self.reason is None

    def usable_grid(self) -> Grid:
        """The grid of an accepted series.

        Raises:
            RefusedSeries: with the series' `reason`, when there is none.
        """
        if self.grid is None or self.reason is not None:
            raise RefusedSeries(self.reason or "no_geometry", self.detail, hint=self.hint)
        return self.grid

    @property
    def frames(self) -> tuple[ImagePlane, ...]:
        """Every slice in order: path, frame (from 0), sop_instance_uid; empty when refused."""
        return self.grid.planes if self.grid is not None else ()

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Millimetres between slices, rows and columns."""
        if self.grid is None:
            return None
        z, y, x = np.linalg.norm(self.grid.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def hash(self) -> str:
        """`series_hash` of the series, "" when it has no UID."""
        return series_hash(self.series_instance_uid) if self.series_instance_uid else ""


@dataclass(frozen=True)
class SearchResult:
    """What a path holds.

    Attributes:
        series: ordered by the first file of each.
        ignored: how many files are not DICOM.
        notes: of those among them with a DICOM name, what they are, for people.
    """

    series: tuple[Series, ...]
    ignored: int
    notes: tuple[str, ...] = ()


def series_hash(uid: str, key: bytes = b"") -> str:
    """What stands for a series outside DICOM.

    Args:
        uid: the SeriesInstanceUID.
        key: a secret, with which nobody can find the UID by trying.

    Returns:
        12 hexadecimal digits.
    """
    return hmac.new(key, uid.encode(), hashlib.sha256).hexdigest()[:12]


def search(path: Path, volume: int = 0) -> SearchResult:
    """Every series of a path; reads headers only.

    A damaged file is a refused series of its own, or makes its series refused.

    Args:
        path: a folder (with its folders), a file, or a DICOMDIR.
        volume: of every series of several volumes, the one to take, from 1; 0 refuses such a series.

    Raises:
        ScanError: when there is no such path.
        RefusedSeries: for a DICOMDIR that cannot be parsed.
    """
    path = Path(path)
    if not path.exists():
        raise missing(path, "a folder or a DICOM file", ScanError)
    return _found(listing(path), volume)


def series_of(files: Sequence[Path], volume: int = 0) -> tuple[Series, ...]:
    """The series of files wherever they lie and whatever their names are; one that is not DICOM is a refused series.

    volume: as for `search`.
    """
    return _found(Listing(tuple(sorted(files))), volume).series


def _found(files: Listing, volume: int = 0) -> SearchResult:
    headers = [header for file in files.files if (header := read_header(file)) is not None]
    series = [_series(group, files.missing.count(group[0].series_uid), volume) for group in _groups(headers)]
    known = {header.series_uid for header in headers}
    series += [_gone(uid, files.missing.count(uid)) for uid in sorted(set(files.missing) - known)]
    return SearchResult(tuple(series), files.ignored + len(files.files) - len(headers), files.notes)


def find_series(path: Path) -> tuple[Series, ...]:
    """The series of `search`."""
    return search(path).series


def _groups(headers: Sequence[Header]) -> list[list[Header]]:
    """Files of one SeriesInstanceUID; a folder's files without one; each file that cannot be read at all."""

    def key(header: Header) -> tuple[str, str]:
        if header.series_uid:
            return "series", header.series_uid
        return ("file", str(header.path)) if not header.sop_class_uid else ("blank", str(header.path.parent))

    groups = [list(group) for _, group in groupby(sorted(headers, key=lambda h: (key(h), h.path)), key=key)]
    return sorted(groups, key=lambda group: group[0].path)


def _series(headers: list[Header], missing: int, volume: int) -> Series:
    grid, refusal = None, None
    images, notes = _images(headers)
    try:
        grid = _grid(images, missing, volume)
    except RefusedSeries as error:
        refusal = error
    first = images[0]
    planes = grid.planes if grid is not None else ()
    return Series(
        first.series_uid,
        first.study_uid,
        first.modality,
        first.sop_class_uid,
        tuple(dict.fromkeys(plane.path for plane in planes)) or tuple(header.path for header in images),
        first.body_part,
        first.description,
        len(planes) or sum(max(1, len(header.planes)) for header in images),
        refusal.reason if refusal is not None else None,
        refusal.detail if refusal is not None else "",
        grid,
        refusal.hint if refusal is not None else "",
        volume,
        notes,
        first.frame_of_reference_uid,
        first.patient_id,
    )


def _images(headers: list[Header]) -> tuple[list[Header], tuple[str, ...]]:
    """The objects of a series without those that are no images, where there are images, and a note of the others.

    Raw data, presentation states and reports belong to a series of images for the archive only.
    """
    images = [header for header in headers if header.refusal is None or header.refusal.reason != "not_an_image"]
    if not images or len(images) == len(headers):
        return headers, ()
    kinds = sorted({header.refusal.detail for header in headers if header not in images and header.refusal is not None})
    return images, (f"{len(headers) - len(images)} of {len(headers)} files left out: {', '.join(kinds)}",)


def _gone(uid: str, count: int) -> Series:
    detail = f"{count} files of the list are not there"
    return Series(uid, "", "", "", (), "", "", count, "missing_file", detail, None)


def _grid(headers: list[Header], missing: int, volume: int) -> Grid:
    """The grid of a series' slices; raises RefusedSeries with the plainest reason."""
    if missing:
        raise RefusedSeries("missing_file", f"{missing} files of the list are not there")
    refusals = [header.refusal for header in headers if header.refusal is not None]
    foreign = sum(refusal.reason in _FOREIGN for refusal in refusals)
    if 0 < foreign < len(headers):
        raise RefusedSeries("mixed_series", f"{foreign} of {len(headers)} objects are not slices of a scan")
    if refusals:
        rest = f", and {len(refusals) - 1} more" if len(refusals) > 1 else ""
        raise RefusedSeries(refusals[0].reason, refusals[0].detail + rest, hint=refusals[0].hint)
    for what in ("sop_class_uid", "modality", "study_uid", "frame_of_reference_uid", "patient_id"):
        values = {getattr(header, what) for header in headers}
        if len(values) > 1:
            raise RefusedSeries("mixed_series", f"{len(values)} different values of {what}")
    scouts = sum("LOCALIZER" in header.image_type for header in headers)
    if scouts:
        every = scouts == len(headers)
        raise RefusedSeries("localizer" if every else "mixed_series", f"{scouts} of {len(headers)} files are scouts")
    planes = [plane for header in headers for plane in header.planes]
    storage = planes[0].storage
    grid = grid_of(planes, volume)
    if len(grid.planes) * storage.rows * storage.columns > MOST_VOXELS:
        raise RefusedSeries("too_large", f"{len(grid.planes)} slices of {storage.rows}x{storage.columns}")
    names = {(plane.sop_instance_uid, plane.frame) for plane in planes}
    if len(names) < len(planes):
        raise RefusedSeries("blank_uid", f"{len(planes)} slices have {len(names)} different instances and frames")
    return grid
