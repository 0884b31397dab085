"""Whether a file holds all the pixel data that its header promises, found out without decoding any."""

from __future__ import annotations

import os
import struct
from typing import Any, BinaryIO

from medattn_edge.io.bounds import MOST_INFLATED
from medattn_edge.io.dicom.reasons import RefusedSeries
from medattn_edge.io.dicom.storage import Storage

RLE = "1.2.840.10008.1.2.5"

_PIXEL_DATA = (0x7FE0, 0x0010)
_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_UNDEFINED = 0xFFFFFFFF
_MOST_FILLING = 4096  # bytes
# The frame headers of JPEG, JPEG lossless and JPEG-LS.
_FRAME_HEADERS = (0xC0, 0xC1, 0xC2, 0xC3, 0xF7)


def check_start(file: BinaryIO, dataset: Any) -> int:
    """Read the head of the pixel data element at the file's position.

    Returns:
        The length that it states, in bytes.

    Raises:
        RefusedSeries: when there is none, or when it holds floating-point numbers.
    """
    order = "<" if dataset.original_encoding[1] else ">"
    needed = 8 if dataset.original_encoding[0] else 12
    head = file.read(needed)
    if len(head) < needed:
        raise RefusedSeries("truncated", "a file ends before its pixel data")
    tag = struct.unpack(f"{order}HH", head[:4])
    if tag != _PIXEL_DATA:
        raise RefusedSeries("unsupported_pixels", "floating-point pixel data")
    return int(struct.unpack(f"{order}L", head[-4:])[0])


def check_native(file: BinaryIO, length: int, expected: int) -> None:
    """Check that uncompressed pixel data is whole.

    Some writers fill the element up to a round number of bytes; only with zeros, or the size may be another one than
    the header says.

    Args:
        file: at the first byte of the pixel data.
        length: what the element says, in bytes.
        expected: bytes of all frames.

    Raises:
        RefusedSeries: when there is less, and when there is more than such a filling.
    """
    left = os.fstat(file.fileno()).st_size - file.tell()
    if length == _UNDEFINED:
        raise RefusedSeries("unreadable", "uncompressed pixel data of undefined length")
    if min(length, left) < expected:
        raise RefusedSeries("truncated", f"{min(length, left):,} bytes of pixel data where {expected:,} are needed")
    excess = length - expected
    if excess > 1:
        file.seek(expected, os.SEEK_CUR)
    if excess > 1 and (excess > _MOST_FILLING or any(file.read(excess))):
        raise RefusedSeries("unsupported_pixels", f"{length:,} bytes of pixel data where {expected:,} are needed")


def check_encapsulated(file: BinaryIO, length: int, storage: Storage) -> None:
    """Check that compressed pixel data is whole, fragment by fragment.

    A decoder reserves what the codestream says, so a damaged one could ask for any amount of memory.

    Args:
        file: at the first byte of the pixel data.
        length: what the element says.
        storage: how many frames are needed, and their rows and columns, which every codestream must repeat.

    Raises:
        RefusedSeries: when a fragment is cut off, missing or of another size.
    """
    frames, size = storage.frames, (storage.rows, storage.columns)
    if length != _UNDEFINED:
        raise RefusedSeries("unreadable", "compressed pixel data of a fixed length")
    whole = os.fstat(file.fileno()).st_size
    fragments = -1  # the first item is the table of offsets
    while True:
        head = file.read(8)
        if len(head) < 8:
            # Some senders leave the end mark out; a fragment that is cut off has been seen by then.
            if not head and fragments >= frames:
                return
            raise RefusedSeries("truncated", f"{max(fragments, 0)} whole fragments of compressed pixel data")
        group, element, size_of_item = struct.unpack("<HHL", head)
        if (group, element) == _END:
            break
        start = file.tell()
        if (group, element) != _ITEM or start + size_of_item > whole:
            kind = "truncated" if (group, element) == _ITEM else "unreadable"
            raise RefusedSeries(kind, f"fragment {fragments + 1} of the compressed pixel data is cut off or damaged")
        if fragments >= 0 and storage.syntax == RLE:
            _check_runs(file, size_of_item, fragments, storage)
        elif fragments >= 0:
            _check_codestream(file, size)
        file.seek(start + size_of_item)
        fragments += 1
    if fragments < frames:
        raise RefusedSeries("truncated", f"{max(fragments, 0)} compressed frames where {frames} are needed")


def _check_runs(file: BinaryIO, length: int, place: int, storage: Storage) -> None:
    """Check that a fragment in RLE (PS3.5 annex G) becomes no more than its frame: two bytes of it may become 128."""
    if place >= storage.frames:
        raise RefusedSeries("unreadable", f"more than {storage.frames} fragments, in RLE one for each frame")
    # Runs never need more than a byte in 128 beside the pixels; 64 of header, and one to fill each of 15 parts.
    most = storage.frame_bytes + storage.frame_bytes // 128 + 64 + 2 * 15 + 1024
    if length > most:
        raise RefusedSeries("too_large", f"{length:,} bytes in RLE for a frame of {storage.frame_bytes:,}")
    if length * 64 <= MOST_INFLATED:
        return
    file.seek(64, os.SEEK_CUR)
    grown, at, runs = 0, 0, file.read(length - 64)
    while at < len(runs):
        count = runs[at]
        grown += 257 - count if count > 128 else count + 1 if count < 128 else 0
        at += 2 if count > 128 else count + 2 if count < 128 else 1
        if grown > 2 * storage.frame_bytes + 1024:
            raise RefusedSeries("too_large", f"a frame in RLE becomes more than its {storage.frame_bytes:,} bytes")


def _check_codestream(file: BinaryIO, size: tuple[int, int]) -> None:
    """Compare what a JPEG 2000, JPEG or JPEG-LS stream says of its own size; other fragments say nothing."""
    head = file.read(4)
    stated: tuple[int, int] | None = None
    if head == b"\xff\x4f\xff\x51":
        right, bottom, left, top = struct.unpack(">4L", file.read(20)[4:].ljust(16, b"\0"))
        stated = (bottom - top, right - left)
    elif head[:2] == b"\xff\xd8":
        file.seek(-2, os.SEEK_CUR)
        stated = _jpeg_size(file)
    if stated is not None and stated != size:
        raise RefusedSeries(
            "unreadable", f"a compressed frame of {stated[0]}x{stated[1]} in a header of {size[0]}x{size[1]}"
        )


def _jpeg_size(file: BinaryIO) -> tuple[int, int]:
    """(rows, columns) of the frame header; (0, 0) when there is none before the pixels."""
    for _ in range(100):
        marker = file.read(4)
        if len(marker) < 4 or marker[0] != 0xFF or marker[1] == 0xDA:
            break
        length = struct.unpack(">H", marker[2:])[0]
        if marker[1] in _FRAME_HEADERS:
            rows, columns = struct.unpack(">xHH", file.read(5).ljust(5, b"\0"))
            return int(rows), int(columns)
        file.seek(length - 2, os.SEEK_CUR)
    return 0, 0
