"""DICOM objects as they come in: which series one belongs to, and whether two are the same. No pixels are read."""

from __future__ import annotations

import difflib
import hashlib
import os
import struct
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final

from medattn_edge.errors import ScanError, UsageError
from medattn_edge.io.dicom.files import DEFLATED, check_inflated, failures, quiet
from medattn_edge.io.dicom.reasons import RefusedSeries
from medattn_edge.scanner.store.records import Header

_UIDS: Final = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
_TEXTS: Final = ("Modality", "BodyPartExamined", "SeriesDescription")
_META: Final = 144  # bytes: the preamble, DICM, and the element that says how long the meta information is
_LONGEST: Final = 64  # characters, of a UID and of what is kept for routing
_CHUNK: Final = 1 << 20
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
UNPARSABLE: Final = "unparsable"


class CutOff(ScanError):
    """An object that ends before its data do. header: what it says of itself all the same."""

    def __init__(self, header: Header) -> None:
        super().__init__("an object ends in the middle", expected="all of it", hint="have it sent again")
        self.header = header


def reason_of(error: ScanError) -> str:
    """The code of why an object is not taken."""
    if isinstance(error, CutOff):
        return "truncated"
    return error.reason if isinstance(error, RefusedSeries) else UNPARSABLE


def header_of(source: bytes | Path) -> Header:
    """What a DICOM file (in memory or on disk) says of itself. sha256: of its encoded data set only.

    Raises ScanError, without any value in its message, for what cannot be parsed, and its CutOff for what ends in the
    middle: it would be a conflict with the whole object when that is sent again.
    """
    try:
        with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file, quiet():
            return _header(file)
    except ScanError:
        raise
    except failures() as error:
        raise ScanError(
            f"an object cannot be parsed ({type(error).__name__})",
            expected="a DICOM object",
            hint="have it sent again, or correct the sender",
        ) from None  # the library's message quotes the data


def _header(file: BinaryIO) -> Header:
    import pydicom

    start, deflated = _data_set(file)
    if deflated:
        check_inflated(file, start)
    file.seek(0)
    dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_UIDS + _TEXTS))
    whole = deflated or _is_whole(file, dataset)
    file.seek(start)
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    sop_class, sop_uid, series_uid, study_uid = (_uid(dataset, name) for name in _UIDS)
    modality, body_part, description = (_text(dataset, name) for name in _TEXTS)
    header = Header(
        sop_uid, sop_class, series_uid, study_uid, modality, body_part, description, sha256=digest.hexdigest()
    )
    if not whole:
        raise CutOff(header)
    return header


def _is_whole(file: BinaryIO, dataset: Any) -> bool:
    """Whether the last thing that was looked at, the pixel data if there are any, is there to its end."""
    here = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(here)
    implicit, little = dataset.original_encoding
    head = file.read(8 if implicit else 12)
    if not head:
        return here <= end  # no pixel data; beyond the end: an element that was stepped over is cut off
    if len(head) < (8 if implicit else 12):
        return False
    length = int(struct.unpack("<L" if little else ">L", head[-4:])[0])
    if length != _UNDEFINED:
        return file.tell() + length <= end
    fragments = -1  # the first item is the table of offsets
    while len(head := file.read(8)) == 8:
        group, element, size = struct.unpack("<HHL", head)
        if (group, element) != _ITEM or file.tell() + size > end:
            return (group, element) == _END
        file.seek(size, os.SEEK_CUR)
        fragments += 1
    return not head and fragments > 0  # some senders leave the end mark out


def _data_set(file: BinaryIO) -> tuple[int, bool]:
    """Where the data set starts, and whether it is deflated: as the meta information in front of it says."""
    head = file.read(_META)
    if head[128:140] != b"DICM\x02\0\0\0UL\x04\0":
        raise ScanError("an object without file meta information", expected="a DICOM file", hint="have it sent again")
    [length] = struct.unpack("<L", head[140:].ljust(4, b"\0"))
    return _META + int(length), DEFLATED.encode() in file.read(min(int(length), _CHUNK))


def _uid(dataset: Any, keyword: str) -> str:
    """A UID; empty when it is longer than one may be."""
    text = _text(dataset, keyword, _LONGEST + 1)
    return text if len(text) <= _LONGEST else ""


def _text(dataset: Any, keyword: str, longest: int = _LONGEST) -> str:
    value = dataset.get(keyword)
    return value.strip(" \0")[:longest] if isinstance(value, str) else ""


def sop_class_uid(name: str) -> str:
    """The UID of a storage class, from its keyword or the UID itself. Raises UsageError, with the nearest keyword."""
    from pydicom import config, uid

    values = vars(uid).items()
    storage = {word: str(value) for word, value in values if word.endswith("Storage") and isinstance(value, uid.UID)}
    if name in storage:
        return storage[name]
    given = uid.UID(name, validation_mode=config.IGNORE)
    if name[:1].isdigit() and (given.keyword.endswith("Storage") or given.type != "SOP Class"):
        return name  # a private class is the site's own business
    near = difflib.get_close_matches(name, storage, n=1)
    raise UsageError(
        f"the SOP class {name!r}",
        expected="the keyword or the UID of a storage class",
        hint=(near or ["CTImageStorage"])[0],
    )
