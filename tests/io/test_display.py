"""The grey window and the outlines of every picture that shows labels on a scan."""

from __future__ import annotations

import numpy as np
import pytest

from medattn_edge.io.colours import label_colour
from medattn_edge.io.display import display_window, draw_labels, label_name, model_window
from medattn_edge.spec import Intensity


def test_the_window_leaves_padding_and_what_is_not_finite_out():
    scan = np.full((4, 30, 30), -2000.0)
    scan[1:3, 5:25, 5:25] = np.linspace(-100, 100, 800).reshape(2, 20, 20)
    scan[0, 0, :3] = np.nan, np.inf, -np.inf
    low, high = display_window(scan)
    assert (low, high) == pytest.approx((-98, 98), abs=0.1)


def test_a_scan_of_one_value_or_of_none_has_a_window_too():
    low, high = display_window(np.full((1, 4, 4), 7, np.int16))
    assert low == 7 < high
    assert display_window(np.full((1, 4, 4), np.nan)) == (0.0, 1.0)


def test_the_window_of_a_large_scan_is_that_of_a_part_of_its_voxels():
    scan = np.random.default_rng(1).normal(40, 300, (130, 256, 256)).astype(np.float32)
    whole = np.percentile(scan, (1, 99))
    np.testing.assert_allclose(display_window(scan), whole, atol=5)


def test_an_outline_lies_just_inside_its_label_and_the_rest_stays_or_is_filled():
    labels = np.zeros((4, 4), np.uint8)
    labels[1:3, 1:3] = 2
    for fill in (0.0, 0.5):
        pixels = np.full((40, 40, 3), 100.0)
        draw_labels(pixels, labels, fill, 2)
        colour = np.array(label_colour(2))
        np.testing.assert_array_equal(pixels[10:12, 10:30], np.broadcast_to(colour, (2, 20, 3)))
        np.testing.assert_array_equal(pixels[15, 15], 100 + fill * (colour - 100))
        np.testing.assert_array_equal(pixels[9, 9], (100, 100, 100))
        np.testing.assert_array_equal(pixels[30, 30], (100, 100, 100))


def test_a_label_without_a_name_is_called_by_its_number():
    assert [label_name(("background", "lung", ""), value) for value in (1, 2, 3)] == ["lung", "label 2", "label 3"]


@pytest.mark.parametrize(
    ("intensity", "window"),
    [
        ("window:-160:240", (-160, 240)),
        ("clip:-1000:400,map:-1000:400:-1:1", (-1000, 400)),
        ("map:-57:164:0:1,clip:0:1", (-57, 164)),
        ("percentile:10:90,zscore", (10, 90)),
        ("map:10%:50%:0:1,clip:0:1", (10, 50)),
        ("percentile:50:100:nonzero,zscore", (50.5, 100)),
        ("map:0:50:0:1", None),  # nothing is clipped: the network sees what lies beyond
        ("zscore", None),
        ("none", None),
        ("window:0:10;window:20:30", (0, 10)),  # the first channel is shown
    ],
)
def test_a_picture_shows_what_the_network_does_not_clip_away(intensity, window):
    scan = np.arange(101.0).reshape(1, 1, 101)
    found = model_window(Intensity.parse(intensity), scan)
    assert found == (None if window is None else pytest.approx(window))


def test_percentiles_of_nothing_are_no_window():
    for values in (np.full((1, 2, 2), np.nan), np.zeros((1, 2, 2))):
        assert model_window(Intensity.parse("percentile:1:99:nonzero"), values) is None
    assert model_window(Intensity.parse("percentile:1:99"), np.full((1, 2, 2), 7)) is None
