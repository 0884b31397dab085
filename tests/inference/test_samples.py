"""Real network inputs from a scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import UsageError
from medattn_edge.inference import prepare, sample_patches

Make = Callable[..., Any]


def test_patches_are_windows_of_the_prepared_image(spec_of: Make, volume_of: Make) -> None:
    volume = volume_of(np.random.default_rng(0).normal(size=(6, 20, 20)))
    spec = spec_of((5, 8, 8), axes="HWD", channels=1)
    image = prepare(volume, spec).image
    views = np.lib.stride_tricks.sliding_window_view(image[0], (5, 8, 6))
    patches = sample_patches(volume, spec, 4)
    assert patches.shape == (4, 1, 5, 8, 8)
    assert patches.dtype == np.float32
    for patch in patches[:, 0, :, :, 1:7]:  # 6 slices in the middle of a patch of 8
        assert (views == patch).all(axis=(3, 4, 5)).any()


def test_the_seed_decides_and_nothing_else(spec_of: Make, volume_of: Make) -> None:
    volume = volume_of(np.random.default_rng(0).normal(size=(9, 40, 40)))
    spec = spec_of((8, 8))
    first = sample_patches(volume, spec, 5, seed=3)
    np.testing.assert_array_equal(first, sample_patches(volume, spec, 5, seed=3))
    assert any(not np.array_equal(first, sample_patches(volume, spec, 5, seed=seed)) for seed in range(4))


def test_air_is_left_out_and_the_whole_scan_is_seen(spec_of: Make, volume_of: Make) -> None:
    voxels = np.zeros((8, 16, 16))
    voxels[:, :8] = np.random.default_rng(0).normal(size=(8, 8, 16)) + 10 * np.arange(8)[:, None, None]
    patches = sample_patches(volume_of(voxels), spec_of((8, 8)), 4)
    assert (patches.std(axis=(1, 2, 3)) > 0).all()
    assert (np.diff(patches.max(axis=(1, 2, 3))) > 0).all()


def test_a_small_scan_gives_the_one_window_it_has(spec_of: Make, volume_of: Make) -> None:
    volume = volume_of(np.random.default_rng(0).normal(size=(1, 3, 4)))
    patches = sample_patches(volume, spec_of((6, 8)), 5)
    assert patches.shape == (1, 1, 6, 8)
    np.testing.assert_array_equal(patches[0, 0, 1:4, 2:6], volume.voxels[0].astype(np.float32))
    assert (patches[0, 0, 0] == patches.min()).all()


def test_no_patches_are_refused(spec_of: Make, volume_of: Make) -> None:
    with pytest.raises(UsageError, match="--samples"):
        sample_patches(volume_of(np.ones((1, 8, 8))), spec_of((8, 8)), 0)
