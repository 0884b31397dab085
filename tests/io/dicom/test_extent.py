"""Pixel data told whole or not without decoding any: each limit itself, one below and one above."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from pathlib import Path

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from pydicom import uid  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402

from medattn_edge.io.dicom import extent  # noqa: E402
from medattn_edge.io.dicom.reasons import RefusedSeries  # noqa: E402
from tests.support.image_planes import STORAGE  # noqa: E402

ROWS, COLUMNS = 40, 36
FRAME = ROWS * COLUMNS * 2
UNDEFINED = 0xFFFFFFFF
END = b"\xfe\xff\xdd\xe0" + bytes(4)
COMPRESSED = replace(STORAGE, syntax=str(uid.JPEG2000Lossless), encapsulated=True, frames=2)
RLE = replace(COMPRESSED, syntax=str(uid.RLELossless))


def item(content: bytes, length: int | None = None) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<L", len(content) if length is None else length) + content


def refusal(storage: extent.Storage, data: bytes, folder: Path, length: int = UNDEFINED) -> tuple[str, str]:
    """("", "") for pixel data that is whole, else the reason and the detail."""
    (folder / "pixels").write_bytes(data)
    with (folder / "pixels").open("rb") as file:
        try:
            extent.check_encapsulated(file, length, storage)
        except RefusedSeries as refused:
            return refused.reason, refused.detail
    return "", ""


# ------------------------------------------------------------------------------------------------- the element's head


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_the_head_of_the_pixel_data_states_its_length(implicit: bool, little: bool) -> None:
    dataset = Dataset()
    dataset.set_original_encoding(implicit, little)
    order = "<" if little else ">"
    head = struct.pack(f"{order}HH", 0x7FE0, 0x0010) + (b"" if implicit else b"OW\0\0") + struct.pack(f"{order}L", 2880)
    file = io.BytesIO(head + b"pixels")
    assert extent.check_start(file, dataset) == 2880
    assert file.read() == b"pixels"
    for cut in range(len(head)):
        with pytest.raises(RefusedSeries) as caught:
            extent.check_start(io.BytesIO(head[:cut]), dataset)
        assert (caught.value.reason, caught.value.detail) == ("truncated", "a file ends before its pixel data")
    for group, element in ((0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x7FE1, 0x0010)):
        other = struct.pack(f"{order}HH", group, element) + head[4:]
        with pytest.raises(RefusedSeries) as caught:
            extent.check_start(io.BytesIO(other), dataset)
        assert caught.value.reason == "unsupported_pixels"


# --------------------------------------------------------------------------------------------------------- native data


@pytest.mark.parametrize(
    ("excess", "last", "reason"),
    [
        (0, b"", None),
        (1, b"\1", None),  # what fills an odd length up to an even one means nothing
        (2, b"\0\0", None),
        (2, b"\0\1", "unsupported_pixels"),
        (2, b"\1\0", "unsupported_pixels"),
        (4096, bytes(4096), None),
        (4096, bytes(4095) + b"\1", "unsupported_pixels"),
        (4097, bytes(4097), "unsupported_pixels"),
    ],
)
def test_a_filling_is_zeros_up_to_four_kilobytes(tmp_path: Path, excess: int, last: bytes, reason: str | None) -> None:
    (tmp_path / "pixels").write_bytes(b"head" + b"\7" * 100 + last)
    with (tmp_path / "pixels").open("rb") as file:
        file.seek(4)
        if reason is None:
            extent.check_native(file, 100 + excess, 100)
        else:
            with pytest.raises(RefusedSeries, match=f"{100 + excess:,} bytes of pixel data where 100 are") as caught:
                extent.check_native(file, 100 + excess, 100)
            assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("stated", "there", "reason"),
    [(100, 100, None), (99, 100, "truncated"), (100, 99, "truncated"), (UNDEFINED, 100, "unreadable"),
     (UNDEFINED - 1, 100, "unsupported_pixels")],
)  # fmt: skip
def test_the_shorter_of_what_is_stated_and_what_is_there_counts(
    tmp_path: Path, stated: int, there: int, reason: str | None
) -> None:
    (tmp_path / "pixels").write_bytes(b"head" + b"\7" * there)
    with (tmp_path / "pixels").open("rb") as file:
        file.seek(4)
        if reason is None:
            extent.check_native(file, stated, 100)
        else:
            with pytest.raises(RefusedSeries) as caught:
                extent.check_native(file, stated, 100)
            assert caught.value.reason == reason
            if reason == "truncated":
                assert caught.value.detail == "99 bytes of pixel data where 100 are needed"


# ---------------------------------------------------------------------------------------------------------- fragments


@pytest.mark.parametrize("end", [END, b""], ids=["with an end mark", "without"])
@pytest.mark.parametrize(("fragments", "whole"), [(0, False), (1, False), (2, True), (3, True)])
def test_there_is_a_fragment_for_each_frame_at_least(tmp_path: Path, fragments: int, whole: bool, end: bytes) -> None:
    reason, detail = refusal(COMPRESSED, item(b"") + item(b"xxxx") * fragments + end, tmp_path)
    assert reason == ("" if whole else "truncated")
    if not whole and end:
        assert detail == f"{fragments} compressed frames where 2 are needed"
    elif not whole:
        assert detail == f"{fragments} whole fragments of compressed pixel data"


@pytest.mark.parametrize("more", range(1, 8))
def test_half_of_an_items_head_is_a_file_that_is_cut_off(tmp_path: Path, more: int) -> None:
    whole = item(b"") + item(b"xxxx") * 2
    assert refusal(COMPRESSED, whole + END[:more], tmp_path)[0] == "truncated"


def test_nothing_at_all_is_no_fragment(tmp_path: Path) -> None:
    assert refusal(COMPRESSED, b"", tmp_path) == ("truncated", "0 whole fragments of compressed pixel data")
    assert refusal(COMPRESSED, END, tmp_path) == ("truncated", "0 compressed frames where 2 are needed")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_fragment_that_is_cut_off_or_no_item_is_named(tmp_path: Path, place: int) -> None:
    before = item(b"table") + item(b"xxxx") * 2
    before = before[: (0, 13, 25)[place]]
    detail = f"fragment {place} of the compressed pixel data is cut off or damaged"
    assert refusal(COMPRESSED, before + item(b"xxxx", 5), tmp_path) == ("truncated", detail)
    assert refusal(COMPRESSED, before + b"\xfe\xff\x01\xe0" + bytes(4), tmp_path) == ("unreadable", detail)
    assert refusal(COMPRESSED, before + b"\xff\xfe\x00\xe0" + bytes(4), tmp_path) == ("unreadable", detail)


@pytest.mark.parametrize("length", [0, 100, UNDEFINED - 1])
def test_compressed_data_of_a_fixed_length_is_refused(tmp_path: Path, length: int) -> None:
    assert refusal(COMPRESSED, item(b"") + item(b"xxxx") * 2 + END, tmp_path, length)[0] == "unreadable"


# ---------------------------------------------------------------------------------------------------------------- RLE


def test_rle_has_one_fragment_for_each_frame(tmp_path: Path) -> None:
    for fragments, reason in ((2, ""), (3, "unreadable")):
        data = item(b"") + item(bytes(64)) * fragments + END
        assert refusal(RLE, data, tmp_path)[0] == reason
    assert "more than 2 fragments" in refusal(RLE, item(b"") + item(bytes(64)) * 3 + END, tmp_path)[1]


def test_a_fragment_in_rle_is_no_longer_than_its_worst_case(tmp_path: Path) -> None:
    """Pixels, a byte in 128 of them, 64 of header, two for each of 15 parts, and a kilobyte that nobody counts."""
    most = FRAME + 22 + 64 + 30 + 1024
    for place in (0, 1):
        for length, reason in ((most, ""), (most + 1, "too_large")):
            parts = [bytes(64), bytes(64)]
            parts[place] = bytes(length)
            assert refusal(RLE, item(b"") + item(parts[0]) + item(parts[1]) + END, tmp_path)[0] == reason


RUN, LITERAL = b"\x81\7", b"\x7f" + b"\x81" * 128  # 128 bytes each


@pytest.mark.parametrize(
    "runs",
    [
        RUN * 16,  # 2,048 bytes: twice the frame of 512, and a kilobyte
        RUN * 15 + b"\xff\7" * 64,
        LITERAL * 8 + RUN * 8,
        LITERAL * 7 + b"\x7e" + b"\x81" * 127 + b"\x00\7" + RUN * 8,
        RUN * 8 + b"\x80" * 21 + RUN * 8,  # 128 does nothing
    ],
)
@pytest.mark.parametrize(
    ("more", "reason"), [(b"", ""), (b"\x80", ""), (b"\x00\7", "too_large"), (b"\xff\7", "too_large")]
)
def test_what_runs_become_is_counted_where_a_fragment_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: bytes, more: bytes, reason: str
) -> None:
    small = replace(RLE, rows=16, columns=16, frames=1)
    fragment = bytes(64) + runs + more
    monkeypatch.setattr(extent, "MOST_INFLATED", len(fragment) * 64 - 1)
    assert refusal(small, item(b"") + item(fragment) + END, tmp_path)[0] == reason
    monkeypatch.setattr(extent, "MOST_INFLATED", len(fragment) * 64)
    assert refusal(small, item(b"") + item(fragment) + END, tmp_path)[0] == ""  # a decoder may try


# --------------------------------------------------------------------------------------------------------- codestreams


def j2k(rows: int, columns: int, top: int = 0, left: int = 0) -> bytes:
    return b"\xff\x4f\xff\x51" + struct.pack(">HH4L", 47, 0, left + columns, top + rows, left, top)


def jpeg(rows: int, columns: int, marker: int = 0xC3, before: bytes = b"") -> bytes:
    return b"\xff\xd8" + before + bytes((0xFF, marker)) + struct.pack(">HBHH", 11, 16, rows, columns) + bytes(4)


STREAMS = {
    "JPEG 2000": j2k(ROWS, COLUMNS),
    "JPEG 2000 with an offset": j2k(ROWS, COLUMNS, 7, 5),
    **{f"JPEG {marker:X}": jpeg(ROWS, COLUMNS, marker) for marker in (0xC0, 0xC1, 0xC2, 0xC3, 0xF7)},
    "JPEG behind other segments": jpeg(ROWS, COLUMNS, before=b"\xff\xe0\x00\x04ab\xff\xfe\x00\x02"),
    "JPEG behind 99 segments": jpeg(ROWS, COLUMNS, before=b"\xff\xe0\x00\x02" * 99),
    "something else": b"\xff\xd7\xff\xf7 says nothing",
    "almost JPEG 2000": b"\xff\x4f\xff\x52" + j2k(1, 1)[4:],
}


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("name", STREAMS)
def test_a_codestream_of_the_headers_size_is_whole(tmp_path: Path, name: str, place: int) -> None:
    parts = [b"says nothing", b"says nothing"]
    parts[place] = STREAMS[name]
    assert refusal(COMPRESSED, item(b"\xff\xd8") + item(parts[0]) + item(parts[1]) + END, tmp_path) == ("", "")


OTHERS = {
    "one row more": (j2k(ROWS + 1, COLUMNS, 7, 5), (41, 36)),
    "one column less": (j2k(ROWS, COLUMNS - 1, 7, 5), (40, 35)),
    "JPEG, one row less": (jpeg(ROWS - 1, COLUMNS, 0xC0), (39, 36)),
    "JPEG, one column more": (jpeg(ROWS, COLUMNS + 1, 0xF7), (40, 37)),
    "pixels before the frame header": (jpeg(ROWS, COLUMNS, before=b"\xff\xda\x00\x02"), (0, 0)),
    "no marker": (jpeg(ROWS, COLUMNS, before=b"\xfe\xe0\x00\x02"), (0, 0)),
    "100 segments before it": (jpeg(ROWS, COLUMNS, before=b"\xff\xe0\x00\x02" * 100), (0, 0)),
    "another kind of frame": (jpeg(ROWS, COLUMNS, 0xC5), (0, 0)),
    "cut off in a marker": (b"\xff\xd8\xff\xc3\x00", (0, 0)),
    "cut off in the size": (b"\xff\xd8\xff\xc3\x00\x0b\x10\x00", (0, 0)),
}


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("name", OTHERS)
def test_a_codestream_of_another_size_is_named_with_both(tmp_path: Path, name: str, place: int) -> None:
    stream, (rows, columns) = OTHERS[name]
    parts = [b"says nothing", b"says nothing"]
    parts[place] = stream
    detail = f"a compressed frame of {rows}x{columns} in a header of 40x36"
    data = item(b"") + item(parts[0]) + item(parts[1])
    # What is cut off is the last of its file, so that nothing behind it is taken for its end.
    assert refusal(COMPRESSED, data + (b"" if "cut off" in name and place else END), tmp_path)[0] == "unreadable"
    if "cut off" not in name:
        assert refusal(COMPRESSED, data + END, tmp_path) == ("unreadable", detail)
