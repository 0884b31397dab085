"""Cleanup: components and holes of each label by itself, the same answer however the scan is stored."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from medattn_edge.errors import MissingDependency, ScanError
from medattn_edge.inference import segment
from medattn_edge.inference.cleanup import clean
from medattn_edge.installation import install_line
from medattn_edge.labels import Meaning
from medattn_edge.spec import Cleanup, ModelSpec
from medattn_edge.volume import Volume

Make = Callable[..., Any]
FULL = np.ones((3, 3, 3))


def spec(*steps: str, sigmoid: bool = False) -> ModelSpec:
    labels = ("liver", "lesion") if sigmoid else ("background", "liver", "lesion")
    activation = "sigmoid" if sigmoid else "softmax"
    return ModelSpec("fake", 1, labels, (8, 8), (1, 1), activation=activation, cleanup=tuple(map(Cleanup.parse, steps)))


def blobs(seed: int, sigmoid: bool) -> np.ndarray:
    """Labels of many components of both structures, with holes."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(2, 14, 22, 18)), (0, 1.2, 1.2, 1.2))
    first, second = noise > 0.02
    return (first + 2 * second if sigmoid else np.where(second, 2, first)).astype(np.uint8)


@pytest.mark.parametrize("sigmoid", [False, True], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("seed", range(3))
def test_the_largest_component_of_every_structure_is_kept(seed: int, sigmoid: bool) -> None:
    wanted = spec("largest:*", sigmoid=sigmoid)
    meaning, labels = Meaning.of(wanted), blobs(seed, sigmoid)
    cleaned = labels.copy()
    clean(cleaned, wanted, 1.0)
    for name in meaning.structures:
        components, count = ndimage.label(meaning.mask(labels, name), FULL)
        sizes = ndimage.sum_labels(np.ones(labels.shape), components, range(1, count + 1))
        assert count > 1
        np.testing.assert_array_equal(meaning.mask(cleaned, name), components == 1 + sizes.argmax())


@pytest.mark.parametrize("sigmoid", [False, True], ids=["softmax", "sigmoid"])
def test_components_below_so_many_ml_are_dropped_of_the_named_structure_only(sigmoid: bool) -> None:
    wanted = spec("drop-below:lesion:0.3", sigmoid=sigmoid)
    meaning, labels = Meaning.of(wanted), blobs(0, sigmoid)
    cleaned = labels.copy()
    clean(cleaned, wanted, 0.01)  # 30 voxels
    components, count = ndimage.label(meaning.mask(labels, "lesion"), FULL)
    sizes = ndimage.sum_labels(np.ones(labels.shape), components, range(1, count + 1))
    kept = np.isin(components, 1 + np.flatnonzero(sizes >= 30))
    assert 0 < kept.sum() < (components > 0).sum()
    np.testing.assert_array_equal(meaning.mask(cleaned, "lesion"), kept)
    np.testing.assert_array_equal(meaning.mask(cleaned, "liver"), meaning.mask(labels, "liver"))


def test_a_component_of_exactly_so_many_ml_stays() -> None:
    labels = np.zeros((1, 4, 9), np.uint8)
    labels[0, 1, 1:4], labels[0, 1, 6:8] = 1, 1
    clean(labels, spec("drop-below:liver:0.3"), 0.1)  # three times a tenth is more than 0.3 in floating point
    assert labels.sum() == 3
    clean(labels, spec("drop-below:liver:0.31"), 0.1)
    assert not labels.any()


def test_of_the_holes_of_a_label_only_the_background_is_filled() -> None:
    labels = np.zeros((7, 7, 7), np.uint8)
    labels[1:6, 1:6, 1:6] = 1
    labels[3, 3, 2:5] = [0, 2, 0]
    labels[3, 3, 6] = 0
    expected = labels.copy()
    expected[3, 3, [2, 4]] = 1
    clean(labels, spec("fill-holes:liver"), 1.0)
    np.testing.assert_array_equal(labels, expected)
    regions = np.zeros((7, 7, 7), np.uint8)
    regions[1:6, 1:6, 1:6] = 1
    regions[3, 3, 2:5] = [0, 2, 0]
    clean(regions, spec("fill-holes:liver", sigmoid=True), 1.0)
    assert regions[3, 3].tolist() == [0, 1, 1, 3, 1, 1, 0]


def test_a_hole_has_no_way_out_in_three_dimensions_or_within_a_single_slice() -> None:
    ring = np.ones((1, 5, 5), np.uint8)
    ring[0, 2, 2] = 0
    alone, stacked = np.pad(ring, ((0, 0), (1, 1), (1, 1))), np.pad(ring, 1)
    for labels, filled in ((alone, True), (stacked, False)):
        clean(labels, spec("fill-holes:liver"), 1.0)
        assert bool(labels[labels.shape[0] // 2, 3, 3]) is filled


def test_corners_join_and_steps_go_in_their_order() -> None:
    labels = np.zeros((3, 5, 5), np.uint8)
    labels[0, 0, 0], labels[1, 1, 1], labels[2, 4, 4] = 1, 1, 1
    clean(labels, spec("largest:liver"), 1.0)
    assert np.argwhere(labels).tolist() == [[0, 0, 0], [1, 1, 1]]
    clean(labels, spec("drop-below:*:3", "largest:*"), 1.0)
    assert not labels.any()
    clean(labels, spec("largest:*", "fill-holes:*", "drop-below:*:3"), 1.0)  # nothing is there: nothing to do
    assert not labels.any()


@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=3)))
def test_of_two_components_of_one_size_the_same_one_is_kept_however_the_scan_is_stored(
    fake: Make, volume_of: Make, flips: tuple[bool, ...]
) -> None:
    voxels = np.zeros((6, 9, 10), np.float32)
    voxels[4, 1:3, 1:3] = voxels[1, 6:8, 6:8] = 100
    lps = volume_of(voxels)
    stored = lps._permuted((2, 0, 1), flips)
    wanted = ModelSpec(
        "fake", 1, ("background", "box"), (8, 8), (1, 1), outputs=1, cleanup=(Cleanup("largest", "box"),)
    )
    found = segment(fake(wanted, lambda patches: patches - 50), stored).labels.like(lps).voxels
    assert np.argwhere(found).tolist() == [[1, h, w] for h in (6, 7) for w in (6, 7)]


def test_a_scan_without_millimetres_and_a_host_without_scipy_are_told_before_the_work(
    fake: Make, volume_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(patches: np.ndarray) -> np.ndarray:
        raise AssertionError("the network was run")

    session = fake(spec("drop-below:liver:2"), never)
    picture = Volume(np.zeros((1, 8, 8), np.float32), volume_of(np.zeros((1, 8, 8))).affine, calibrated=False)
    with pytest.raises(ScanError, match=r"drop-below:liver:2(.|\n)*--pixel-spacing"):
        segment(session, picture)
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("medattn_edge.inference.cleanup.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=re.escape(install_line("cleanup"))):
        segment(session, volume_of(np.zeros((2, 8, 8), np.float32)))
