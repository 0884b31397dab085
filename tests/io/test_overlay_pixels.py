"""The picture of labels on their scan to the pixel: what it is made of is put together here once more, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medattn_edge.errors import GeometryError
from medattn_edge.io.colours import heat_colours, label_colour
from medattn_edge.io.display import display_window
from medattn_edge.io.overlay import write_overlay
from medattn_edge.io.page import LegendEntry, Panel, PanelRow, compose
from medattn_edge.volume import Volume

# Stored from left to right and from the head down, and turned a little.
AFFINE = np.array([[0, 0.1, -1.0, 60], [0, 1.0, 0.1, -40], [-10.0, 0, 0, 50], [0, 0, 0, 1]])
NAMES = ["background", "ball"]
SHAPE = (10, 80, 120)
WINDOW = (0.0, 200.0)
GREY = 127.5  # of the value 100 in that window


def saved(path: Path, *arguments: object, **options: object) -> np.ndarray:
    write_overlay(path, *arguments, **options)  # type: ignore[arg-type]
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB")).astype(int)


def plain(size: tuple[int, int], inside: object, label: int = 0, width: int = 2) -> np.ndarray:
    """A panel of one colour with an outline of a label at its edge; size: rows, columns."""
    pixels = np.empty((*size, 3))
    pixels[...] = inside
    if label:
        border = np.ones(size, bool)
        border[width:-width, width:-width] = False
        pixels[border] = label_colour(label)
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)


def page_of(rows: list[PanelRow], legend: list[tuple[int, str]], scale: float) -> np.ndarray:
    return np.asarray(compose(rows, [LegendEntry(*one) for one in legend], scale)).astype(int)


def views(volume: Volume, cuts: tuple[int, int, int]) -> list[tuple[str, str, tuple[int, int]]]:
    """Letters, caption and size (rows, columns) of the three cuts of a scan in LPS order."""
    scale, found = 460 / max(np.multiply(volume.shape, volume.spacing)), []
    letters = (("axial", "RLAP", "FH"), ("coronal", "RLHF", "AP"), ("sagittal", "APHF", "RL"))
    for axis, (name, edges, ends) in enumerate(letters):
        middle = [(size - 1) / 2 for size in volume.shape]
        middle[axis] = cuts[axis]
        mm = volume.point(*middle)[2 - axis]
        size = [max(8, round(volume.shape[at] * volume.spacing[at] * scale)) for at in range(3) if at != axis]
        found.append((edges, f"{name}   {ends[1 if mm > 0 else 0]} {abs(mm):.0f} mm", (size[0], size[1])))
    return found


@pytest.mark.parametrize("shape", [SHAPE, (10, 2, 120), (12, 80, 1)])
def test_a_scan_without_labels_shows_its_middle_and_says_where_that_is(tmp_path: Path, shape: tuple[int, ...]) -> None:
    scan = Volume(np.full(shape, 100, np.int16), AFFINE)
    page = saved(tmp_path / "a.png", scan, scan.with_voxels(np.zeros(shape, np.uint8)), NAMES, window=WINDOW)
    lps = scan.to_lps()
    cuts = views(lps, (lps.shape[0] // 2, lps.shape[1] // 2, lps.shape[2] // 2))
    panels = [Panel(plain(size, GREY), edges, caption) for edges, caption, size in cuts]
    scale = 460 / max(np.multiply(lps.shape, lps.spacing))
    assert np.array_equal(page, page_of([PanelRow(panels)], [LegendEntry(1, "ball   0 ml", False)], scale))


@pytest.mark.parametrize("attention", [False, True])
def test_a_label_everywhere_is_a_fill_of_a_seventh_and_an_outline_and_heat_dims_the_scan(
    tmp_path: Path, attention: bool
) -> None:
    scan = Volume(np.full(SHAPE, 100, np.int16), AFFINE)
    labels = scan.with_voxels(np.ones(SHAPE, np.uint8))
    heat = np.full(SHAPE, 0.25, np.float32)
    heat[0, :, :] = 1.25  # in one slice only, which no cut but the first of its axis shows
    more = {"attention": heat, "attention_name": "gate"} if attention else {}
    page = saved(tmp_path / "a.png", scan, labels, NAMES, window=WINDOW, **more)
    lps = scan.to_lps()
    cuts = views(lps, (0, 0, 0))
    fill = GREY + 0.14 * (np.array(label_colour(1)) - GREY)
    scale = 460 / max(np.multiply(lps.shape, lps.spacing))
    rows = [PanelRow([Panel(plain(size, fill, 1), edges, caption) for edges, caption, size in cuts])]
    amount = f"ball   {labels.voxels.size * labels.voxel_ml:,.1f} ml"
    assert float(amount.split()[1]) == pytest.approx(969, abs=10)
    if not attention:
        assert np.array_equal(page, page_of(rows, [(1, amount)], scale))
        return
    # The axial cut is far from the hot slice: where attention is least, only the dimmed scan is seen.
    dimmed = [Panel(plain(size, 0.8 * GREY, 1, 1), edges, caption) for edges, caption, size in cuts]
    rows.append(PanelRow(dimmed, "gate   0.25", "1.25"))
    top = 20 + 30 + rows[0].height + 14
    expected = page_of(rows, [(1, amount)], scale)
    assert page.shape == expected.shape
    assert np.array_equal(page[top:-50, :480], expected[top:-50, :480])


def test_heat_covers_three_quarters_where_attention_is_largest(tmp_path: Path) -> None:
    scan = Volume(np.full((1, 40, 40), 100, np.int16), AFFINE)
    heat = np.zeros((1, 40, 40), np.float32)
    heat[:, 20:] = 2.0
    page = saved(tmp_path / "a.png", scan, scan.with_voxels(np.zeros((1, 40, 40), np.uint8)), NAMES,
                 window=WINDOW, attention=heat)  # fmt: skip
    dimmed = 0.8 * GREY
    hot = dimmed + 0.75 * (heat_colours(np.array(1.0)) - dimmed)
    rows = 2 * 620 + 14 + 30 + 30 + 20 + 30
    seen = page[: rows + 10, 300:340].reshape(-1, 3)
    for colour in (np.full(3, dimmed), hot):
        assert (seen == np.floor(colour + 0.5)).all(axis=1).sum() > 1000


def test_one_slice_is_one_panel_of_620_pixels(tmp_path: Path) -> None:
    scan = Volume(np.full((1, 31, 62), 100, np.int16), AFFINE)
    page = saved(tmp_path / "a.png", scan, scan.with_voxels(np.zeros((1, 31, 62), np.uint8)), NAMES, window=WINDOW)
    assert page.shape[1] == 620 + 40
    assert page.shape[0] == 20 + 30 + 310 + 14 + 30 + 20


def test_pixels_are_counted_where_there_are_no_millimetres(tmp_path: Path) -> None:
    scan = Volume(np.full((1, 40, 62), 100, np.uint8), np.eye(4)[[2, 1, 0, 3]], calibrated=False)
    labels = scan.with_voxels(np.ones((1, 40, 62), np.uint8))
    page = saved(tmp_path / "a.png", scan, labels, NAMES, window=WINDOW)
    fill = GREY + 0.14 * (np.array(label_colour(1)) - GREY)
    panel = Panel(plain((400, 620), fill, 1), "", "62 x 40 pixels")
    assert np.array_equal(page, page_of([PanelRow([panel])], [(1, "ball   2,480 pixels")], 0.0))


def test_a_cut_goes_where_most_of_the_labels_is(tmp_path: Path) -> None:
    scan = Volume(np.full(SHAPE, 100, np.int16), AFFINE)
    labels = scan.with_voxels(np.zeros(SHAPE, np.uint8))
    labels.voxels[1:9, 10:40, 20:60] = 1
    labels.voxels[3, 10:70, 20:60], labels.voxels[1:9, 30, 20:100], labels.voxels[1:9, 10:75, 50] = 1, 1, 1
    page = saved(tmp_path / "a.png", scan, labels, NAMES, window=WINDOW)
    lps = scan.to_lps()
    turned = labels.to_lps().voxels
    cuts = tuple(int(np.count_nonzero(turned, axis=tuple({0, 1, 2} - {axis})).argmax()) for axis in range(3))
    assert cuts == (6, 30, 69)
    blank = page_of([PanelRow([Panel(plain(size, GREY), "", "") for _, _, size in views(lps, cuts)])], [], 0.0)
    panels = [Panel(plain(size, GREY), "", caption) for _, caption, size in views(lps, cuts)]
    captions = page_of([PanelRow(panels)], [], 0.0)
    assert np.array_equal(page[20:50], captions[20:50])
    assert not np.array_equal(captions[20:50], blank[20:50])


@pytest.mark.parametrize("name", ["affine", "shape"])
def test_either_difference_of_the_grids_is_refused(tmp_path: Path, name: str) -> None:
    scan = Volume(np.full(SHAPE, 100, np.int16), AFFINE)
    shape = (10, 80, 119) if name == "shape" else SHAPE
    affine = AFFINE + np.array([[0, 0, 0, 0.02]] + 3 * [[0, 0, 0, 0]]) if name == "affine" else AFFINE
    with pytest.raises(GeometryError):
        write_overlay(tmp_path / "a.png", scan, Volume(np.zeros(shape, np.uint8), affine), NAMES)


# ------------------------------------------------------------------------------------------------------- grey windows


def test_the_window_is_of_the_values_above_the_smallest() -> None:
    values = np.arange(101.0)
    assert display_window(np.r_[np.full(50, -1.0), values].reshape(1, 1, -1)) == (1.0, 99.0)
    assert display_window(np.full((1, 1, 3), 5.0)) == (5.0, 5.000001)


@pytest.mark.parametrize(("depth", "every"), [(128, 1), (129, 2)])
def test_of_a_scan_above_two_million_voxels_every_second_one_counts(depth: int, every: int) -> None:
    scan = np.zeros((depth, 128, 128), np.float32)
    scan[1::2] = scan[:, 1::2] = scan[:, :, 1::2] = 1000.0
    scan[::2, ::2, ::2] = np.linspace(1, 2, scan[::2, ::2, ::2].size).reshape(scan[::2, ::2, ::2].shape)
    high = display_window(scan)[1]
    assert (high == 1000) is (every == 1)
