"""Series of an archive to cases: each is retrieved when it is its turn, and is gone when it is done."""

from __future__ import annotations

from collections.abc import Mapping

from medattn_edge.cohort.case import Case, CaseList, Failure, ScanChoices
from medattn_edge.io.dicomweb.address import Archive
from medattn_edge.io.dicomweb.errors import ArchiveDataError
from medattn_edge.io.dicomweb.query import MOST_SERIES, SCANS, ListedSeries
from medattn_edge.reasons import SERIES_REASONS

STANDARD = ScanChoices()


def archive_cases(
    archive: Archive, filters: Mapping[str, str], choices: ScanChoices = STANDARD, most: int = MOST_SERIES
) -> CaseList:
    """The series that fit a query, each a case called by its hash; only the list is asked for.

    What is no CT, MR or PET is left out. A case that is done is known again by the UIDs of its objects, which the
    archive lists, and is not retrieved: DICOM has no other contents under a UID.

    Args:
        archive: where they are.
        filters: keyword -> value, as QIDO-RS matches it.
        choices: how they are read.
        most: that there may be.

    Raises:
        ArchiveError: when the archive gives no list.
        ArchiveDataError: when no series fits, more than allowed, or some that do not.
    """
    from medattn_edge.io.dicomweb.client import Connection
    from medattn_edge.io.dicomweb.query import list_series

    with Connection(archive) as connection:
        listed = list_series(connection, filters, most)
    left_out = tuple(_left_out(one) for one in listed.series if not _may_be_scan(one))
    cases = tuple(_case(archive, one, choices) for one in listed.series if _may_be_scan(one))
    if not cases:
        detail = f"{len(left_out)} of other kinds" if left_out else "its list is empty"
        raise ArchiveDataError(
            "no_such_study", archive.url, detail, expected="series of CT, MR or PET that fit the query"
        )
    return CaseList(cases, left_out, listed.notes, choices)


def _may_be_scan(one: ListedSeries) -> bool:
    return one.modality in ("", *SCANS)


def _case(archive: Archive, one: ListedSeries, choices: ScanChoices) -> Case:
    from medattn_edge.io.dicomweb.scan import ArchivedScan

    scan = ArchivedScan(archive, one, volume=choices.volume)
    name = one.hash + (f"_v{choices.volume}" if choices.volume else "")
    return Case(name, scan, f"series {one.hash}", found=True)


def _left_out(one: ListedSeries) -> Failure:
    known = SERIES_REASONS["unsupported_modality"]
    return Failure(one.hash, f"series {one.hash}", known.code, f"{known.meaning} ({one.modality})", known.action)
