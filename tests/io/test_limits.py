"""What files of every format may hold: each limit itself, and the next value beyond it. The numbers are written out."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import MedattnError, ScanError, UsageError
from medattn_edge.io import read_labels, read_volume, write_labels, write_maps
from medattn_edge.io.bounds import check_size, read_to_end
from medattn_edge.io.format import unreadable
from medattn_edge.io.scan import notes_of_grid
from medattn_edge.volume import Volume

AFFINE = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]])
VOXELS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def error_of(call: Any) -> str:
    """What was said, "" when nothing was."""
    try:
        call()
    except MedattnError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("sizes", "itemsize", "length", "good"),
    [
        ((1 << 10, 1 << 10, 1 << 10), 1, 0, True),  # a gigabyte out of a file of any size
        ((1 << 10, 1 << 10, (1 << 10) + 1), 1, 0, False),
        ((1 << 10, 1 << 10, 1 << 9), 2, 0, True),
        ((1 << 10, 1 << 10, (1 << 9) + 1), 2, 0, False),
        ((11_000_000, 100), 1, 11_000_000, True),  # a hundredfold out of a larger one
        ((11_000_000, 101), 1, 11_000_000, False),
        ((1 << 31,), 1, 1 << 30, True),
        (((1 << 31) + 1,), 1, 1 << 30, False),  # voxels of a scan
        ((1, 1, 1), 8, 0, True),
        ((0, 4), 1, 0, False),
        ((4, -1), 1, 0, False),
        ((), 1, 0, False),
    ],
)
def test_a_file_may_promise_so_much(
    tmp_path: Path, sizes: tuple[int, ...], itemsize: int, length: int, good: bool
) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.truncate(length)  # a hole: it takes no room
    if good:
        assert check_size(tmp_path / "a", sizes, itemsize) == int(np.prod(sizes, dtype=np.int64)) * itemsize
    else:
        with pytest.raises(ScanError):
            check_size(tmp_path / "a", sizes, itemsize)


@pytest.mark.parametrize(("behind", "good"), [(0, True), (1, True), (1 << 20, True), ((1 << 20) + 1, False)])
def test_a_megabyte_may_stand_behind_the_voxels(tmp_path: Path, behind: int, good: bool) -> None:
    stream = io.BytesIO(bytes(behind))
    assert bool(error_of(lambda: read_to_end(tmp_path / "a", stream))) is not good
    if good:
        assert stream.read() == b""


def test_an_error_of_a_library_is_one_line_of_200_letters() -> None:
    said = unreadable(Path("a"), "NRRD", ValueError("x \n" * 300)).found
    assert said == "a cannot be read: " + ("x " * 100)
    assert unreadable(Path("a"), "NRRD", EOFError()).found == "a cannot be read: EOFError"


@pytest.mark.parametrize(
    ("axes", "shape", "good"),
    [("ZYX", (2, 6, 5), True), ("IYX", (2, 6, 5), True), ("QYX", (2, 6, 5), True), ("CYX", (2, 6, 5), True),
     ("CZYX", (2, 3, 6, 5), True), ("TYX", (2, 6, 5), False), ("QZYX", (2, 3, 6, 5), False), ("ZX", (6, 5), False),
     ("ZY", (6, 5), False)],
)  # fmt: skip
def test_a_stack_has_rows_columns_and_one_depth(tmp_path: Path, axes: str, shape: tuple[int, ...], good: bool) -> None:
    tifffile: Any = pytest.importorskip("tifffile", reason="the extra tiff is not installed")
    values = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", metadata={"axes": axes})
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.series[0].axes == axes
    if not good:
        with pytest.raises(ScanError, match=f"with the axes {axes}") as caught:
            read_volume(tmp_path / "a.tif")
        assert f"1 image(s), the first of shape {shape}" in caught.value.found
        return
    volume = read_volume(tmp_path / "a.tif")
    assert volume.channels == (2 if "C" in axes else 1)
    assert np.array_equal(volume.voxels.ravel(), values.ravel())


@pytest.mark.parametrize("compression", ["zlib", "lzma", "deflate"])
@pytest.mark.parametrize("more", [0, 1])
def test_a_strip_becomes_its_own_share_of_the_page_and_no_more(tmp_path: Path, compression: str, more: int) -> None:
    import lzma
    import zlib

    tifffile: Any = pytest.importorskip("tifffile", reason="the extra tiff is not installed")
    values = np.arange(8 * 6, dtype=np.uint16).reshape(8, 6)
    pack = lzma.compress if compression == "lzma" else zlib.compress
    packed = pack(values.tobytes() + bytes(more))
    tifffile.imwrite(tmp_path / "a.tif", values, compression=compression)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = file.pages[0].tags
        count, where = tags["StripByteCounts"].valueoffset, tags["StripOffsets"].valueoffset
    data = bytearray((tmp_path / "a.tif").read_bytes())
    struct.pack_into("<I", data, where, len(data))
    struct.pack_into("<I", data, count, len(packed))
    (tmp_path / "a.tif").write_bytes(data + packed)
    if more:
        with pytest.raises(ScanError, match="becomes more than 96 bytes"):
            read_volume(tmp_path / "a.tif")
    else:
        assert np.array_equal(read_volume(tmp_path / "a.tif").voxels[0], values)


@pytest.mark.parametrize(("high", "kind"), [(255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.uint32)])
def test_labels_have_the_smallest_type_and_a_picture_up_to_255(tmp_path: Path, high: int, kind: Any) -> None:
    labels = Volume(np.array([[[0, high]]], np.int64), AFFINE, calibrated=False)
    write_labels(tmp_path / "a.npz", labels, ["a"])
    assert read_labels(tmp_path / "a.npz").voxels.dtype == kind
    if high > 255:
        with pytest.raises(UsageError, match=f"up to {high} do not fit a picture"):
            write_labels(tmp_path / "a.png", labels, ["a"])
    else:
        write_labels(tmp_path / "a.png", labels, ["a"])
        assert np.array_equal(read_labels(tmp_path / "a.png").voxels, labels.voxels)


@pytest.mark.parametrize(("value", "good"), [(-1, False), (0, True), ((1 << 32) - 1, True), (1 << 32, False)])
def test_labels_are_whole_numbers_of_32_bits(tmp_path: Path, value: int, good: bool) -> None:
    labels = Volume(np.array([[[0, value]]], np.int64), AFFINE)
    assert bool(error_of(lambda: write_labels(tmp_path / "a.npz", labels, ["a"]))) is not good


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".npz"])
def test_maps_have_a_name_each(tmp_path: Path, suffix: str) -> None:
    maps = Volume(np.zeros((2, 2, 3, 4), np.float32), AFFINE)
    for names in (["a"], ["a", "b", "c"]):
        with pytest.raises(UsageError, match=f"{len(names)} names for maps"):
            write_maps(tmp_path / f"a{suffix}", maps, names)
    with pytest.raises(UsageError, match="2 names for maps"):
        write_maps(tmp_path / f"a{suffix}", Volume(VOXELS, AFFINE), ["a", "b"])


@pytest.mark.parametrize(
    ("apart", "said"),
    [(None, ""), (0.5, ""), (0.51, "(code 2) puts the voxels up to 0.5 mm elsewhere"), (12.34, "12.3")],
)
def test_half_a_voxel_between_two_forms_is_no_note(apart: float | None, said: str) -> None:
    source = {"geometry": "sform", "codes": {"sform": 1, "qform": 2}, "apart_mm": apart, "contradiction": ""}
    notes = notes_of_grid(Volume(VOXELS, AFFINE, source=source))
    assert (said in notes[0]) if said else notes == ()
    other = source | {"geometry": "qform", "contradiction": "left and right are exchanged"}
    (note,) = notes_of_grid(Volume(VOXELS, AFFINE, source=other))
    assert note.startswith("the scan's qform was chosen over its sform")
