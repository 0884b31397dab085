"""Channels share a grid: turned exactly where only axes differ, refused or resampled where the grid does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import affine_transform

from medattn_edge.errors import GeometryError, ScanError
from medattn_edge.io.grids import gather, resampled
from medattn_edge.volume import Volume

SHAPE = (5, 12, 10)
AFFINE = np.array([[0, 0.1, 0.75, -100.5], [0.02, 0.8, 0, -60], [3.0, 0, 0.05, 20], [0, 0, 0, 1]])


def scan(seed: int = 0, affine: np.ndarray = AFFINE, shape: tuple[int, ...] = SHAPE) -> Volume:
    return Volume(np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16), affine)


def moved(**changes: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, 3] += [changes.get("l", 0), changes.get("p", 0), changes.get("s", 0)]
    affine[:3, :3] *= changes.get("scale", 1)
    return affine


def test_scans_on_one_grid_are_stacked_with_their_own_values() -> None:
    one, two = scan(0), replace(scan(1), voxels=scan(1).voxels.astype(np.float32) + 0.5)
    gathered = gather([one, two], ["a", "b"])
    assert gathered.notes == ()
    assert gathered.volume.voxels.shape == (2, *SHAPE)
    assert np.array_equal(gathered.volume.voxels[0], one.voxels)
    assert np.array_equal(gathered.volume.voxels[1], two.voxels)
    assert np.array_equal(gathered.volume.affine, one.affine)


@pytest.mark.parametrize("code", ["RAS", "LPS", "ASR", "PIL", "SLA"])
def test_axes_in_another_order_are_turned_exactly(code: str) -> None:
    one, two = scan(0), scan(1)
    gathered = gather([one, two.oriented(code)], ["a", "b"])
    assert np.array_equal(gathered.volume.voxels, np.stack([one.voxels, two.voxels]))


def test_what_headers_round_is_the_same_grid_and_what_a_patient_would_see_is_not() -> None:
    rounded = scan(1, np.float32(AFFINE).astype(np.float64))
    assert gather([scan(), rounded], ["a", "b"]).volume.channels == 2
    with pytest.raises(GeometryError, match="b is not on the grid of a"):
        gather([scan(), scan(1, moved(l=0.05))], ["a", "b"])


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (scan(1, shape=(5, 12, 11)), ["size 5x12x11, not 5x12x10"]),
        (scan(1, moved(scale=1.5)), ["spacing 4.5001x1.20934x1.1275, not 3.00007x0.806226x0.751665 mm"]),
        (scan(1, moved(p=7)), ["origin -100.5, -53, 20, not -100.5, -60, 20 mm"]),
        (scan(1, AFFINE @ np.diag([1, 1, 1, 1]) + np.array([[0, 0.2, 0, 0], *np.zeros((3, 4))])), ["direction"]),
        (replace(scan(1), calibrated=False), ["spacing without mm, not in mm"]),
        (scan(1, moved(s=3), (6, 12, 10)), ["size 6x12x10", "origin -100.5, -60, 23"]),
    ],
)
def test_each_difference_is_named_with_both_values(other: Volume, words: list[str]) -> None:
    with pytest.raises(GeometryError) as raised:
        gather([scan(), other], ["t1.nii.gz", "t2.nii.gz"])
    for word in ("t2.nii.gz is not on the grid of t1.nii.gz", "--resample-to-first", *words):
        assert word in str(raised.value)


def test_a_scan_on_another_grid_is_resampled_as_scipy_does() -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    other = Volume(
        np.random.default_rng(2).random((7, 16, 14)).astype(np.float32),
        np.r_[(turn @ moved(scale=1.1))[:, :3].T, [[-100, -61, 18, 1]]].T,
    )
    ours, outside = resampled(other, scan())
    mapping = np.linalg.solve(other.affine, AFFINE)
    expected = affine_transform(other.voxels.astype(np.float64), mapping, output_shape=SHAPE, order=1, mode="nearest")
    index = np.indices(SHAPE).reshape(3, -1)
    where = mapping[:3, :3] @ index + mapping[:3, 3:]
    inside = ((where >= -0.5) & (where <= np.array(other.shape)[:, None] - 0.5)).all(0).reshape(SHAPE)
    assert 0.1 < inside.mean() < 1
    assert outside == pytest.approx(1 - inside.mean())
    np.testing.assert_allclose(ours[inside], expected[inside], atol=1e-5)
    assert (ours[~inside] == other.voxels.min()).all()


def test_a_linear_ramp_stays_where_it_is_in_the_patient() -> None:
    """Whatever the grid, the value at a point is the point's own: nothing has moved half a voxel."""

    def ramp(grid: Volume) -> Volume:
        points = np.indices(grid.shape).reshape(3, -1)
        places = grid.affine[:3, :3] @ points + grid.affine[:3, 3:]
        return replace(grid, voxels=(places * [[1], [2], [3]]).sum(0).reshape(grid.shape).astype(np.float32))

    fine = scan(0, AFFINE @ np.array([[0.5, 0, 0, 1], [0, 0.5, 0, 3], [0, 0, 0.5, 2], [0, 0, 0, 1]]), (5, 9, 9))
    gathered = gather([ramp(fine), ramp(scan())], ["fine", "coarse"], resample=True)
    np.testing.assert_allclose(gathered.volume.voxels[1], gathered.volume.voxels[0], atol=1e-3)
    (note,) = gathered.notes
    assert "coarse was resampled linearly to the grid of fine" in note
    assert "0.0% of the voxels lie outside" in note


def test_scans_that_do_not_overlap_or_have_no_millimetres_are_not_resampled() -> None:
    with pytest.raises(GeometryError, match="do not overlap"):
        gather([scan(), scan(1, moved(s=500))], ["a", "b"], resample=True)
    with pytest.raises(GeometryError, match="without mm"):
        gather([scan(), replace(scan(1), calibrated=False)], ["a", "b"], resample=True)


def test_a_scan_of_several_channels_among_several_is_refused() -> None:
    with pytest.raises(ScanError, match="b has 2 channels"):
        gather([scan(), scan(1, shape=(2, *SHAPE))], ["a", "b"])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("voxels", "outside"), [(0.49, 0), (0.5, 0), (0.51, 1), (-0.49, 0), (-0.5, 0), (-0.51, 1), (1.5, 1), (1.51, 2)]
)
def test_a_voxel_is_outside_when_its_centre_is_more_than_half_a_voxel_beyond_an_end(
    axis: int, voxels: float, outside: int
) -> None:
    """Within half a voxel it repeats the last value, beyond it has the lowest."""
    shift = np.eye(4)
    shift[axis, 3] = voxels
    values = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)[::-1, ::-1, ::-1] + 1
    source = Volume(np.ascontiguousarray(values), AFFINE)
    ours, share = resampled(source, scan(0, AFFINE @ shift))
    length = SHAPE[axis]
    assert share == pytest.approx(outside / length)
    ends = np.moveaxis(ours, axis, 0)
    own = np.moveaxis(source.voxels, axis, 0)
    last, end = (ends[-1], own[-1]) if voxels > 0 else (ends[0], own[0])
    if outside:
        assert (last == 1).all()
    else:
        np.testing.assert_allclose(last, end, rtol=1e-6)
    inner = own[:-2].astype(float), own[1:-1].astype(float)
    part = abs(voxels) % 1
    if 0 < voxels < 1:
        np.testing.assert_allclose(ends[:-2], inner[0] * (1 - part) + inner[1] * part, rtol=1e-5)


def test_the_far_corner_is_named_where_nothing_else_differs() -> None:
    """Spacing, direction and origin are each within what headers round, and add up along a long scan."""
    longer = AFFINE @ np.diag((1, 1, 1 + 0.9e-4, 1))
    one, two = (Volume(np.zeros((2, 2, 400), np.uint8), affine) for affine in (AFFINE, longer))
    with pytest.raises(GeometryError, match=r"its far corner is 0\.027 mm away"):
        gather([one, two], ["a", "b"])


def test_the_note_of_a_resampling_says_how_much_lies_outside() -> None:
    gathered = gather([scan(), scan(1, moved(s=3.0))], ["a", "b"], resample=True)
    (note,) = gathered.notes
    assert note.endswith("; 20.0% of the voxels lie outside it and have its lowest value")
