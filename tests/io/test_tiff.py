"""TIFF stacks: Pillow writes them, tifffile reads them; time points and several images are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medattn_edge.errors import ScanError
from medattn_edge.io import Scan, read_volume

tifffile: Any = pytest.importorskip("tifffile", reason="the extra tiff is not installed")

RNG = np.random.default_rng(0)


def pillow(path: Path, voxels: np.ndarray, **options: Any) -> Path:
    pages = [Image.fromarray(page) for page in voxels]
    pages[0].save(path, save_all=True, append_images=pages[1:], **options)
    return path


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("suffix", [".tif", ".tiff"])
@pytest.mark.parametrize("pages", [1, 5])
def test_pages_are_slices(tmp_path: Path, dtype: str, suffix: str, pages: int) -> None:
    voxels = RNG.integers(0, 200, (pages, 7, 6)).astype(dtype)
    volume = read_volume(pillow(tmp_path / f"a{suffix}", voxels))
    assert np.array_equal(volume.voxels, voxels)
    assert volume.voxels.dtype == np.dtype(dtype)
    assert not volume.calibrated


def test_deflate_is_read_and_the_spacing_is_what_the_user_says(tmp_path: Path) -> None:
    voxels = RNG.integers(0, 200, (3, 7, 6)).astype(np.uint8)
    path = pillow(tmp_path / "a.tif", voxels, compression="tiff_adobe_deflate")
    volume = Scan(path, pixel_spacing=(5.0, 0.7, 0.6)).read()
    assert np.array_equal(volume.voxels, voxels)
    assert volume.spacing == (5.0, 0.7, 0.6)


def test_a_colour_picture_and_the_channels_of_a_stack_are_channels(tmp_path: Path) -> None:
    colour = RNG.integers(0, 200, (7, 6, 3)).astype(np.uint8)
    Image.fromarray(colour).save(tmp_path / "rgb.tif")
    assert np.array_equal(read_volume(tmp_path / "rgb.tif").voxels, np.moveaxis(colour, -1, 0)[:, None])
    stack = RNG.integers(0, 200, (4, 2, 7, 6)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "ij.tif", stack, imagej=True, metadata={"axes": "ZCYX"})
    assert np.array_equal(read_volume(tmp_path / "ij.tif").voxels, stack.transpose(1, 0, 2, 3))
    tifffile.imwrite(tmp_path / "a.ome.tif", stack.transpose(1, 0, 2, 3), ome=True, metadata={"axes": "CZYX"})
    assert np.array_equal(read_volume(tmp_path / "a.ome.tif").voxels, stack.transpose(1, 0, 2, 3))


def test_time_points_and_several_images_are_refused(tmp_path: Path) -> None:
    stack = RNG.integers(0, 200, (4, 2, 7, 6)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "t.tif", stack, imagej=True, metadata={"axes": "TZYX"})
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(stack[0, 0])
        file.write(stack[0, 0, :3])
    for name in ("t.tif", "two.tif"):
        with pytest.raises(ScanError, match="image") as raised:
            read_volume(tmp_path / name)
        assert "stack" in raised.value.hint


@pytest.mark.parametrize("data", [b"", b"no scan", b"II*\0" + b"\xff" * 20, b"II*\0\x08\0\0\0"])
def test_what_is_no_whole_stack_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(ScanError, match=r"a\.tif"):
        read_volume(tmp_path / "a.tif")


def test_a_stack_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    whole = pillow(tmp_path / "a.tif", RNG.integers(0, 200, (3, 40, 40)).astype(np.uint16)).read_bytes()
    for part in (0.3, 0.6, 0.95):
        (tmp_path / "cut.tif").write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(ScanError, match=r"cut\.tif"):
            read_volume(tmp_path / "cut.tif")


@pytest.mark.parametrize("compression", [None, "zlib", "lzma"])
def test_a_flipped_bit_is_never_a_traceback(tmp_path: Path, compression: str | None) -> None:
    """TIFF has no check sum of its tags: other voxels may come of it, but nothing that no caller is prepared for."""
    path, voxels = tmp_path / "a.tif", RNG.integers(0, 200, (4, 7, 6)).astype(np.uint8)
    tifffile.imwrite(path, voxels, compression=compression, photometric="minisblack")
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(RNG.integers(8))
        path.write_bytes(damaged)
        try:
            read_volume(path)
        except ScanError:
            refused += 1
    assert refused > 10
