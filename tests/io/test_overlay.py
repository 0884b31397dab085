"""The picture of labels on their scan: true proportions, the right side on the left, every label in its colour."""

import numpy as np
import pytest
from PIL import Image

from medattn_edge.errors import GeometryError
from medattn_edge.io.colours import heat_colours, label_colour
from medattn_edge.io.organs import label_colours
from medattn_edge.io.overlay import write_overlay
from medattn_edge.volume import Volume

NAMES = ["background", "right", "left"]
# Stored from left to right and from the head down: nothing is shown the right way round by accident.
AFFINE = np.array([[0, 0, -1.0, 60], [0, 1.0, 0, -40], [-10.0, 0, 0, 50], [0, 0, 0, 1]])

# The panels of this scan, 120 x 80 x 100 mm, stand side by side at 460 pixels for 120 mm.
AXIAL, CORONAL = np.s_[:-60, 20:480], np.s_[:-60, 494:954]


@pytest.fixture
def scan():
    voxels = np.random.default_rng(0).normal(0, 100, (10, 80, 120)).astype(np.float32)
    return Volume(voxels, AFFINE)


@pytest.fixture
def labels(scan):
    """A block on the patient's right near the head, a block on the left near the feet."""
    voxels = np.zeros(scan.shape, np.uint8)
    voxels[1:4, 20:40, 80:110] = 1
    voxels[5:9, 20:40, 10:40] = 2
    return scan.with_voxels(voxels)


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB")).astype(int)


def places(page: np.ndarray, value: int) -> np.ndarray:
    """(rows, columns) of the pixels in a label's colour."""
    return np.argwhere((page == label_colour(value)).all(axis=-1))


def test_the_patients_right_is_on_the_left_and_the_head_is_up(tmp_path, scan, labels):
    write_overlay(tmp_path / "overlay.png", scan, labels, NAMES)
    coronal = pixels(tmp_path / "overlay.png")[CORONAL]
    right, left = places(coronal, 1).mean(axis=0), places(coronal, 2).mean(axis=0)
    assert right[1] < left[1]
    assert right[0] < left[0]


def test_thick_slices_are_shown_in_true_proportions(tmp_path, scan, labels):
    write_overlay(tmp_path / "overlay.png", scan, labels, NAMES)
    block = places(pixels(tmp_path / "overlay.png")[CORONAL], 2)
    rows, columns = np.ptp(block, axis=0) + 1
    assert rows / columns == pytest.approx(40 / 30, rel=0.05)  # 4 slices of 10 mm by 30 mm


def test_an_outline_is_two_pixels_wide(tmp_path, scan, labels):
    write_overlay(tmp_path / "overlay.png", scan, labels, NAMES)
    axial = places(pixels(tmp_path / "overlay.png")[AXIAL], 2)
    middle = axial[axial[:, 0] == np.median(axial[:, 0]).astype(int)][:, 1]
    assert len(middle) == 4
    assert np.diff(middle).tolist()[::2] == [1, 1]


def test_attention_is_a_second_row(tmp_path, scan, labels):
    write_overlay(tmp_path / "one.png", scan, labels, NAMES)
    attention = np.linspace(0, 1, scan.voxels.size, dtype=np.float32).reshape(scan.shape)
    write_overlay(tmp_path / "two.png", scan, labels, NAMES, attention=attention, attention_name="gate 1")
    one, two = pixels(tmp_path / "one.png"), pixels(tmp_path / "two.png")
    assert two.shape[1] == one.shape[1]
    assert two.shape[0] > 1.7 * one.shape[0]
    assert np.array_equal(two[: one.shape[0] - 80], one[: one.shape[0] - 80])


def test_a_picture_is_one_panel_in_its_colours(tmp_path):
    affine = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    voxels = np.zeros((3, 1, 62, 62), np.uint8)
    voxels[0] = 200
    scan = Volume(voxels, affine, calibrated=False)
    write_overlay(tmp_path / "overlay.png", scan, scan.with_voxels(np.zeros((1, 62, 62), np.uint8)), ["background"])
    page = pixels(tmp_path / "overlay.png")
    assert page[page.shape[0] // 2, page.shape[1] // 2].tolist() == [200, 0, 0]
    assert page.shape[1] == 660


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_scan_of_one_value_and_a_label_without_a_name_are_drawn(tmp_path, scan, value):
    flat = scan.with_voxels(np.full(scan.shape, value, np.float32))
    labels = scan.with_voxels(np.full(scan.shape, 9, np.uint8))
    write_overlay(tmp_path / "overlay.png", flat, labels, NAMES, attention=flat.voxels * 0 + 1)
    assert len(places(pixels(tmp_path / "overlay.png"), 9)) > 100


def test_many_labels_wrap_in_the_legend(tmp_path, scan):
    labels = scan.with_voxels((np.indices(scan.shape)[2] // 3).astype(np.uint8))
    names = ["background", *(f"structure {n}" for n in range(1, 40))]
    write_overlay(tmp_path / "overlay.png", scan, labels, names)
    page = pixels(tmp_path / "overlay.png")[-260:]
    assert all((page == colour).all(axis=-1).sum() > 100 for colour in label_colours(names, on_grey=True)[1:])


def test_labels_without_a_voxel_are_in_the_legend_up_to_a_dozen(tmp_path, scan, labels):
    def page_with(absent: int) -> np.ndarray:
        write_overlay(tmp_path / "overlay.png", scan, labels, [*NAMES, *(f"absent {n:02}" for n in range(absent))])
        return pixels(tmp_path / "overlay.png")

    empty_square = 15 * 15 - 11 * 11
    none, one, many = map(page_with, (0, 1, 30))
    assert len(places(none[-50:], 3)) == 0
    assert len(places(one[-50:], 3)) == empty_square
    assert len(none) == len(one)
    assert len(places(many[-140:], 14)) == empty_square
    assert len(places(many[-140:], 15)) == 0


def test_labels_of_another_grid_are_refused(tmp_path, scan, labels):
    moved = np.array(AFFINE)
    moved[0, 3] += 1
    with pytest.raises(GeometryError, match="grid"):
        write_overlay(tmp_path / "overlay.png", scan, Volume(labels.voxels, moved), NAMES)
    assert not (tmp_path / "overlay.png").exists()


def test_heat_grows_lighter_all_the_way():
    lightness = heat_colours(np.linspace(0, 1, 50)) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) > 0).all()
