"""Geometry never leaves the voxels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medattn_edge.errors import GeometryError
from medattn_edge.volume import Volume

LPS = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def turn(a: float, b: float, c: float) -> np.ndarray:
    """The rotation by a about x, then b about y, then c about z, in radians."""
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return z @ y @ x


@st.composite
def volumes(draw) -> Volume:
    """Any axis order, direction, obliquity, spacing and origin; perhaps with channels."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=3, max_size=3)))
    shape = (*draw(st.sampled_from([(), (1,), (3,)])), *shape)
    steps = np.eye(3)[list(draw(st.permutations(range(3))))] @ np.diag(draw(st.tuples(*[st.sampled_from([-1, 1])] * 3)))
    spacing = draw(st.tuples(*[st.floats(0.05, 20)] * 3))
    affine = np.eye(4)
    affine[:3, :3] = turn(*draw(st.tuples(*[st.floats(-3.2, 3.2)] * 3))) @ steps @ np.diag(spacing)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-2000, 2000)] * 3))
    return Volume(np.arange(np.prod(shape), dtype=np.int32).reshape(shape), affine)


@given(volumes())
@settings(max_examples=300, deadline=None)
def test_the_way_to_lps_and_back_is_bit_identical(volume):
    back = volume.to_lps().like(volume)
    assert np.array_equal(back.voxels, volume.voxels)
    assert back.voxels.dtype == volume.voxels.dtype
    assert back.affine.tobytes() == volume.affine.tobytes()


@given(volumes())
@settings(max_examples=300, deadline=None)
def test_no_voxel_moves_in_the_patient_on_the_way_to_lps(volume):
    turned = volume.to_lps()
    first, second = volume.voxels.reshape(-1, *volume.shape)[0], turned.voxels.reshape(-1, *turned.shape)[0]
    for value in first.ravel()[:: max(1, first.size // 4)]:
        before = volume.point(*np.argwhere(first == value)[0])
        after = turned.point(*np.argwhere(second == value)[0])
        assert np.allclose(before, after, rtol=0, atol=1e-6)


@given(volumes())
@settings(max_examples=300, deadline=None)
def test_in_lps_every_axis_steps_in_its_own_positive_direction(volume):
    affine = volume.to_lps().affine
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    diagonal = unit[[2, 1, 0], [0, 1, 2]]
    assert (diagonal >= 0).all()
    # The nearest of all axis orders: no other has a larger sum of cosines.
    others = [np.abs(unit[[2, 1, 0], order]).sum() for order in ([0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])]
    assert diagonal.sum() >= max(others) - 1e-9


@given(volumes())
@settings(max_examples=50, deadline=None)
def test_to_lps_is_the_identity_the_second_time(volume):
    once = volume.to_lps()
    twice = once.to_lps()
    assert np.array_equal(once.voxels, twice.voxels)
    assert np.array_equal(once.affine, twice.affine)


@given(volumes(), st.tuples(*[st.floats(-3, 8)] * 3))
@settings(max_examples=50, deadline=None)
def test_index_undoes_point(volume, index):
    assert np.allclose(volume.index(volume.point(*index)), index, atol=1e-6)


def test_spacing_and_volume_of_a_voxel_are_in_mm_and_ml():
    volume = Volume(np.zeros((2, 3, 4)), LPS @ np.diag((5.0, 2.0, 0.5, 1)))
    assert volume.shape == (2, 3, 4)
    assert volume.spacing == (5.0, 2.0, 0.5)
    assert volume.voxel_ml == pytest.approx(0.005)


def test_channels_are_counted_and_are_no_part_of_the_grid():
    volume = Volume(np.zeros((3, 2, 4, 5)), LPS)
    assert volume.channels == 3
    assert volume.shape == (2, 4, 5)
    assert volume.with_voxels(np.ones((2, 4, 5))).channels == 1


def test_voxels_of_another_grid_are_refused():
    with pytest.raises(GeometryError, match="expected the grid"):
        Volume(np.zeros((2, 3, 4)), LPS).with_voxels(np.zeros((2, 3, 5)))


def test_labels_of_another_place_are_refused():
    scan = Volume(np.zeros((2, 3, 4)), LPS)
    moved = np.array(LPS)
    moved[0, 3] = 1.0
    thicker = LPS @ np.diag((2.0, 1.0, 1.0, 1.0))
    for other in (Volume(scan.voxels, moved), Volume(np.zeros((2, 3, 5)), LPS), Volume(scan.voxels, thicker)):
        with pytest.raises(GeometryError):
            other.like(scan)


@pytest.mark.parametrize(
    "affine",
    [
        np.zeros((4, 4)),
        np.full((4, 4), np.nan),
        np.eye(3),
        np.diag((1.0, 1.0, 0.0, 1.0)),
        np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.diag((1.0, 1.0, 1.0, 2.0)),
    ],
)
def test_an_affine_that_places_nothing_is_refused(affine):
    with pytest.raises(GeometryError):
        Volume(np.zeros((2, 3, 4)), affine)


@pytest.mark.parametrize("shape", [(3, 4), (1, 1, 2, 3, 4), (0, 3, 4)])
def test_voxels_that_are_no_grid_are_refused(shape):
    with pytest.raises(GeometryError, match="voxels of shape"):
        Volume(np.zeros(shape), LPS)


def test_the_affine_cannot_be_changed_afterwards():
    affine = np.array(LPS)
    volume = Volume(np.zeros((2, 3, 4)), affine)
    affine[0, 3] = 99
    assert volume.affine[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        volume.affine[0, 3] = 1
