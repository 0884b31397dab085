"""Which series an archive has of a study or for a query, and which objects of a series (QIDO-RS)."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from medattn_edge.errors import UsageError
from medattn_edge.io.dicom.series import series_hash
from medattn_edge.io.dicomweb.errors import ArchiveDataError, ArchiveError

if TYPE_CHECKING:
    from medattn_edge.io.dicomweb.client import Connection, Json

PAGE: Final = 200  # series or objects that are asked for at a time
MOST_SERIES: Final = 1000  # of a query, unless somebody says otherwise
MOST_OBJECTS: Final = 100_000  # of a series, as in a folder
SCANS: Final = ("CT", "MR", "PT")  # of which the readers make volumes
_UID: Final = re.compile(r"[0-9.]{1,64}")
_STUDY, _SERIES, _OBJECT = "0020000D", "0020000E", "00080018"
_MODALITY, _COUNT, _IMAGE_TYPE = "00080060", "00201209", "00080008"


@dataclass(frozen=True)
class ListedSeries:
    """A series as an archive lists it; its repr shows no identifier.

    Attributes:
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        modality: "" where the list does not say it.
        instances: how many objects it has, None where the list does not say it.
    """

    study_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    modality: str = ""
    instances: int | None = None

    @property
    def hash(self) -> str:
        """What stands for it outside DICOM, as `series_hash` makes it."""
        return series_hash(self.series_uid)

    def __str__(self) -> str:
        count = "?" if self.instances is None else str(self.instances)
        return f"{self.hash} {self.modality or '?'} of {count} objects"


@dataclass(frozen=True)
class SeriesList:
    """The series of a study or a query.

    Attributes:
        series: each once, in the archive's order.
        notes: what had to be taken on trust, for people.
    """

    series: tuple[ListedSeries, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ListedObject:
    """An object of a series; its repr shows no identifier.

    Attributes:
        sop_instance_uid: of the object.
        scout: whether the list says that it is a localizer.
    """

    sop_instance_uid: str = field(repr=False)
    scout: bool = False


def parse_query(texts: Sequence[str]) -> dict[str, str]:
    """Filters: `Modality=CT,StudyDate=20260101-20261126`, in one text or several.

    Raises:
        UsageError: for what is no KEY=VALUE, a key that DICOM does not have, and one that comes twice.
    """
    from pydicom.datadict import tag_for_keyword

    filters: dict[str, str] = {}
    for part in (part.strip() for text in texts for part in text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key or not value or tag_for_keyword(key) is None or key in filters:
            raise UsageError(
                f"the part {key!r} of a query" if key else "an empty part of a query",
                expected="KEY=VALUE with DICOM's keywords, each once: Modality, StudyDate, StudyDescription, ...",
                hint="--query Modality=CT,StudyDate=20260101-20261126",
            )
        filters[key] = value
    return filters


def checked_uid(text: str, option: str) -> str:
    """A UID that was typed; raises UsageError for what is none, without repeating it."""
    if not _UID.fullmatch(text):
        raise UsageError(f"{option} with what is no UID", expected="digits and dots", hint=f"{option} 1.2.840...")
    return text


def list_series(connection: Connection, filters: Mapping[str, str], most: int = MOST_SERIES) -> SeriesList:
    """The series that fit, page by page.

    Args:
        connection: to the archive.
        filters: keyword -> value, as QIDO-RS matches it: exact, with * and ?, or a range of dates.
        most: that there may be.

    Raises:
        ArchiveError: when the archive gives no list.
        ArchiveDataError: for a list that may not be whole or is longer than allowed, and for series that do not fit.
    """
    url, found, unseen = connection.archive.url, dict[str, ListedSeries](), set[str]()

    def page(limit: int, offset: int) -> Json:
        try:
            return connection.series_page(filters, limit, offset)
        except ArchiveError as error:
            if error.status == 404 and "StudyInstanceUID" in filters:
                raise ArchiveError("no_service", url, "or it does not have the study", status=404) from error
            raise

    for entry in _pages(page, _SERIES, url, most, "too_many_series"):
        one = _series_of(entry, url, filters.get("StudyInstanceUID", ""))
        unseen |= _unseen_keys(entry, filters, url)
        found[one.series_uid] = one
    notes = [f"the archive was trusted to have looked at {key}: its list does not show it" for key in sorted(unseen)]
    return SeriesList(tuple(found.values()), tuple(notes))


def list_objects(connection: Connection, series: ListedSeries) -> tuple[ListedObject, ...]:
    """The objects of a series, page by page.

    Raises:
        ArchiveError: when the archive gives no list.
        ArchiveDataError: for a list that may not be whole, for none, and for other objects in it.
    """
    url = connection.archive.url
    found: dict[str, ListedObject] = {}
    for entry in _pages(
        lambda limit, offset: connection.instances_page(series.study_uid, series.series_uid, limit, offset),
        _OBJECT,
        url,
        MOST_OBJECTS,
        "too_much",
    ):
        if _text(entry, _SERIES, series.series_uid) != series.series_uid:
            raise ArchiveDataError("other_object", url, f"in its list of the series {series.hash}")
        scout = "LOCALIZER" in [str(one).upper() for one in _values(entry, _IMAGE_TYPE)]
        uid = _text(entry, _OBJECT)
        found[uid] = ListedObject(uid, scout)
    if not found:
        raise ArchiveDataError("no_objects", url, f"the series {series.hash}")
    return tuple(found.values())


def _pages(ask: Callable[[int, int], Json], key: str, url: str, most: int, too_many: str) -> Json:
    """Every entry of a list, each UID once; the end of a list is a page without entries."""
    entries: dict[str, Mapping[str, Any]] = {}
    while page := ask(PAGE, len(entries)):
        uids = [_text(entry, key) for entry in page]
        if not all(_UID.fullmatch(uid) for uid in uids):
            raise ArchiveError("not_dicomweb", url, "entries without a UID in its list")
        new = {uid: entry for uid, entry in zip(uids, page, strict=True) if uid not in entries}
        if not new:
            # The same page again: it does not know `offset`. Shorter than was asked for, it was all there is.
            if len(page) < PAGE and len(page) == len(entries):
                break
            raise ArchiveDataError("endless_list", url, f"the page after {len(entries)} entries has nothing new")
        entries |= new
        if len(entries) > most:
            raise ArchiveDataError(too_many, url, f"more than {most}", expected=f"at most {most}")
    return list(entries.values())


def _series_of(entry: Mapping[str, Any], url: str, study_uid: str) -> ListedSeries:
    own = _text(entry, _STUDY, study_uid)
    if not _UID.fullmatch(own):
        raise ArchiveError("not_dicomweb", url, "series without a study in its list")
    if study_uid and own != study_uid:
        raise ArchiveDataError("filter_ignored", url, "another study", expected="series of the study")
    counts = _values(entry, _COUNT)
    count = int(counts[0]) if counts and str(counts[0]).isdigit() else None
    return ListedSeries(own, _text(entry, _SERIES), _text(entry, _MODALITY).upper()[:16], count)


def _unseen_keys(entry: Mapping[str, Any], filters: Mapping[str, str], url: str) -> set[str]:
    """The filters whose attribute an entry does not show; raises ArchiveDataError for one that it does not fit."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    unseen = set()
    for key, wanted in filters.items():
        tag = tag_for_keyword(key)
        assert tag is not None
        values = [str(value) for value in _values(entry, f"{tag:08X}") if not isinstance(value, dict)]
        if key == "StudyInstanceUID":
            continue
        if not values:
            unseen.add(key)
        elif not any(_fits(value, wanted, dictionary_VR(tag)) for value in values):
            raise ArchiveDataError("filter_ignored", url, f"by {key}", expected="series that fit every key")
    return unseen


def _fits(value: str, wanted: str, kind: str) -> bool:
    if kind in ("DA", "TM", "DT") and "-" in wanted:
        first, _, last = wanted.partition("-")
        return (not first or value >= first) and (not last or value[: len(last)] <= last)
    return any(fnmatch.fnmatchcase(value.casefold(), one.casefold()) for one in wanted.split("\\"))


def _values(entry: Mapping[str, Any], tag: str) -> list[Any]:
    element = entry.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _text(entry: Mapping[str, Any], tag: str, default: str = "") -> str:
    values = _values(entry, tag)
    return str(values[0]).strip() if values else default
