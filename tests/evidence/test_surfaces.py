"""HD95 and surface Dice: by hand, against all pairs of surface voxels, and against MONAI."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest

from medattn_edge.evidence.records import SurfaceFigures
from medattn_edge.evidence.surfaces import surface_figures

STEPS = (5.0, 0.75, 1.25)


def box(shape: tuple[int, ...], *sides: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


def blobs(seed: int, shape: tuple[int, int, int] = (9, 14, 13)) -> tuple[np.ndarray, np.ndarray]:
    """A ragged mask, and the same with some voxels of another opinion."""
    rng = np.random.default_rng(seed)
    smooth = rng.random(shape)
    for axis in range(3):
        smooth = smooth + np.roll(smooth, 1, axis) + np.roll(smooth, -1, axis)
    first = smooth > np.quantile(smooth, 0.75)
    return first, first ^ (rng.random(shape) > 0.97)


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels with a face to the outside, one at a time."""
    inside = {tuple(place) for place in np.argwhere(mask)}
    steps = [s for s in itertools.product((-1, 0, 1), repeat=mask.ndim) if sum(map(abs, s)) == 1]
    return np.array([p for p in sorted(inside) if any(tuple(np.add(p, s)) not in inside for s in steps)])


def test_a_box_that_is_moved_by_a_voxel_is_as_far_as_the_voxel_is_long() -> None:
    first, second = box((12, 20, 20), (2, 9), (5, 15), (5, 15)), box((12, 20, 20), (3, 10), (5, 15), (5, 15))
    found = surface_figures(first, second, STEPS)
    assert found.hd95 == pytest.approx(5.0)
    assert found.surface_dice_1_voxel == 1.0
    assert found.surface_dice_2_mm is not None
    assert found.surface_dice_2_mm < 0.75  # both ends are 5 mm away, and the sides as near as they were


def test_a_single_slice_is_a_picture_whose_inside_is_no_surface() -> None:
    first, second = box((1, 20, 20), (0, 1), (4, 14), (4, 14)), box((1, 20, 20), (0, 1), (4, 14), (7, 17))
    found = surface_figures(first, second, (1.0, 1.0, 1.0))
    assert found.hd95 == pytest.approx(3.0)
    assert found.surface_dice_1_voxel is not None
    assert found.surface_dice_1_voxel < 0.8


def test_the_same_masks_are_nowhere_apart_and_an_empty_one_has_no_distance() -> None:
    first, _ = blobs(1)
    assert surface_figures(first, first, STEPS) == SurfaceFigures(0.0, 1.0, 1.0)
    assert surface_figures(first, np.zeros_like(first), STEPS) == SurfaceFigures(None, None, None)
    assert surface_figures(np.zeros_like(first), first, STEPS) == SurfaceFigures(None, None, None)


def test_without_a_spacing_nothing_is_said_of_millimetres() -> None:
    first, second = box((1, 20, 20), (0, 1), (4, 14), (4, 14)), box((1, 20, 20), (0, 1), (4, 14), (7, 17))
    found = surface_figures(first, second, (9.0, 9.0, 9.0), calibrated=False)
    assert (found.hd95, found.surface_dice_2_mm) == (3.0, None)


@pytest.mark.parametrize("seed", range(4))
def test_the_figures_are_those_of_all_pairs_of_surface_voxels(seed: int) -> None:
    first, second = blobs(seed)
    a, b = surface(first), surface(second)
    there = np.array([[np.linalg.norm((p - q) * STEPS) for q in b] for p in a])
    to_b, to_a = there.min(axis=1), there.min(axis=0)
    found = surface_figures(first, second, STEPS)
    assert found.hd95 == pytest.approx(max(np.percentile(to_b, 95), np.percentile(to_a, 95)))
    near = np.count_nonzero(to_b <= 2) + np.count_nonzero(to_a <= 2)
    assert found.surface_dice_2_mm == pytest.approx(near / (len(a) + len(b)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_monai_says_the_same(seed: int) -> None:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI warns of itself
        metrics = pytest.importorskip("monai.metrics")
        first, second = blobs(seed, (12, 30, 26))
        pair = [torch.from_numpy(one)[None, None] for one in (second, first)]
        hd95 = metrics.compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=STEPS)
        dice = metrics.compute_surface_dice(*pair, [2.0], include_background=True, spacing=STEPS)
        one = metrics.compute_surface_dice(*pair, [1.0], include_background=True, spacing=(1.0, 1.0, 1.0))
    found = surface_figures(first, second, STEPS)
    assert found.hd95 == pytest.approx(float(hd95), abs=1e-5)
    assert found.surface_dice_2_mm == pytest.approx(float(dice), abs=1e-6)
    assert found.surface_dice_1_voxel == pytest.approx(float(one), abs=1e-6)
