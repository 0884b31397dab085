"""DICOM, through pydicom: a folder, a file or a DICOMDIR to series, a series to a volume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medattn_edge.errors import ScanError, quoted
from medattn_edge.io.dicom.pixels import read_planes
from medattn_edge.io.dicom.planes import ImagePlane
from medattn_edge.io.dicom.reasons import RefusedSeries
from medattn_edge.io.dicom.series import SearchResult, Series, find_series, search, series_hash, series_of
from medattn_edge.volume import Volume


def read_series(series: Series) -> Volume:
    """The voxels (D, H, W) = slices along the normal, rows, columns; affine to LPS mm.

    Values are rescaled (HU for CT), int16 when every possible one fits, otherwise float32. MONOCHROME1 is turned round,
    except where the values are physical (CT, PET): there it says only how to show them. Padding gets the lowest value
    of the rest.

    Raises:
        RefusedSeries: with its `reason`, for a refused series and for pixel data that is damaged.
    """
    grid = series.usable_grid()
    return Volume(read_planes(grid.planes, series.modality), grid.affine)


def choose_series(path: Path, wanted: str = "", volume: int = 0) -> Series:
    """The series of a folder or file that is meant.

    Args:
        path: as for `search`.
        wanted: the first digits of its hash; "" for the only one that is accepted.
        volume: of a series of several volumes, the one to take, from 1; 0 refuses such a series.

    Raises:
        ScanError: listing the series, when there is none or more than one, or when a file beside the only one is
            damaged and may belong to it.
        RefusedSeries: when the one that was meant is refused.
    """
    listed = search(path, volume)
    if not listed.series:
        where = "a folder without DICOM files" if path.is_dir() else "no DICOM file"
        raise ScanError(
            f"{path} is {where} ({listed.ignored} others)",
            expected="a DICOM series",
            hint=f"medattn-edge inspect {quoted(path)}",
        )
    meant = [one for one in listed.series if one.hash.startswith(wanted.lower())] if wanted else list(listed.series)
    if not meant:
        raise ScanError(
            f"{path} has no series {wanted!r}: {'; '.join(_line(one) for one in listed.series)}",
            expected="the first digits of a series' hash",
            hint=f"medattn-edge inspect {quoted(path)}",
        )
    accepted = [one for one in meant if one.accepted]
    lost = [one for one in meant if not one.series_instance_uid]
    if len(accepted) == 1 and not lost:
        return replace(accepted[0], notes=(*accepted[0].notes, *listed.notes))
    if len(meant) == 1 and not accepted:
        one = meant[0]
        raise RefusedSeries(str(one.reason), one.detail, hint=one.hint)
    several = f"{len(accepted)} series that can be read"
    what = several if len(accepted) != 1 else "damaged files beside its series"
    raise ScanError(
        f"{path} has {what}: {'; '.join(_line(one) for one in listed.series)}",
        expected="one series",
        hint=f"--series {accepted[0].hash}" if accepted else f"medattn-edge inspect {quoted(path)}",
    )


def _line(series: Series) -> str:
    """One series in a list, without identifiers."""
    name = f"{series.hash or 'without UID'} {series.modality or '?'} of {series.slices} slices"
    return name if series.accepted else f"{name} ({series.reason})"


__all__ = [
    "ImagePlane",
    "RefusedSeries",
    "SearchResult",
    "Series",
    "choose_series",
    "find_series",
    "read_series",
    "search",
    "series_hash",
    "series_of",
]
