"""Which files of a folder, a DICOMDIR or a single path are DICOM, and how one is opened without harm."""

from __future__ import annotations

import logging
import os
import re
import stat
import struct
import threading
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from medattn_edge.io.bounds import MOST_INFLATED
from medattn_edge.io.dicom.reasons import RefusedSeries

SUFFIXES = (".dcm", ".dicom")
DEFLATED = "1.2.840.10008.1.2.1.99"
DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
MOST_FILES = 100_000

# The elements that data without a preamble begin with: the meta information's, or those before an image's class.
_FIRST = frozenset(
    {(0x0002, 0x0000), (0x0002, 0x0001), *((0x0008, element) for element in (0x0000, 0x0001, 0x0005, 0x0008, 0x0012))}
    | {(0x0008, 0x0016), (0x0008, 0x0018)}
)
_APPLE = (b"\x00\x05\x16\x07", b"\x00\x05\x16\x00")

# Whose lines quote values, and addresses with UIDs in them.
_LOGGERS = (
    *("pydicom", "dicomweb_client.web", "retrying"),
    *(f"urllib3.{name}" for name in ("connection", "connectionpool", "response")),
)

_reading = threading.local()


@dataclass(frozen=True)
class Listing:
    """The files of a path.

    Attributes:
        files: what is or claims to be DICOM, sorted.
        missing: the SeriesInstanceUID of each file that a DICOMDIR lists and that is not there.
        ignored: how many other files were passed over.
        notes: of those with a DICOM name, what they are, for people.
    """

    files: tuple[Path, ...]
    missing: tuple[str, ...] = ()
    ignored: int = 0
    notes: tuple[str, ...] = ()


def failures() -> tuple[type[Exception], ...]:
    """What pydicom and its decoders raise for damaged files: nearly everything that a parser can."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    parsing = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, AssertionError, struct.error)
    reading = (OSError, EOFError, MemoryError, RuntimeError, StopIteration, zlib.error)
    return (*parsing, *reading, BytesLengthException, InvalidDicomError)


class _WhenMuted(type):
    """Which warnings are muted is asked each time one is about to be shown, and the answer is the thread's own."""

    def __subclasscheck__(cls, other: type) -> bool:
        return getattr(_reading, "muted", False)


class _Muted(Warning, metaclass=_WhenMuted):
    """Every warning of a thread that is inside `quiet`, and no other one."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries' warnings and log lines to themselves: they quote values, and a value may be the patient's name.

    Safe in threads, where `warnings.catch_warnings` is not: the filters stay, and each thread says whether it is muted.
    """
    for name in _LOGGERS:
        log = logging.getLogger(name)
        if _mute not in log.filters:
            log.addFilter(_mute)
    if not warnings.filters or warnings.filters[0][2] is not _Muted:
        warnings.filterwarnings("ignore", category=_Muted)
    before = getattr(_reading, "muted", False)
    _reading.muted = True
    try:
        yield
    finally:
        _reading.muted = before


def is_dicom(path: Path) -> bool:
    """Whether a regular file starts as DICOM does: 128 bytes and DICM, or the first elements of an object's data."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            head = file.read(256)
    except OSError:
        return False
    return head[128:132] == b"DICM" or without_preamble(head)


def without_preamble(head: bytes) -> bool:
    """Whether a file's first bytes are elements of the meta information or of a data set, with nothing in front.

    Such files are no DICOM files (PS3.10), but what some programs write of an object. Two elements in ascending order
    are looked at: enough to tell them from anything else.
    """
    if head[128:132] == b"DICM" or len(head) < 20:
        return False
    order = "<" if head[1] == 0 else ">"
    first, after = _element(head, 0, order)
    if first not in _FIRST or not 8 <= after <= len(head) - 8:
        return False
    second, _ = _element(head, after, order)
    return first < second and second[0] in (first[0], 0x0008)


def _element(head: bytes, at: int, order: str) -> tuple[tuple[int, int], int]:
    """The tag of an element, and where the next one starts."""
    group, element, length = struct.unpack_from(f"{order}HHL", head, at)
    if head[at + 4 : at + 6].isalpha() and head[at + 4 : at + 6].isupper():
        short = struct.unpack_from(f"{order}H", head, at + 6)[0]
        wide = head[at + 4 : at + 6] in (b"OB", b"OW", b"UN", b"SQ", b"UT")
        return (group, element), len(head) if wide else at + 8 + short
    return (group, element), at + 8 + length


def listing(path: Path) -> Listing:
    """The files of a folder (with its folders), of a DICOMDIR, or the file itself.

    A file with a DICOM suffix and no DICOM start is listed, for its refusal to be seen; not so an empty one and
    what macOS leaves beside each file it copies (AppleDouble).

    Raises:
        RefusedSeries: for a DICOMDIR that cannot be parsed, and for more files than any scan has.
    """
    if not path.is_dir():
        return _medium(path) or Listing((path,))
    files: list[Path] = []
    left_out: Counter[str] = Counter()
    ignored = 0
    for folder, folders, names in os.walk(path):
        folders.sort()
        for file in (Path(folder) / name for name in sorted(names)):
            if is_dicom(file) or (file.suffix.lower() in SUFFIXES and file.is_file()):
                if remnant := _remnant(file):
                    left_out[remnant] += 1
                    ignored += 1
                else:
                    files.append(file)
            else:
                ignored += 1
        if len(files) > MOST_FILES:
            raise RefusedSeries("too_large", f"more than {MOST_FILES:,} DICOM files", hint="give a folder with fewer")
    notes = tuple(f"{count} {kind} left out" for kind, count in sorted(left_out.items()))
    return Listing(tuple(files), (), ignored, notes)


def _remnant(path: Path) -> str:
    """What a file is that has a DICOM name and nothing of DICOM in it, "" for any other."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError:
        return ""
    if not head:
        return "empty files"
    return "AppleDouble files of macOS" if head in _APPLE and path.name.startswith("._") else ""


def check_inflated(file: BinaryIO, start: int) -> None:
    """Check that a deflated data set stays within reason, before anything keeps it.

    Args:
        file: open for reading.
        start: where the data set starts.

    Raises:
        RefusedSeries: when it grows too large or is cut off.
    """
    file.seek(start)
    inflate, size, block = zlib.decompressobj(-zlib.MAX_WBITS), 0, file.read(1 << 16)
    while block:
        size += len(inflate.decompress(block, 1 << 20))
        if size > MOST_INFLATED:
            raise RefusedSeries("too_large", f"a deflated file of more than {MOST_INFLATED >> 20} MB")
        block = inflate.unconsumed_tail or file.read(1 << 16)
    if not inflate.eof:
        raise RefusedSeries("truncated", "the deflated data set ends in the middle")


def data_set_start(meta: Any) -> int:
    """Where the data set of a file starts: behind the preamble, DICM, and what the meta information says it holds."""
    return 132 + 12 + int(meta.FileMetaInformationGroupLength)


def _mute(record: logging.LogRecord) -> bool:
    return not getattr(_reading, "muted", False)


def _medium(path: Path) -> Listing | None:
    """The image files that a DICOMDIR lists; None when the file is no DICOMDIR."""
    import pydicom

    if not is_dicom(path):
        return None
    with quiet():
        try:
            meta = pydicom.filereader.read_file_meta_info(path)
            if str(meta.get("MediaStorageSOPClassUID", "")) != DICOMDIR_CLASS:
                return None
            entries = list(_records(pydicom.dcmread(path)))
        except failures() as error:
            if _plain(path.name) != "dicomdir":
                return None  # an object like any other: its own refusal says why
            raise RefusedSeries("unreadable", f"the DICOMDIR cannot be parsed ({type(error).__name__})") from error
    names: dict[Path, list[str]] = {}
    found = [(_on_medium(path.parent, parts, names), series) for parts, series in entries]
    return Listing(
        tuple(sorted({place for place, _ in found if place is not None})),
        tuple(series for place, series in found if place is None),
    )


def _on_medium(root: Path, parts: Sequence[str], names: dict[Path, list[str]]) -> Path | None:
    """The file of a medium, None when it is not there.

    File systems and copies change names: to lower case, with the version `;1` of ISO 9660, with `.dcm` added. A name
    that fits in two ways is only the one that fits exactly. `names` keeps what the folders hold for the next file.
    """
    place = root
    for part in parts:
        if (place / part).exists():
            place = place / part
            continue
        if place not in names:
            names[place] = [entry.name for entry in place.iterdir()] if place.is_dir() else []
        near = [name for name in names[place] if _plain(name) == _plain(part)]
        if len(near) != 1:
            return None
        place = place / near[0]
    return place if place.is_file() else None


def _plain(name: str) -> str:
    name = re.sub(r";\d+$", "", name.casefold()).removesuffix(".")
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def _records(directory: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """(parts of the file's name, SeriesInstanceUID) of every record that names one, along the links between them."""
    records = {item.seq_item_tell: item for item in directory.get("DirectoryRecordSequence") or ()}
    waiting = [(int(directory.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity), "")]
    while waiting:
        offset, series = waiting.pop()
        record = records.pop(offset, None)  # each once: damaged links may run in a circle
        if record is None:
            continue
        waiting.append((int(record.get("OffsetOfTheNextDirectoryRecord") or 0), series))
        below = str(record.get("SeriesInstanceUID") or series)
        waiting.append((int(record.get("OffsetOfReferencedLowerLevelDirectoryEntity") or 0), below))
        parts = record.get("ReferencedFileID")
        if not parts:
            continue
        parts = [parts] if isinstance(parts, str) else [str(part) for part in parts]
        if any(part in ("", ".", "..") or "/" in part or "\0" in part for part in parts):
            raise RefusedSeries("unreadable", "the DICOMDIR names a file outside its own folder")
        yield tuple(parts), below
