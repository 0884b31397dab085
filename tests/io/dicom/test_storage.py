"""How voxels may be stored and what they become: each limit itself, and the next value beyond it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")


from medattn_edge.io.dicom.pixels import read_planes  # noqa: E402
from medattn_edge.io.dicom.storage import storage_of  # noqa: E402
from medattn_edge.io.dicom.volume import find_series, read_series  # noqa: E402
from tests.support.data_sets import pixel_data_set, reason_of  # noqa: E402
from tests.support.dicom_phantoms import Stored, real_ct, write_series  # noqa: E402
from tests.support.image_planes import STORAGE  # noqa: E402

SCAN = real_ct(3, 12, 10)
GRID = np.diag((4.0, 1.5, 1.25, 1.0))[[2, 1, 0, 3]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"NumberOfFrames": None}, ""),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, ""),
        ({"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}, ""),
        ({"BitsStored": 16, "HighBit": 15}, ""),
        ({"BitsStored": 1, "HighBit": 0}, ""),
        ({"BitsStored": 17, "HighBit": 16}, "unsupported_pixels"),
        ({"BitsStored": 0, "HighBit": -1 & 0xFFFF}, "unsupported_pixels"),
        ({"BitsAllocated": 24}, "unsupported_pixels"),
        ({"BitsAllocated": 12}, "unsupported_pixels"),
        ({"HighBit": 12}, "unsupported_pixels"),
        ({"HighBit": 10}, "unsupported_pixels"),
        ({"PixelRepresentation": 1}, ""),
        ({"PixelRepresentation": 2}, "unsupported_pixels"),
        ({"SamplesPerPixel": 3}, "rgb"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, ""),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "rgb"),
        ({"PhotometricInterpretation": "YBR_FULL"}, "unsupported_pixels"),
        ({"Rows": 1, "Columns": 1}, ""),
        ({"Rows": 0}, "unsupported_pixels"),
        ({"Columns": 0}, "unsupported_pixels"),
        ({"NumberOfFrames": 0}, ""),  # which some writers mean by one
        ({"NumberOfFrames": 1}, ""),
        ({"NumberOfFrames": 2}, "unsupported_pixels"),
        ({"Rows": 8192, "Columns": 8192}, ""),
        ({"Rows": 8192, "Columns": 8193}, "too_large"),
    ],
)
def test_pixels_are_what_scanners_write(changes: dict[str, Any], reason: str) -> None:
    assert reason_of(lambda: storage_of(pixel_data_set(**changes), enhanced=False)) == reason


@pytest.mark.parametrize(
    ("rows", "frames", "reason"),
    [(1, 65_536, ""), (1, 65_537, "too_large"), (8192, 32, ""), (8192, 33, "too_large"), (8192, 1, "")],
)
def test_a_file_has_65536_frames_and_two_thousand_million_voxels(rows: int, frames: int, reason: str) -> None:
    dataset = pixel_data_set(Rows=rows, Columns=8192, NumberOfFrames=frames)
    assert reason_of(lambda: storage_of(dataset, enhanced=True)) == reason


@pytest.mark.parametrize(
    ("signed", "value", "limit", "padding"),
    [
        (0, 0, None, (0, 0)),
        (0, 63536, None, (63536, 63536)),
        (0, -2000, None, (63536, 63536)),  # whose sign its writer meant for the words
        (1, -2000, None, (-2000, -2000)),
        (1, 63536, None, (-2000, -2000)),
        (1, 32767, None, (32767, 32767)),
        (1, 32768, None, (-32768, -32768)),
        (0, 65535, None, (65535, 65535)),
        (0, 5, 9, (5, 9)),
        (0, 9, 5, (5, 9)),
        (1, -5, -9, (-9, -5)),
        (0, 5, 0, (0, 5)),
    ],
)
def test_padding_has_the_sign_of_the_pixels(signed: int, value: int, limit: int | None, padding: Any) -> None:
    changes = {"PixelPaddingValue": value} | ({} if limit is None else {"PixelPaddingRangeLimit": limit})
    assert storage_of(pixel_data_set(PixelRepresentation=signed, **changes), enhanced=False).padding == padding


def test_without_padding_every_word_is_a_value() -> None:
    assert storage_of(pixel_data_set(), enhanced=False).padding is None
    assert storage_of(pixel_data_set(PixelPaddingValue=None), enhanced=False).padding is None


@pytest.mark.parametrize(
    ("bits", "signed", "limits"),
    [(12, False, (0, 4095)), (12, True, (-2048, 2047)), (16, True, (-32768, 32767)), (1, False, (0, 1))],
)
def test_the_range_of_stored_bits(bits: int, signed: bool, limits: tuple[int, int]) -> None:
    storage = replace(STORAGE, stored=bits, signed=signed)
    assert storage.range == limits
    assert storage.frame_bytes == 40 * 36 * 2


@pytest.mark.parametrize(
    ("stored", "changes", "kind"),
    [
        (Stored(bits=16), {}, np.int16),
        (Stored(bits=15, signed=False), {}, np.int16),
        (Stored(bits=16, signed=False), {}, np.float32),
        (Stored(bits=16), {"RescaleIntercept": 1}, np.float32),  # up to 32,768
        (Stored(bits=16), {"RescaleIntercept": -1}, np.float32),
        (Stored(bits=15), {"RescaleSlope": 2}, np.int16),
        (Stored(bits=15), {"RescaleSlope": 2, "RescaleIntercept": 1}, np.int16),
        (Stored(bits=15), {"RescaleSlope": 2, "RescaleIntercept": 2}, np.float32),
        (Stored(bits=15), {"RescaleSlope": 2, "RescaleIntercept": -1}, np.float32),
        (Stored(bits=15), {"RescaleSlope": -2}, np.float32),
        (Stored(bits=12), {"RescaleSlope": 1.5}, np.float32),
        (Stored(bits=12), {"RescaleIntercept": 0.5}, np.float32),
    ],
)
def test_int16_is_for_whole_numbers_that_fit_whatever_is_stored(
    tmp_path: Path, stored: Stored, changes: dict[str, Any], kind: Any
) -> None:
    voxels = np.arange(60, dtype=np.int16).reshape(2, 6, 5)
    write_series(tmp_path, voxels, GRID, stored=stored, **changes)
    (series,) = find_series(tmp_path)
    volume = read_series(series)
    assert volume.voxels.dtype == kind
    slope, intercept = changes.get("RescaleSlope", 1), changes.get("RescaleIntercept", 0)
    assert np.array_equal(volume.voxels, voxels * slope + intercept)


def test_one_slice_that_does_not_fit_makes_all_of_them_float(tmp_path: Path) -> None:
    for place in range(3):
        folder = tmp_path / str(place)
        write_series(folder, SCAN.voxels, SCAN.affine, RescaleIntercept=lambda i, p=place: "1" if i == p else "0")
        (series,) = find_series(folder)
        assert read_series(series).voxels.dtype == np.float32


@pytest.mark.parametrize(
    ("modality", "units", "turned"),
    [("MR", "US", True), ("MR", "HU", False), ("MR", "HU_MOD", False), ("CT", "US", False), ("PT", "US", False)],
)
def test_monochrome1_is_turned_where_its_numbers_are_not_physical(
    tmp_path: Path, modality: str, units: str, turned: bool
) -> None:
    stored = np.arange(40 * 36, dtype="<i2").reshape(40, 36)
    (tmp_path / "pixels").touch()
    write_series(tmp_path, np.stack([stored, stored]), GRID, PhotometricInterpretation="MONOCHROME1")
    (series,) = find_series(tmp_path)
    own = [replace(plane, units=units) for plane in series.frames]
    assert np.array_equal(read_planes(own, modality)[0], -1 - stored if turned else stored)
