"""Scan: whatever a path may mean as one, a file of any format or a series of DICOM files, found in one place."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from medattn_edge.errors import MissingDependency, UsageError
from medattn_edge.io.dicom.files import SUFFIXES, is_dicom
from medattn_edge.io.files import read_volume
from medattn_edge.volume import Volume

if TYPE_CHECKING:
    from medattn_edge.io.dicom.series import Series


@dataclass(frozen=True)
class Scan:
    """A scan that was found and not yet read.

    Attributes:
        path: as it was given.
        series: the series that it is where the path is DICOM, None for a file of any other format.
    """

    path: Path
    series: Series | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it is read from: the slices of a series in order, else the path itself."""
        return (self.path,) if self.series is None else self.series.files

    def read(self) -> Volume:
        """Its voxels; raises what `read_volume` and `read_series` raise."""
        if self.series is None:
            return read_volume(self.path)
        from medattn_edge.io.dicom.volume import read_series

        return read_series(self.series)


def find_scan(path: Path | str, series: str = "") -> Scan:
    """The scan that a path means, by its headers.

    Args:
        path: a file of any format that `read_volume` reads, a DICOM file, a DICOMDIR, or a folder of DICOM files.
        series: the first digits of a series' hash, as `inspect` shows it, where the path holds several.

    Raises:
        UsageError: for a series of what is not DICOM.
        ScanError: when a path holds no series or several that can be read; it lists them.
        RefusedSeries: when the series that is meant cannot become a volume.
        MissingDependency: without pydicom, for DICOM.
    """
    path = Path(path)
    if not is_dicom_source(path):
        if series:
            raise UsageError(
                f"--series with {path.name!r}", expected="a folder of DICOM files", hint="leave --series out"
            )
        return Scan(path)
    if find_spec("pydicom") is None:
        raise MissingDependency.of_extra("pydicom", "dicom")
    from medattn_edge.io.dicom.volume import choose_series

    return Scan(path, choose_series(path, series))


def read_scan(path: Path | str, series: str = "") -> Volume:
    """The voxels of the scan that a path means: `find_scan`, then `Scan.read`."""
    return find_scan(path, series).read()


def is_dicom_source(path: Path) -> bool:
    """Whether a path is looked through for series: a folder, or a file that is DICOM by its start or its suffix."""
    return path.is_dir() or (path.is_file() and (is_dicom(path) or path.suffix.lower() in SUFFIXES))
