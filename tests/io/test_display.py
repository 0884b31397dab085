"""The grey window and the outlines of every picture that shows labels on a scan."""

from __future__ import annotations

import numpy as np
import pytest

from medattn_edge.io.colours import label_colour
from medattn_edge.io.display import display_window, draw_labels, label_name


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
