"""Regions that may overlap: a map for each comes back with its name, its voxels and its place from every format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medattn_edge.errors import ScanError, UsageError
from medattn_edge.io import formats, read_labels, read_regions, read_volume, write_labels, write_maps, write_regions
from medattn_edge.io.colours import label_colour
from medattn_edge.io.overlay import write_overlay
from medattn_edge.volume import Volume

NAMES = ("whole tumor", "Kern", "anreichernd, größer")
SUFFIXES = [suffix for form in formats() if form.write_regions for suffix in form.suffixes]
OBLIQUE = np.array([[0.1, 0.2, 0.7, -180.0], [-0.2, 0.7, 0.1, -160], [2.5, 0.1, 0, -900], [0, 0, 0, 1]])


def regions(count: int = 3, affine: np.ndarray = OBLIQUE) -> Volume:
    return Volume(np.random.default_rng(0).integers(0, 2, (count, 4, 5, 6)).astype(np.uint8), affine)


def test_every_format_with_room_for_maps_has_room_for_regions() -> None:
    assert [suffix for form in formats() if form.write_maps for suffix in form.suffixes] == SUFFIXES


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_regions_come_back_with_their_names_on_the_same_grid(suffix: str, count: int, tmp_path: Path) -> None:
    written, path = regions(count), tmp_path / f"regions{suffix}"
    write_regions(path, written, NAMES[:count])
    found = read_regions(path)
    assert found is not None
    volume, names = found
    assert names == NAMES[:count]
    assert volume.voxels.dtype == np.uint8
    np.testing.assert_array_equal(volume.voxels, written.voxels)
    np.testing.assert_allclose(volume.affine, written.affine, atol=1e-4)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_regions_are_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_regions(tmp_path / f"{name}{suffix}", regions(), NAMES)
    if suffix != ".npz":  # zip keeps times
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", [".nii.gz", ".seg.nrrd"])
def test_a_label_per_voxel_cannot_be_read_from_them(suffix: str, tmp_path: Path) -> None:
    write_regions(tmp_path / f"regions{suffix}", regions(), NAMES)
    with pytest.raises(ScanError):
        read_labels(tmp_path / f"regions{suffix}")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".npz"])
def test_a_label_map_is_no_file_of_regions(suffix: str, tmp_path: Path) -> None:
    write_labels(tmp_path / f"labels{suffix}", Volume(regions().voxels[0], OBLIQUE), ["background", "tumor"])
    assert read_regions(tmp_path / f"labels{suffix}") is None


def test_slicer_reads_the_layers_of_a_segmentation(tmp_path: Path) -> None:
    slicerio = pytest.importorskip("slicerio", reason="the extra export is not installed")
    names = ["whole tumor", "core", "enhancing"]  # slicerio leaves out letters that are not ASCII
    write_regions(tmp_path / "regions.seg.nrrd", regions(), names)
    found = slicerio.read_segmentation(str(tmp_path / "regions.seg.nrrd"))
    assert [segment["name"] for segment in found["segments"]] == names
    for number, segment in enumerate(found["segments"]):
        assert (segment["layer"], segment["labelValue"]) == (number, 1)
        np.testing.assert_allclose(segment["color"], np.array(label_colour(number + 1)) / 255, atol=1e-5)
        layer = np.moveaxis(found["voxels"], 0, -1)[..., number].T  # (i, j, k) as Slicer has them
        np.testing.assert_array_equal(layer, regions().voxels[number])


def test_segments_in_one_layer_are_regions_by_their_values(tmp_path: Path) -> None:
    labels = Volume(np.random.default_rng(0).integers(0, 4, (4, 5, 6)).astype(np.uint8), OBLIQUE)
    write_labels(tmp_path / "labels.seg.nrrd", labels, ["background", *NAMES])
    found = read_regions(tmp_path / "labels.seg.nrrd")
    assert found is not None
    assert found[1] == NAMES
    np.testing.assert_array_equal(found[0].voxels, np.stack([labels.voxels == value for value in (1, 2, 3)]))


def test_nibabel_reads_a_four_dimensional_file_and_others_comments_are_no_names(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="the extra nifti is not installed")
    path = tmp_path / "regions.nii.gz"
    write_regions(path, regions(), NAMES)
    image = nibabel.load(path)
    assert image.shape == (6, 5, 4, 3)
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, regions().voxels)
    for comment in (
        b"hello",
        json.dumps(["no names"]).encode(),
        json.dumps({"medattn-edge regions": ["one"]}).encode(),
    ):
        plain = nibabel.Nifti1Image(regions().voxels.T, image.affine)
        plain.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, comment))
        plain.to_filename(path)
        found = read_regions(path)
        assert found is not None
        assert found[1] == ("", "", "")


def test_a_map_of_something_else_and_a_format_without_room_are_refused(tmp_path: Path) -> None:
    write_maps(tmp_path / "maps.nii.gz", regions().with_voxels(regions().voxels * 0.3), NAMES)
    with pytest.raises(ScanError, match="other values than 0 and 1"):
        read_regions(tmp_path / "maps.nii.gz")
    flat = Volume(regions().voxels[:, :1], OBLIQUE)
    with pytest.raises(UsageError, match=r"overlap(.|\n)*\.nii\.gz(.|\n)*--region-order"):
        write_regions(tmp_path / "regions.png", flat, NAMES)
    for voxels, names in ((regions().voxels, NAMES[:2]), (2 * regions().voxels, NAMES), (regions().voxels[0], NAMES)):
        with pytest.raises(UsageError, match="one name per region"):
            write_regions(tmp_path / "regions.nii.gz", Volume(voxels, OBLIQUE), names)
    assert not (tmp_path / "regions.nii.gz").exists()
    with pytest.raises(ScanError, match="does not exist"):
        read_regions(tmp_path / "nothing.nii.gz")


def test_a_picture_shows_the_outline_of_a_region_inside_another_in_its_own_colour(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="the extra image is not installed")
    affine = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    outer, inner = np.zeros((2, 1, 40, 40), np.uint8)
    outer[:, 5:35, 5:35], inner[:, 15:25, 15:25] = 1, 1
    write_overlay(
        tmp_path / "overlay.png",
        Volume(np.zeros((1, 40, 40), np.float32), affine),
        Volume(np.stack([outer, inner]), affine),
        ("outer", "inner"),
    )
    picture = np.asarray(pillow.open(tmp_path / "overlay.png").convert("RGB")).reshape(-1, 3).tolist()
    outlines = {number: picture.count(list(label_colour(number))) for number in (1, 2)}
    assert outlines[1] > outlines[2] > 100
    volume = read_volume(tmp_path / "overlay.png")
    assert volume.channels == 3
