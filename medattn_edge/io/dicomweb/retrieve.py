"""A series from an archive into a folder (WADO-RS), every object of it or an error."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from medattn_edge.errors import OutputError, quoted
from medattn_edge.io.dicom.header import read_header
from medattn_edge.io.dicomweb.errors import ArchiveDataError
from medattn_edge.io.dicomweb.query import ListedSeries, SeriesList, list_objects, list_series

if TYPE_CHECKING:
    from medattn_edge.io.dicomweb.client import Connection

Progress = Callable[[int, int], None]  # objects that are here, objects in total
_NAME: Final = "{:06d}.dcm"


def choose_listed(connection: Connection, study_uid: str, wanted: str = "") -> tuple[ListedSeries, tuple[str, ...]]:
    """The series of a study that is meant.

    Args:
        connection: to the archive.
        study_uid: of the study.
        wanted: its SeriesInstanceUID, or the first digits of its hash; "" for the only one that can be a scan: CT, MR
            or PET, and no scout.

    Returns:
        The series, and notes for people: what was left out, and why.

    Raises:
        ArchiveError: when the archive gives no list.
        ArchiveDataError: listing the series, when none or several can be meant.
    """
    url = connection.archive.url
    listed = list_series(connection, {"StudyInstanceUID": study_uid})
    if not listed.series:
        raise ArchiveDataError("no_such_study", url, "its list is empty", expected="the UID of a study that it has")
    if wanted:
        meant = [one for one in listed.series if wanted == one.series_uid or one.hash.startswith(wanted.lower())]
        if len(meant) == 1:
            return meant[0], listed.notes
        reason = "several_series" if meant else "no_such_series"
        raise ArchiveDataError(reason, url, _lines(listed), expected="a series of the study, by its UID or hash")
    scans = [one for one in listed.series if one.may_be_scan]
    scouts = {one.series_uid for one in scans if len(scans) > 1 and list_objects(connection, one)[0].scout}
    left = [one for one in scans if one.series_uid not in scouts]
    if len(left) != 1:
        reason = "several_series" if left else "no_series"
        hint = f"--series {left[0].hash}" if left else ""
        raise ArchiveDataError(reason, url, _lines(listed), expected="one series that is a scan", hint=hint)
    others = [f"{one}{' (localizer)' if one.series_uid in scouts else ''}" for one in listed.series if one != left[0]]
    note = (f"of the study's series {left[0]} was taken; left out: {'; '.join(others)}",) if others else ()
    return left[0], (*listed.notes, *note)


def retrieve(
    connection: Connection, series: ListedSeries, folder: Path, progress: Progress | None = None
) -> tuple[Path, ...]:
    """Every object of a series as a file of a folder.

    Each is in the transfer syntax that the archive has it in, byte for byte as it was sent.

    Args:
        connection: to the archive.
        series: of the archive's list.
        folder: that is there, and empty.
        progress: called with the objects that are here and their number.

    Raises:
        ArchiveError: when the archive does not answer, or its answer is none of DICOMweb.
        ArchiveDataError: when it has no such objects, or sends others, fewer or more than it lists.
        OutputError: when the folder cannot take them.
    """
    url = connection.archive.url
    wanted = {one.sop_instance_uid for one in list_objects(connection, series)}
    total, here = len(wanted), set[str]()
    files: list[Path] = []
    with closing(connection.objects(series.study_uid, series.series_uid)) as objects:
        for data in objects:
            file = folder / _NAME.format(len(files) + 1)
            try:
                file.write_bytes(data)
            except OSError as error:
                raise not_kept(series, folder, error) from error
            uid = _checked(file, series, wanted, url)
            if uid in here:
                raise ArchiveDataError("repeated_object", url, f"of the series {series.hash}")
            here.add(uid)
            files.append(file)
            if progress is not None:
                progress(len(files), total)
    if len(here) < total:
        raise ArchiveDataError("missing_objects", url, f"{len(here)} of {total} of the series {series.hash}")
    return tuple(files)


def not_kept(series: ListedSeries, folder: Path, error: OSError) -> OutputError:
    """What to raise when the files of a series cannot be written below a folder."""
    temporary = folder.is_relative_to(tempfile.gettempdir())
    return OutputError(
        f"cannot keep the series {series.hash} in {folder}: {error.strerror or error}",
        expected="free space for temporary files",
        hint=f"df -h {quoted(folder.parent)}{'; TMPDIR=FOLDER puts them on another disk' if temporary else ''}",
    )


def _checked(file: Path, series: ListedSeries, wanted: set[str], url: str) -> str:
    """The SOPInstanceUID of an object that was asked for; whether it is a scan is for who reads the folder."""
    header = read_header(file)
    if header is None or not header.sop_class_uid:
        raise ArchiveDataError("not_dicom", url, f"for the series {series.hash}")
    for mine, asked, what in (
        (header.study_uid, series.study_uid, "study"),
        (header.series_uid, series.series_uid, "series"),
    ):
        if mine != asked:
            raise ArchiveDataError("other_object", url, f"of another {what}, for the series {series.hash}")
    if header.sop_instance_uid not in wanted:
        raise ArchiveDataError("other_object", url, f"which is not in its own list of the series {series.hash}")
    return header.sop_instance_uid


def _lines(listed: SeriesList) -> str:
    return "; ".join(map(str, listed.series))
