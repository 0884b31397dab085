"""Patches are balanced, repeatable, and their labels lie where their image does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from medattn_edge.inference import prepare
from medattn_edge.inference.preprocess import labels_on_image
from medattn_edge.spec import Intensity, ModelSpec
from medattn_edge.training import Case, Part
from medattn_edge.training.sampling import Sampler, Stretch, training_stretches
from medattn_edge.volume import Volume

LABELS = ("background", "large", "small")


def _rare() -> Stretch:
    """Two labels, one of a thousand voxels, one of a single voxel."""
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[3:13, 3:13, 3:13] = 1
    labels[22, 22, 22] = 2
    return Stretch(labels[None].astype(np.float32), labels)


@pytest.mark.parametrize("patch", [(5, 5, 5), (5, 5)], ids=["3-D", "2-D"])
def test_half_of_the_samples_are_centred_on_an_organ_each_label_as_often(patch: tuple[int, ...]) -> None:
    sampler, centre = Sampler([_rare()], patch), tuple(size // 2 for size in patch)
    _, labels = sampler.batch(np.random.default_rng(0), 2000)
    values = np.bincount(labels[(slice(None), *centre)], minlength=3) / 2000
    # A quarter each, and of the other half 1000 of 27000 voxels are of the large label by chance.
    assert values[2] == pytest.approx(0.25, abs=0.04)
    assert values[1] == pytest.approx(0.25 + 0.5 * 1000 / 27000, abs=0.04)


def test_the_seed_decides() -> None:
    sampler = Sampler([_rare()], (8, 8, 8))
    one, again, other = (sampler.batch(np.random.default_rng(seed), 16) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0], other[0])


def test_every_stretch_is_visited() -> None:
    shapes = [(2, 8, 8), (5, 8, 8), (1, 8, 8)]
    stretches = [
        Stretch(np.full((1, *shape), number, np.float32), np.zeros(shape, np.uint8))
        for number, shape in enumerate(shapes)
    ]
    images, labels = Sampler(stretches, (8, 8)).batch(np.random.default_rng(0), 400)
    assert images.shape == (400, 1, 8, 8)
    assert labels.shape == (400, 8, 8)
    assert labels.dtype == np.int64
    assert np.bincount(images[:, 0, 0, 0].astype(int)) / 400 == pytest.approx([2 / 8, 5 / 8, 1 / 8], abs=0.06)


@pytest.mark.parametrize("patch", [(16, 40), (6, 16, 40), (4, 8, 8)])
def test_a_patch_larger_than_the_stretch_is_surrounded_as_in_inference(patch: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, (4, 16, 16)).astype(np.uint8)
    images, found = Sampler([Stretch(labels[None] + 5.0, labels)], patch).batch(rng, 3)
    # Outside: the image's minimum and background, which here say the same.
    assert np.array_equal(images[:, 0] - 5, found)


@pytest.mark.parametrize("spacing", [(2.0, 1.0, 1.0), (0.6, 1.7, 0.9)])
@pytest.mark.parametrize("axes", ["DHW", "WDH"])
def test_labels_are_resampled_to_where_the_image_is(spacing: tuple[float, ...], axes: str) -> None:
    """A scan that is its own label map, smooth enough that linear interpolation rounds to the nearest label."""
    ramp = np.indices((20, 24, 28)).sum(0).astype(np.float32)
    affine = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    spec = ModelSpec("any", 1, LABELS, (8, 8, 8), (8, 8, 8), spacing, Intensity(), axes=axes)
    prepared = prepare(Volume(ramp, affine), spec)
    labels = labels_on_image(Volume(ramp.astype(np.uint8), affine), prepared)
    assert labels.shape == prepared.image.shape[1:]
    # Half a voxel on each of three axes at most.
    assert np.abs(labels - prepared.image[0]).max() <= 1.5 + 1e-4


def test_a_flat_network_sees_slices_in_place(case_of: Callable[..., Case]) -> None:
    case = case_of()
    spec = ModelSpec("any", 1, LABELS, (32, 32), (16, 16))
    (stretch,) = training_stretches(case, Part(tuple(range(5, 9)), ()), spec)
    assert np.array_equal(stretch.image[0], case.scan.voxels[5:9])
    assert np.array_equal(stretch.labels, case.labels.voxels[5:9])


@pytest.mark.parametrize(
    ("patch", "padding"), [((5, 8, 8), [0, 0]), ((6, 8, 8), [1, 0]), ((9, 8, 8), [4, 1]), ((40, 8, 8), [19, 16])]
)
def test_a_stretch_says_how_many_slices_of_a_patch_it_lacks(
    case_of: Callable[..., Case], patch: tuple[int, ...], padding: list[int]
) -> None:
    """A scan of 24 slices with stretches of 5 and 8: no window of it is padded but for what 24 lack."""
    part = Part((*range(5), *range(12, 20)), tuple(range(6, 11)))
    spec = ModelSpec("any", 1, LABELS, patch, (1, 1, 1), axes="DHW")
    assert [stretch.padding for stretch in training_stretches(case_of(), part, spec)] == padding


def test_a_slice_of_a_2d_network_lacks_nothing(case_of: Callable[..., Case]) -> None:
    spec = ModelSpec("any", 1, LABELS, (16, 16), (16, 16))
    part = Part((0, 1, 5), (3,))
    assert [stretch.padding for stretch in training_stretches(case_of(), part, spec)] == [0, 0]
