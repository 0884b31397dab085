"""Outlines of a slice: whoever fills them finds the pixels that were outlined, by whichever rule it fills."""

from __future__ import annotations

import sys

import numpy as np
import pytest

contourpy = pytest.importorskip("contourpy", reason="the extra dicom is not installed")
polygons = pytest.importorskip("matplotlib.path", reason="matplotlib is not installed")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from medattn_edge.errors import MissingDependency  # noqa: E402
from medattn_edge.io.dicom.contours import outlines  # noqa: E402


def centres_inside(ring: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Whether the centre of each pixel lies inside one ring, by matplotlib."""
    points = np.stack(np.mgrid[: shape[0], : shape[1]], axis=-1).reshape(-1, 2)
    closed = polygons.Path(np.vstack([ring, ring[:1]]), closed=True)
    return closed.contains_points(points).reshape(shape)


def winding(ring: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """How often a ring goes around the centre of each pixel: the sum of the angles that it is seen under."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    point = (ring[:, 0, None, None] - rows) + 1j * (ring[:, 1, None, None] - columns)
    turns = np.angle(np.roll(point, -1, axis=0) / point).sum(axis=0) / (2 * np.pi)
    return np.rint(turns).astype(int)


def area(ring: np.ndarray) -> float:
    """Of a ring, without a sign."""
    h, w = ring.T
    return abs(float((w * np.roll(h, -1) - h * np.roll(w, -1)).sum())) / 2


def check_every_rule(mask: np.ndarray) -> list[np.ndarray]:
    rings = outlines(mask)
    filled = [centres_inside(ring, mask.shape) for ring in rings]
    nothing = np.zeros(mask.shape, bool)
    np.testing.assert_array_equal(np.logical_or.reduce([nothing, *filled]), mask, "united")
    np.testing.assert_array_equal(np.logical_xor.reduce([nothing, *filled]), mask, "each cutting out of the others")
    around = [winding(ring, mask.shape) for ring in rings]
    np.testing.assert_array_equal(np.any([nothing, *(one != 0 for one in around)], axis=0), mask, "wound around")
    return rings


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 14), st.integers(1, 14), st.sampled_from((0.1, 0.5, 0.7, 0.9, 1.0)))
def test_any_pixels_are_found_again_by_readers_of_both_conventions(seed, height, width, density) -> None:
    check_every_rule(np.random.default_rng(seed).random((height, width)) < density)


def test_a_ring_with_an_island_is_two_contours_and_its_hole_is_open() -> None:
    mask = np.zeros((11, 13), bool)
    mask[1:10, 1:12], mask[3:8, 3:10], mask[5, 6] = True, False, True
    rings = check_every_rule(mask)
    assert len(rings) == 2
    assert sorted(map(area, rings)) == [0.5, 9 * 11 - 0.5 - (5 * 7 - 0.5)]


def test_holes_behind_holes_and_in_walls_of_one_pixel_are_joined() -> None:
    mask = np.ones((9, 11), bool)
    mask[1:8:2, 1:10:2] = False
    (ring,) = check_every_rule(mask)
    assert area(ring) == pytest.approx(9 * 11 - 0.5 - 20 * 0.5)


def test_no_channel_comes_nearer_to_a_centre_than_a_fifth_of_a_pixel() -> None:
    mask = np.ones((5, 40), bool)
    mask[2, 2], mask[2, 37] = False, False
    (ring,) = check_every_rule(mask)
    ends = np.roll(ring, -1, axis=0)
    centres = np.stack(np.mgrid[:5, :40], axis=-1).reshape(-1, 1, 2)
    along = ((centres - ring) * (ends - ring)).sum(axis=-1) / ((ends - ring) ** 2).sum(axis=-1)
    nearest = ring + np.clip(along, 0, 1)[..., None] * (ends - ring)
    assert np.linalg.norm(centres - nearest, axis=-1).min() > 0.2


def test_one_pixel_is_a_diamond_in_the_corner_of_a_slice_too() -> None:
    mask = np.zeros((3, 3), np.uint8)
    mask[0, 2] = 7
    (ring,) = outlines(mask)
    assert sorted(map(tuple, ring.tolist())) == [(-0.5, 2.0), (0.0, 1.5), (0.0, 2.5), (0.5, 2.0)]


def test_straight_edges_have_no_vertex_in_between_and_nothing_has_no_ring() -> None:
    (ring,) = outlines(np.ones((50, 60)))
    assert len(ring) == 8
    assert outlines(np.zeros((4, 5))) == []


def test_without_contourpy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "contourpy", None)
    with pytest.raises(MissingDependency, match=r"contourpy(.|\n)*\[dicom\]"):
        outlines(np.ones((2, 2)))
