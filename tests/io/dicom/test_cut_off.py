"""A file that is cut off at a seam of its pixel data: behind the head, the table of offsets, each fragment."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from pydicom import uid

from medattn_edge.io.dicom.volume import Series, find_series, read_series
from tests.support.dicom_phantoms import LOSSLESS_JPEG, real_ct, write_series

SCAN = real_ct()
SYNTAXES = (uid.JPEG2000Lossless, uid.JPEGLSLossless, LOSSLESS_JPEG[1], uid.RLELossless)
ITEM, END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


def seams(data: bytes) -> list[int]:
    """Where the pixel data begins, then where the table of offsets and every fragment end, then the file."""
    head = data.rindex(b"\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff") + 12
    found, at = [head], head
    while data[at : at + 4] == ITEM:
        at += 8 + int(struct.unpack("<L", data[at + 4 : at + 8])[0])
        found.append(at)
    assert data[at : at + 4] == END
    return [*found, at + 8]


def cut(folder: Path, syntax: str, enhanced: bool, seam: int, more: int = 0) -> Series:
    """The series with its last file cut off at a seam, so many bytes further."""
    path = write_series(folder, SCAN.voxels, SCAN.affine, enhanced=enhanced, transfer_syntax=syntax)[-1]
    data = path.read_bytes()
    path.write_bytes(data[: seams(data)[seam] + more])
    (series,) = find_series(folder)
    return series


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda value: uid.UID(value).name)
@pytest.mark.parametrize("enhanced", [False, True], ids=["single", "enhanced"])
def test_a_file_with_no_more_than_the_table_of_offsets_is_truncated(tmp_path, syntax, enhanced):
    """Six empty frames, or one, are no pixels, though every item that is there is whole."""
    series = cut(tmp_path, syntax, enhanced, seam=1)
    assert (series.reason, series.detail.split(" whole")[0]) == ("truncated", "0")


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda value: uid.UID(value).name)
@pytest.mark.parametrize("seam", range(1, 7))
def test_an_enhanced_file_that_lacks_frames_is_truncated_wherever_it_ends(tmp_path, syntax, seam):
    for more in (0, 3, 8):  # at the seam, within the next item's head, behind it
        series = cut(tmp_path / str(more), syntax, True, seam, more)
        assert series.reason == "truncated", (more, series.detail)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda value: uid.UID(value).name)
@pytest.mark.parametrize("enhanced", [False, True], ids=["single", "enhanced"])
def test_a_file_that_ends_before_its_first_item_is_truncated(tmp_path, syntax, enhanced):
    for more in (-12, -5, 0, 4, 8):
        assert cut(tmp_path / str(more), syntax, enhanced, 0, more).reason == "truncated", more


@pytest.mark.parametrize("enhanced", [False, True], ids=["single", "enhanced"])
def test_a_file_without_its_end_mark_is_whole(tmp_path, enhanced):
    """Some senders leave it out."""
    series = cut(tmp_path, uid.RLELossless, enhanced, seam=-2)
    assert series.reason is None
    assert np.array_equal(read_series(series).voxels, SCAN.voxels)
    assert cut(tmp_path / "half", uid.RLELossless, enhanced, seam=-2, more=4).reason == "truncated"


@pytest.mark.parametrize(("excess", "whole"), [(0, True), (1, True), (200, True), (4096, True), (4098, False)])
def test_plain_pixels_may_be_filled_up_with_zeros_to_a_round_number(tmp_path, excess, whole):
    def filled(index: int) -> bytes:
        return SCAN.voxels[index].astype("<i2").tobytes() + bytes(excess)

    write_series(tmp_path, SCAN.voxels, SCAN.affine, PixelData=filled)
    (series,) = find_series(tmp_path)
    assert series.reason == (None if whole else "unsupported_pixels")


@pytest.mark.parametrize("less", [1, 2])
def test_plain_pixels_that_lack_a_byte_are_truncated(tmp_path, less):
    path = write_series(tmp_path, SCAN.voxels, SCAN.affine)[2]
    path.write_bytes(path.read_bytes()[:-less])
    (series,) = find_series(tmp_path)
    assert series.reason == "truncated"
