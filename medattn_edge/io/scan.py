"""Scan: whatever a path may mean as one, a file of any format or a series of DICOM files, found in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medattn_edge.errors import GeometryError, MissingDependency, UsageError
from medattn_edge.io.dicom.files import SUFFIXES, is_dicom
from medattn_edge.io.files import format_of, read_labels, read_volume
from medattn_edge.io.modality import check_modality
from medattn_edge.spec import ModelSpec
from medattn_edge.volume import Volume

if TYPE_CHECKING:
    from medattn_edge.io.dicom.series import Series


class Scan:
    """A scan on disk, of which nothing is read before it is asked for.

    Attributes:
        path: as it was given.
        wanted: the series that was asked for, by the first digits of its hash or itself; "" for the only one.
        pixel_spacing: mm of a picture, as it was given.
        geometry: which form of a NIfTI header decides, as it was given.
        volume: which of several volumes, as it was given.
        is_dicom: whether it is looked through for series: a folder, or a file that is DICOM.
    """

    def __init__(
        self,
        path: Path | str,
        series: str | Series = "",
        pixel_spacing: Sequence[float] = (),
        *,
        geometry: str = "",
        volume: int = 0,
    ) -> None:
        """Nothing but the path's kind is looked at.

        Args:
            path: a file of any format that `read_volume` reads, a DICOM file, a DICOMDIR, or a folder of DICOM files.
            series: the first digits of a series' hash, as `inspect` shows it, where the path holds several; or the
                series itself.
            pixel_spacing: mm (y, x) or (z, y, x) of a picture, which has none of its own.
            geometry: which form of a NIfTI header decides, sform or qform; "" for what the header prefers.
            volume: which of several volumes (time points, echoes), from 1; 0 for the only one.

        Raises:
            UsageError: for a series of what is not DICOM, and a form of what is.
        """
        self.path, self.pixel_spacing = Path(path), tuple(pixel_spacing)
        self.wanted, self.geometry, self.volume = series, geometry, volume
        self._notes: tuple[str, ...] = ()
        self.is_dicom = not isinstance(series, str) or is_dicom_source(self.path)
        if series and not self.is_dicom:
            raise UsageError(
                f"--series with {self.path.name!r}", expected="a folder of DICOM files", hint="leave --series out"
            )
        if geometry and self.is_dicom:
            raise UsageError(
                f"--geometry with {self.path.name!r}", expected="a NIfTI file", hint="leave --geometry out"
            )

    @cached_property
    def series(self) -> Series | None:
        """The series, by the headers of its files; None for a file of any other format.

        Raises:
            ScanError: when the path holds no series, or several that can be read; it lists them.
            RefusedSeries: when the series that is meant cannot become a volume.
            MissingDependency: without pydicom.
        """
        if not self.is_dicom:
            return None
        if not isinstance(self.wanted, str):
            return self.wanted
        if find_spec("pydicom") is None:
            raise MissingDependency.of_extra("pydicom", "dicom")
        from medattn_edge.io.dicom.volume import choose_series

        return choose_series(self.path, self.wanted, self.volume)

    @property
    def all_series(self) -> tuple[Series, ...]:
        """The series of all channels; none for files of other formats. Raises as `series`."""
        return () if self.series is None else (self.series,)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where it lies: one path, or one for each channel."""
        return (self.path,)

    @property
    def name(self) -> str:
        """Its name for reports, without folders, with the form of its header and the volume that were chosen."""
        chosen = [self.geometry] if self.geometry else []
        chosen += [f"volume {self.volume}"] if self.volume else []
        return ", ".join([self.path.resolve().name, *chosen])

    @property
    def shown(self) -> str:
        """What records call it: its path, as it was given."""
        return str(self.path)

    def listed_sha256(self) -> str:
        """Of what decides its voxels, where that is known without its files; "" where only these say it."""
        return ""

    def keep_in(self, folder: Path) -> None:
        """Where its files come to lie until `release`, if they lie elsewhere; of files of somebody's own nowhere."""

    def release(self) -> None:
        """Remove what lies on the disk only for it; nothing of a scan that is a file of somebody's own."""

    def described(self, spec: ModelSpec) -> str:
        """Its name with the names of a network's channels where these have some."""
        name = self.name
        return f"{name} ({', '.join(spec.channels)})" if len(spec.channels) > 1 else name

    def assignment(self, spec: ModelSpec) -> tuple[str, ...]:
        """What becomes which channel of a network that has several with names, a line each; raises as `series`."""
        if len(spec.channels) < 2:
            return ()
        return tuple(f"{name} <- volume {n} of {self.path.name}" for n, name in enumerate(spec.channels, start=1))

    def identity(self, spec: ModelSpec) -> str:
        """What of the choice of voxels goes into the identity of a DICOM result, beside the series; "" for nothing.

        Raises as `series`.
        """
        return "" if self.series is None or not self.series.volume else f"volume={self.series.volume}"

    def notes(self) -> tuple[str, ...]:
        """What people should know of how it was last read: what was left out, assumed or chosen. Raises as `series`."""
        return (*(() if self.series is None else self.series.notes), *self._notes)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it is read from: the slices of a series in order, else the path itself. Raises as `series`."""
        return (self.path,) if self.series is None else self.series.files

    def read(self) -> Volume:
        """Its voxels, as `read_volume` and `read_series` give them.

        Raises:
            UsageError: for a pixel spacing of a scan that has its own.
            MedattnError: as `series`, `read_volume` and `read_series` do.
        """
        if self.series is None:
            volume = read_volume(self.path, self.geometry, self.volume)
        else:
            from medattn_edge.io.dicom.volume import read_series

            volume = read_series(self.series)
        self._notes = notes_of_grid(volume)
        return _calibrated(volume, self.pixel_spacing)

    def arranged(self, volume: Volume, spec: ModelSpec) -> Volume:
        """What `read` gave with its channels in the order of a network's.

        Raises:
            UsageError: when scans and channels do not fit together.
        """
        return volume

    def read_for(self, spec: ModelSpec) -> Volume:
        """`read` and `arranged` in one; what does not fit is said before anything is read.

        Raises:
            ModalityError: the scan is of another modality than the network was trained on.
            MedattnError: as `read` and `arranged` do.
        """
        self.assignment(spec)
        check_modality(spec, self.all_series)
        return self.arranged(self.read(), spec)


def find_scan(path: Path | str, series: str = "") -> Scan:
    """The scan that a path means, its series found by the headers; raises as Scan and `Scan.series` do."""
    scan = Scan(path, series)
    _ = scan.series  # an error now, and not when it is read
    return scan


def read_scan(path: Path | str, series: str = "") -> Volume:
    """The voxels of the scan that a path means, in a file of any format or a series of DICOM files.

    Raises as `find_scan` and `Scan.read` do.
    """
    return find_scan(path, series).read()


def read_labels_of(path: Path, scan: Volume) -> Volume:
    """The labels (D, H, W) in a file on a scan's own grid.

    Labels that have the header of a scan whose two forms contradict each other are read by the form that was chosen
    for the scan.

    Raises:
        GeometryError: they do not lie on the scan.
        MedattnError: as `read_labels` does.
    """
    try:
        labels = read_labels(path)
    except GeometryError:
        chosen = scan.source["geometry"] if scan.source is not None and scan.source["contradiction"] else ""
        if not chosen or format_of(path).read_choice is None:
            raise
        labels = read_labels(path, chosen)
    return labels.like(scan)


def facts_of_grid(volume: Volume) -> dict[str, Any] | None:
    """What --json says of where the voxels are, for a file whose header says it in several ways."""
    source = volume.source
    return None if source is None else {name: source[name] for name in ("geometry", "codes", "apart_mm")}


def notes_of_grid(volume: Volume) -> tuple[str, ...]:
    """What people should know of it."""
    source = volume.source
    if source is None:
        return ()
    used, codes = str(source["geometry"]), source["codes"]
    other = "qform" if used == "sform" else "sform"
    if source["contradiction"]:
        return (f"the scan's {used} was chosen over its {other}, which contradicts it: {source['contradiction']}",)
    if source["apart_mm"] is not None and source["apart_mm"] > min(volume.spacing) / 2:
        return (
            f"the scan's {used} (code {codes[used]}) is used; its {other} (code {codes[other]}) puts the voxels up to "
            f"{source['apart_mm']:.1f} mm elsewhere, and NIfTI outputs have both",
        )
    return ()


def is_dicom_source(path: Path) -> bool:
    """Whether a path is looked through for series: a folder, or a file that is DICOM by its start or its suffix."""
    return path.is_dir() or (path.is_file() and (is_dicom(path) or path.suffix.lower() in SUFFIXES))


def _calibrated(volume: Volume, pixel_spacing: Sequence[float]) -> Volume:
    """A picture with the spacing that the user knows."""
    if not pixel_spacing:
        return volume
    if volume.calibrated:
        raise UsageError(
            "the scan has its own spacing",
            expected="--pixel-spacing only for pictures",
            hint="leave --pixel-spacing out",
        )
    steps = (1.0, *pixel_spacing) if len(pixel_spacing) == 2 else pixel_spacing
    return replace(volume, affine=volume.affine @ np.diag([*steps, 1.0]), calibrated=True)
