"""Where an object ends, byte by byte, and how much a deflated one may grow."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from medattn_edge.errors import ScanError  # noqa: E402
from medattn_edge.io.dicom.files import data_set_start  # noqa: E402
from medattn_edge.scanner.receive import objects  # noqa: E402
from medattn_edge.scanner.receive.objects import header_of, reason_of  # noqa: E402
from tests.scanner.test_objects import DEFLATED, object_of  # noqa: E402

EXPLICIT, IMPLICIT, BIG_ENDIAN, RLE = (f"1.2.840.10008.1.2{end}" for end in (".1", "", ".2", ".5"))
ITEM, END = bytes.fromhex("feff00e0"), bytes.fromhex("feffdde000000000")
META = bytes(128) + b"DICM\x02\0\0\0UL\x04\0"


def item(data: bytes) -> bytes:
    return ITEM + len(data).to_bytes(4, "little") + data


def encapsulated(path: Path, *pieces: bytes) -> bytes:
    """The object with these pieces instead of its pixels, in a syntax that has fragments."""
    whole = path.read_bytes().replace(EXPLICIT.encode() + b"\0", RLE.encode() + b"\0")
    return whole[: whole.index(bytes.fromhex("e07f1000"))] + b"".join(
        [bytes.fromhex("e07f1000") + b"OB\0\0" + b"\xff" * 4, *pieces]
    )


def is_whole(data: bytes) -> bool:
    try:
        header_of(data)
    except ScanError:
        return False
    return True


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        ([item(b""), item(b"1234"), END], True),
        ([item(b""), item(b"1234"), item(b"12"), END], True),
        ([item(b""), item(b"1234")], True),  # some senders leave the end mark out
        ([item(b"12345678"), item(b"1234")], True),
        ([item(b""), item(b"1234")[:-1]], False),
        ([item(b""), item(b"1234"), item(b"12")[:-1]], False),
        ([item(b"")], False),
        ([], False),
        ([item(b""), END], True),
        ([item(b""), item(b"1234"), END[:-1]], False),
        ([item(b""), item(b"1234"), ITEM[:3]], False),
        ([item(b""), item(b"1234"), b"\xfe\xff\x0d\xe0" + bytes(4)], False),
    ],
)
def test_fragments_end_with_a_mark_or_with_the_file(tmp_path: Path, pieces: list[bytes], whole: bool) -> None:
    assert is_whole(encapsulated(object_of(tmp_path, transfer_syntax=EXPLICIT), *pieces)) is whole


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_pixels_are_whole_with_their_last_byte_and_with_no_header_of_theirs(tmp_path: Path, syntax: str) -> None:
    whole = object_of(tmp_path, transfer_syntax=syntax).read_bytes()
    mark = b"\x7f\xe0\x00\x10" if syntax == BIG_ENDIAN else b"\xe0\x7f\x10\x00"
    start, head = whole.index(mark), 8 if syntax == IMPLICIT else 12
    assert is_whole(whole)
    assert not is_whole(whole[:-1])
    assert is_whole(whole + b"\0")
    assert not is_whole(whole[: start + head])
    for cut in range(1, head):
        assert not is_whole(whole[: start + cut]), cut
    assert is_whole(whole[:start])


def deflated(path: Path, tail: bytes, level: int = 9) -> bytes:
    """A deflated object with more behind its data set, deflated together with it."""
    whole = path.read_bytes()
    start = data_set_start(pydicom.filereader.read_file_meta_info(path))
    deflate = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return whole[:start] + deflate.compress(zlib.decompress(whole[start:], -15) + tail) + deflate.flush()


@pytest.mark.parametrize(
    ("tail", "limit", "taken"),
    [
        (lambda: bytes(15_000_000), 1 << 40, True),  # a thousandth, but no more than one may keep in memory
        (lambda: bytes(18_000_000), 1 << 40, False),
        (lambda: os.urandom(1_000_000), 1 << 40, True),
        (lambda: os.urandom(1_000_000), 900_000, False),
    ],
)
def test_a_deflated_object_may_be_large_or_grow_much_and_each_has_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tail: Callable[[], bytes], limit: int, taken: bool
) -> None:
    monkeypatch.setattr(objects, "MOST_INFLATED", limit)
    path = object_of(tmp_path, transfer_syntax=DEFLATED)
    data = deflated(path, tail())
    if taken:
        assert header_of(data).sop_uid == header_of(path).sop_uid
        return
    with pytest.raises(ScanError) as raised:
        header_of(data)
    assert reason_of(raised.value) == "too_large"


@pytest.mark.parametrize("tail", [b"", b"\xff\xff\xff\xff", b"\0\0\0\0"])
def test_a_head_with_nothing_behind_it_is_an_object_without_uids(tail: bytes) -> None:
    found = header_of(META + tail)
    assert (found.sop_uid, found.sop_class, found.series_uid, found.study_uid) == ("", "", "", "")


@pytest.mark.parametrize("tail", [b"\1", b"\1\0", b"\1\0\0"])
def test_a_head_that_is_cut_is_unparsable(tail: bytes) -> None:
    with pytest.raises(ScanError) as raised:
        header_of(META + tail)
    assert reason_of(raised.value) == "unparsable"


@pytest.mark.parametrize(("length", "kept"), [(63, 63), (64, 64), (65, 64)])
def test_what_is_kept_for_routing_has_at_most_64_letters(tmp_path: Path, length: int, kept: int) -> None:
    path = object_of(tmp_path, SeriesDescription="x" * length if length < 65 else "x" * 64)
    whole = path.read_bytes()
    if length > 64:
        place = whole.index(b"x" * 64)
        whole = whole[: place - 2] + (66).to_bytes(2, "little") + b"x" * 66 + whole[place + 64 :]
    assert header_of(whole).description == "x" * kept


def test_texts_are_kept_without_what_fills_them_up(tmp_path: Path) -> None:
    found = header_of(object_of(tmp_path, SeriesDescription=" a  b ", BodyPartExamined="HEAD ", modality="MR"))
    assert (found.description, found.body_part, found.modality) == ("a  b", "HEAD", "MR")
