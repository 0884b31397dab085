"""Augmentation moves image and labels together and is never a mirror."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medattn_edge.training.augment import STANDARD, Augmentation, Plane, augment, recolour

STILL = Augmentation(0, 0, 0, 0, 0, 0, 0)
MOVED = Augmentation(rotation=25, scale=0.2, translation=0.1, gain=0, offset=0, gamma=0, noise=0)


def _box(*spatial: int) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.zeros(6, *spatial, dtype=torch.long)
    inside = tuple(slice(size // 4, size // 2) for size in spatial)
    labels[(slice(None), *inside)] = 1
    return labels[:, None].float() * 10, labels


@pytest.mark.parametrize("plane", [Plane((0, 1)), Plane((1, 2)), Plane((0, 1), (1.0, 3.0)), Plane((2, 0), (2.0, 1.0))])
def test_a_bright_box_stays_labelled(plane: Plane) -> None:
    spatial = (24, 32) if max(plane.axes) == 1 else (20, 24, 32)
    images, labels = _box(*spatial)
    moved, theirs = augment(images, labels, np.random.default_rng(0), plane, MOVED)
    assert moved.shape == images.shape
    assert theirs.dtype == torch.int64
    assert not torch.equal(theirs, labels)
    # Where the image is surely inside or surely outside, the label says so.
    assert (theirs[moved[:, 0] > 7.5] == 1).all()
    assert (theirs[moved[:, 0] < 2.5] == 0).all()
    assert theirs.sum() > 0


def test_nothing_changes_when_nothing_may() -> None:
    images, labels = _box(16, 24)
    moved, theirs = augment(images, labels, np.random.default_rng(0), Plane((0, 1)), STILL)
    assert torch.equal(theirs, labels)
    assert torch.allclose(moved, images, atol=1e-4)


def test_a_quarter_turn_turns_in_millimetres() -> None:
    """A bar of 16 x 4 mm on voxels of 1 x 2 mm keeps its 16 x 4 mm; the volume's first axis is left alone."""
    labels = torch.zeros(1, 3, 32, 16, dtype=torch.long)
    labels[0, 1, 8:24, 7:9] = 1

    class Turn:
        def uniform(self, low: float, high: float, size: int | None = None) -> object:
            return (high if high == 90 else 0.0) if size is None else np.zeros(size)

        def standard_normal(self, shape: tuple[int, ...], kind: type) -> object:
            return np.zeros(shape, kind)

    most = Augmentation(90, 0, 0, 0, 0, 0, 0)
    _, turned = augment(labels[:, None].float(), labels, Turn(), Plane((1, 2), (1.0, 2.0)), most)  # type: ignore[arg-type]
    expected = torch.zeros_like(labels)
    expected[0, 1, 14:18, 4:12] = 1
    assert torch.equal(turned, expected)


def test_it_never_mirrors() -> None:
    """A label on one side stays there at the largest changes."""
    labels = torch.zeros(200, 32, 32, dtype=torch.long)
    labels[:, 12:20, 22:30] = 1
    _, moved = augment(labels[:, None].float(), labels, np.random.default_rng(0), Plane((0, 1)), STANDARD)
    columns = torch.arange(32.0)
    centre = (moved.sum(1) * columns).sum(1) / moved.sum((1, 2))
    assert centre.min() > 16


def test_the_same_seed_gives_the_same() -> None:
    images, labels = _box(16, 16)
    one, again, other = (augment(images, labels, np.random.default_rng(seed), Plane((0, 1))) for seed in (1, 1, 2))
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert not torch.equal(one[0], other[0])


def test_recolouring_does_not_depend_on_the_units() -> None:
    images = torch.rand(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = recolour(images, np.random.default_rng(5))
    scaled = recolour(images * 1000 - 300, np.random.default_rng(5))
    assert torch.allclose((scaled + 300) / 1000, plain, atol=1e-4)
    assert not torch.allclose(plain, images, atol=1e-2)
    flat = recolour(torch.full((2, 1, 8, 8), 3.0), np.random.default_rng(5))
    assert torch.allclose(flat, torch.tensor(3.0), atol=1e-4)
