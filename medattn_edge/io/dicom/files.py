"""Which files of a folder, a DICOMDIR or a single path are DICOM, and how one is opened without harm."""

from __future__ import annotations

import logging
import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from medattn_edge.io.dicom.reasons import RefusedSeries

SUFFIXES = (".dcm", ".dicom")
DEFLATED = "1.2.840.10008.1.2.1.99"
DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
MOST_INFLATED = 1 << 30  # bytes of one deflated file
MOST_FILES = 100_000

_reading = threading.local()


@dataclass(frozen=True)
class Listing:
    """The files of a path.

    Attributes:
        files: what is or claims to be DICOM, sorted.
        missing: the SeriesInstanceUID of each file that a DICOMDIR lists and that is not there.
        ignored: how many other files were passed over.
    """

    files: tuple[Path, ...]
    missing: tuple[str, ...] = ()
    ignored: int = 0


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
    """Keep pydicom's warnings and log lines to itself: they quote values, and a value may be the patient's name.

    Safe in threads, where `warnings.catch_warnings` is not: the filters stay, and each thread says whether it is muted.
    """
    log = logging.getLogger("pydicom")
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
    """Whether a regular file starts as DICOM files do: 128 bytes, then DICM."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def listing(path: Path) -> Listing:
    """The files of a folder (with its folders), of a DICOMDIR, or the file itself.

    A file with a DICOM suffix and no DICOM start is listed, for its refusal to be seen.

    Raises:
        RefusedSeries: for a DICOMDIR that cannot be parsed, and for more files than any scan has.
    """
    if not path.is_dir():
        return _medium(path) or Listing((path,))
    files: list[Path] = []
    ignored = 0
    for folder, folders, names in os.walk(path):
        folders.sort()
        for file in (Path(folder) / name for name in sorted(names)):
            if is_dicom(file) or (file.suffix.lower() in SUFFIXES and file.is_file()):
                files.append(file)
            else:
                ignored += 1
        if len(files) > MOST_FILES:
            raise RefusedSeries("too_large", f"more than {MOST_FILES:,} DICOM files", hint="give a folder with fewer")
    return Listing(tuple(files), (), ignored)


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
            if path.name.upper() != "DICOMDIR":
                return None  # an object like any other: its own refusal says why
            raise RefusedSeries("unreadable", f"the DICOMDIR cannot be parsed ({type(error).__name__})") from error
    files = {place: series for place, series in entries if place.is_file()}
    return Listing(tuple(sorted(files)), tuple(series for place, series in entries if place not in files))


def _records(directory: Any) -> Iterator[tuple[Path, str]]:
    """(file, SeriesInstanceUID) of every record that names a file, along the links between the records."""
    root = Path(directory.filename).parent
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
        yield root.joinpath(*parts), below
