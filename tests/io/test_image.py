"""Pictures: their values as stored, and labels that are still labels after a picture viewer."""

import numpy as np
import pytest
from PIL import Image

from medattn_edge.errors import ScanError, UsageError
from medattn_edge.io import read_labels, read_volume, write_labels
from medattn_edge.volume import Volume

PICTURE = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


@pytest.fixture
def grey():
    return np.random.default_rng(0).integers(0, 256, (4, 5)).astype(np.uint8)


@pytest.fixture
def colour():
    return np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)


def test_grey_is_one_slice_in_pixels(tmp_path, grey):
    Image.fromarray(grey).save(tmp_path / "scan.png")
    volume = read_volume(tmp_path / "scan.png")
    assert np.array_equal(volume.voxels, grey[None])
    assert not volume.calibrated
    assert np.array_equal(volume.affine, PICTURE)


def test_16_bit_grey_keeps_its_values(tmp_path, grey):
    deep = grey.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "scan.png")
    volume = read_volume(tmp_path / "scan.png")
    assert volume.voxels.dtype == np.uint16
    assert np.array_equal(volume.voxels[0], deep)


def test_one_bit_is_0_and_1(tmp_path, grey):
    Image.fromarray(grey > 99).save(tmp_path / "labels.png")
    assert np.array_equal(read_labels(tmp_path / "labels.png").voxels[0], grey > 99)


def test_colour_is_three_channels(tmp_path, colour):
    Image.fromarray(colour).save(tmp_path / "scan.png")
    volume = read_volume(tmp_path / "scan.png")
    assert volume.voxels.shape == (3, 1, 4, 5)
    assert np.array_equal(volume.voxels[:, 0], np.moveaxis(colour, -1, 0))


def test_an_opaque_alpha_channel_is_dropped(tmp_path, grey, colour):
    Image.fromarray(colour).convert("RGBA").save(tmp_path / "colour.png")
    Image.fromarray(grey).convert("LA").save(tmp_path / "grey.png")
    assert np.array_equal(read_volume(tmp_path / "colour.png").voxels[:, 0], np.moveaxis(colour, -1, 0))
    assert np.array_equal(read_volume(tmp_path / "grey.png").voxels[0], grey)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_refused(tmp_path, colour, mode):
    picture = Image.fromarray(colour).convert(mode)
    picture.putalpha(100)
    picture.save(tmp_path / "scan.png")
    with pytest.raises(ScanError, match="transparent"):
        read_volume(tmp_path / "scan.png")


def test_a_transparent_palette_colour_is_refused(tmp_path, colour):
    Image.fromarray(colour).quantize(8).save(tmp_path / "scan.png", transparency=0)
    with pytest.raises(ScanError, match="transparent"):
        read_volume(tmp_path / "scan.png")


def test_the_palette_of_another_program_is_its_colours(tmp_path, colour):
    picture = Image.fromarray(colour).quantize(8)
    picture.save(tmp_path / "scan.png")
    volume = read_volume(tmp_path / "scan.png")
    assert np.array_equal(volume.voxels[:, 0], np.moveaxis(np.array(picture.convert("RGB")), -1, 0))
    with pytest.raises(ScanError, match="label map") as caught:
        read_labels(tmp_path / "scan.png")
    assert "grey" in caught.value.hint


def test_labels_are_visible_colours_whose_indices_are_the_values(tmp_path):
    labels = Volume(np.arange(256, dtype=np.uint8).reshape(1, 16, 16), PICTURE, calibrated=False)
    write_labels(tmp_path / "labels.png", labels, ["background"])
    assert np.array_equal(read_labels(tmp_path / "labels.png").voxels, labels.voxels)
    with Image.open(tmp_path / "labels.png") as picture:
        assert picture.mode == "P"
        shown = np.array(picture.convert("RGB")).reshape(-1, 3)
    assert shown[0].tolist() == [0, 0, 0]
    assert shown[1:].max(axis=1).min() > 120
    assert len(np.unique(shown, axis=0)) == 256


def test_a_picture_of_nothing_but_background_is_labels_too(tmp_path):
    labels = Volume(np.zeros((1, 3, 4), np.uint8), PICTURE, calibrated=False)
    write_labels(tmp_path / "labels.png", labels, ["background", "polyp"])
    assert np.array_equal(read_labels(tmp_path / "labels.png").voxels, labels.voxels)


def test_labels_in_grey_values_are_labels(tmp_path):
    Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8)).save(tmp_path / "labels.png")
    assert read_labels(tmp_path / "labels.png").voxels.tolist() == [[[0, 1], [2, 3]]]


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG"])
def test_labels_are_never_written_as_jpeg(tmp_path, suffix):
    with pytest.raises(UsageError, match="lossy") as caught:
        write_labels(tmp_path / f"labels{suffix}", Volume(np.zeros((1, 3, 4), np.uint8), PICTURE), ["background"])
    assert caught.value.hint == "labels.png"


@pytest.mark.parametrize("voxels", [np.ones((2, 3, 4), np.uint8), np.full((1, 3, 4), 256)])
def test_what_does_not_fit_a_picture_is_refused(tmp_path, voxels):
    with pytest.raises(UsageError, match="do not fit a picture"):
        write_labels(tmp_path / "labels.png", Volume(voxels, PICTURE), ["background"])


def test_a_jpeg_is_turned_as_its_camera_says(tmp_path):
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn clockwise to look at it
    Image.fromarray(pixels).save(tmp_path / "scan.jpg", exif=exif, quality=95)
    voxels = read_volume(tmp_path / "scan.jpg").voxels[0]
    assert voxels.shape == (32, 16)
    assert voxels[:15].min() > 200
    assert voxels[17:].max() < 50


def test_a_jpeg_that_is_cut_off_is_refused(tmp_path, colour):
    Image.fromarray(np.kron(colour, np.ones((40, 40, 1), np.uint8))).save(tmp_path / "scan.jpg")
    whole = (tmp_path / "scan.jpg").read_bytes()
    (tmp_path / "scan.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ScanError, match="cannot be read"):
        read_volume(tmp_path / "scan.jpg")


def test_cmyk_is_refused(tmp_path, colour):
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "scan.jpg")
    with pytest.raises(ScanError, match="CMYK"):
        read_volume(tmp_path / "scan.jpg")


def test_16_bit_colour_is_refused_not_halved(tmp_path):
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)  # 2 x 1 pixels, 16 bits, RGB
    body = zlib.compress(b"\0" + bytes(range(12)))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    (tmp_path / "scan.png").write_bytes(png)
    with pytest.raises(ScanError, match="16-bit RGB"):
        read_volume(tmp_path / "scan.png")


def test_an_animation_is_refused(tmp_path, grey):
    frames = [Image.fromarray(grey), Image.fromarray(255 - grey)]
    frames[0].save(tmp_path / "scan.png", save_all=True, append_images=frames[1:])
    with pytest.raises(ScanError, match="2 frames"):
        read_volume(tmp_path / "scan.png")


def test_another_kind_of_picture_under_the_suffix_is_refused(tmp_path, colour):
    Image.fromarray(colour).save(tmp_path / "scan.png", format="GIF")
    with pytest.raises(ScanError, match="cannot be read"):
        read_volume(tmp_path / "scan.png")


@pytest.mark.parametrize("limit", [15, 5])
def test_a_picture_too_large_to_be_one_is_refused(tmp_path, monkeypatch, grey, limit):
    """Above Pillow's limit it warns, above twice the limit it raises: both are refused."""
    Image.fromarray(grey).save(tmp_path / "scan.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ScanError, match="decompression bomb"):
        read_volume(tmp_path / "scan.png")


@pytest.mark.parametrize("alpha", [254, 255])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_one_pixel_that_is_nearly_opaque_is_transparent(tmp_path, grey, colour, mode, alpha):
    picture = Image.fromarray(colour if mode == "RGBA" else grey).convert(mode)
    picture.putpixel((1, 2), (*picture.getpixel((1, 2))[:-1], alpha))
    picture.save(tmp_path / "a.png")
    if alpha == 255:
        assert read_volume(tmp_path / "a.png").channels == (3 if mode == "RGBA" else 1)
    else:
        with pytest.raises(ScanError, match="transparent"):
            read_volume(tmp_path / "a.png")


def test_a_picture_lies_like_an_axial_slice_of_one_unit(tmp_path, grey):
    Image.fromarray(grey).save(tmp_path / "a.png")
    volume = read_volume(tmp_path / "a.png")
    assert volume.affine.tolist() == [[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    assert not volume.calibrated
