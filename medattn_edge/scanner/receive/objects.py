"""DICOM objects as they come in: which series one belongs to, and whether two are the same. No pixels are read."""

from __future__ import annotations

import hashlib
import os
import struct
import threading
import zlib
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final

from medattn_edge.errors import ScanError
from medattn_edge.io.bounds import MOST_INFLATED
from medattn_edge.io.dicom.files import DEFLATED, failures, quiet
from medattn_edge.io.dicom.reasons import RefusedSeries
from medattn_edge.scanner.store.records import Header

_UIDS: Final = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
_TEXTS: Final = ("Modality", "BodyPartExamined", "SeriesDescription")
_META: Final = 144  # bytes: the preamble, DICM, and the element that says how long the meta information is
_LONGEST: Final = 64  # characters, of a UID and of what is kept for routing
_CHUNK: Final = 1 << 20
_PIECE: Final = 1 << 16
_HEAD: Final = 1 << 24  # bytes of a deflated object that are kept, all that stands before its pixels
_MOST_GROWTH: Final = 200  # times, of deflated pixels: scans shrink to a third, a bomb to a thousandth
_PIXELS: Final = 0x7FE00008  # the first element that holds any
_INFLATING: Final = threading.Lock()  # one at a time, however many associations there are
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
UNPARSABLE: Final = "unparsable"


class TruncatedObject(ScanError):
    """An object that ends before its data do. header: what it says of itself all the same."""

    def __init__(self, header: Header) -> None:
        super().__init__("an object ends in the middle", expected="all of it", hint="have it sent again")
        self.header = header


def reason_of(error: ScanError) -> str:
    """The code of why an object is not taken."""
    if isinstance(error, TruncatedObject):
        return "truncated"
    return error.reason if isinstance(error, RefusedSeries) else UNPARSABLE


def header_of(source: BinaryIO | bytes | Path) -> Header:
    """What a DICOM file (open and seekable, in memory or on disk) says of itself. sha256: of its encoded data set only.

    Raises ScanError, without any value in its message, for what cannot be parsed, and TruncatedObject for what ends in
    the middle: it would be a conflict with the whole object when that is sent again.
    """
    try:
        with ExitStack() as opened:
            file = source if not isinstance(source, bytes | Path) else opened.enter_context(_open(source))
            opened.enter_context(quiet())
            return _header(file)
    except ScanError:
        raise
    except failures() as error:
        raise ScanError(
            f"an object cannot be parsed ({type(error).__name__})",
            expected="a DICOM object",
            hint="have it sent again, or correct the sender",
        ) from None  # the library's message quotes the data


def _open(source: bytes | Path) -> BinaryIO:
    return BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _header(file: BinaryIO) -> Header:
    import pydicom

    file.seek(0)
    start, deflated = _data_set(file)
    names = list(_UIDS + _TEXTS)
    if deflated:
        with _INFLATING:
            dataset, whole = _explicit(_inflated_head(file, start), names), True
    else:
        file.seek(0)
        reads = _Reads(file)
        dataset = pydicom.dcmread(reads, stop_before_pixels=True, specific_tags=names)
        whole = not reads.cut and _is_whole(file, dataset)
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
        raise TruncatedObject(header)
    return header


class _Reads:
    """A file that knows whether its end cut the last read: pydicom takes a few bytes of a header for the end of all.

    Attributes:
        cut: since the last seek, something was read that was less than was asked for.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.cut = file, False
        self.tell = file.tell

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        """As the file's."""
        self.cut = False
        return self._file.seek(place, whence)

    def read(self, size: int = -1) -> bytes:
        """As the file's."""
        data = self._file.read(size)
        self.cut = self.cut or 0 < len(data) < size
        return data


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


def _inflated_head(file: BinaryIO, start: int) -> bytes:
    """What a deflated data set has before its pixels. It is inflated to its end, and only its head is kept.

    Raises RefusedSeries for one that is cut off, and for one that grows as no image does.
    """
    file.seek(start)
    inflate, head, size, taken = zlib.decompressobj(-zlib.MAX_WBITS), bytearray(), 0, 0
    block = file.read(_PIECE)
    while block:
        piece = inflate.decompress(block, _CHUNK)
        taken += len(block) - len(inflate.unconsumed_tail)
        size += len(piece)
        head += piece[: _HEAD - len(head)]
        if size > MOST_INFLATED or (size > _HEAD and size > _MOST_GROWTH * taken):
            raise RefusedSeries("too_large", f"a deflated object of more than {size >> 20} MB in {taken} bytes")
        block = inflate.unconsumed_tail or file.read(_PIECE)
    if not inflate.eof:
        raise RefusedSeries("truncated", "the deflated data set ends in the middle")
    return bytes(head)


def _explicit(data: bytes, names: list[str]) -> Any:
    """The elements before the pixels of a data set in explicit VR and little endian, which a deflated one is inside."""
    from pydicom.filereader import read_dataset
    from pydicom.tag import Tag

    tags: list[Any] = [Tag(name) for name in names]
    return read_dataset(BytesIO(data), False, True, stop_when=lambda tag, *_: tag >= _PIXELS, specific_tags=tags)


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
