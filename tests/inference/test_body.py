"""Windows outside the body are left out when that is asked for, never anything else, and it is said how many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medattn_edge.inference import SegmentSettings, prepare, segment
from medattn_edge.inference.body import hull, windows_of_air
from medattn_edge.inference.tiling import Tiling

Make = Callable[..., Any]


def phantom(shape: tuple[int, int, int] = (8, 64, 64)) -> np.ndarray:
    """HU: air with noise around a block of soft tissue with a lung in it."""
    voxels = np.random.default_rng(0).normal(-1000, 20, shape).astype(np.int16)
    voxels[:, 4:28, 4:28] = 40
    voxels[:, 8:24, 8:24] = -850
    return voxels


def test_lungs_are_in_the_hull_and_the_air_around_is_not(volume_of: Make) -> None:
    inside = hull(volume_of(phantom()))
    expected = np.zeros((8, 64, 64), bool)
    expected[:, 4:28, 4:28] = True
    np.testing.assert_array_equal(inside, expected)


def test_the_body_is_the_same_however_the_network_sees_the_scan(spec_of: Make, volume_of: Make) -> None:
    """In coronal slices a lung that goes on below the scan would be open to the feet, and taken for air."""
    scan = volume_of(phantom((16, 64, 64)))
    left_out = {}
    for code, axes in (("LPS", "DHW"), ("LSP", "HDW"), ("SPL", "WHD"), ("RAI", "DHW")):
        spec = replace(spec_of((4, 8, 8), 2, axes=axes), orientation=code)
        prepared = prepare(scan, spec)
        tiling = Tiling(prepared.image.shape[1:], spec.patch, 0.0)
        windows = [tiling.windows[index] for index in windows_of_air(prepared, tiling)]
        left_out[code] = len(windows)
        for window in windows:
            assert prepared.image[(slice(None), *tiling.area(window))].max() < -900
    assert len(set(left_out.values())) == 1, left_out


def test_a_scan_that_is_not_in_hu_has_only_its_lowest_value_for_air(volume_of: Make) -> None:
    voxels = np.zeros((2, 9, 9), np.int16)
    voxels[:, 3:6, 3:6] = 100
    voxels[0, 7, 7] = 1  # noise counts
    inside = hull(volume_of(voxels))
    assert inside[1].sum() == 9
    assert inside[0, 7, 7]


def test_a_second_channel_may_see_what_the_first_does_not(volume_of: Make) -> None:
    first, second = np.zeros((1, 6, 6)), np.zeros((1, 6, 6))
    second[0, 2, 3] = 1
    assert np.argwhere(hull(volume_of(np.stack([first, second])))).tolist() == [[0, 2, 3]]


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 99), st.sampled_from([(8, 8), (4, 8, 8), (3, 16, 5)]), st.sampled_from([None, 0.6, 1.7]),
    st.sampled_from(["DHW", "HWD", "WDH"]), st.sampled_from([0.0, 0.5]),
)  # fmt: skip
def test_no_window_that_is_left_out_sees_any_of_the_body(
    spec_of: Make, volume_of: Make, seed: int, patch: Any, spacing: Any, axes: str, overlap: float
) -> None:
    rng = np.random.default_rng(seed)
    voxels = np.full((9, 30, 40), -1000.0)
    for place in zip(*(rng.integers(0, size, 2) for size in voxels.shape), strict=True):
        voxels[place] = 5000.0  # two voxels, bright enough to be seen between others
    spec = spec_of(
        patch, 2, axes=axes if len(patch) == 3 else "HW", spacing=None if spacing is None else (spacing,) * len(patch)
    )
    prepared = prepare(volume_of(voxels), spec)
    tiling = Tiling(prepared.image.shape[1:], patch, overlap)
    skipped = windows_of_air(prepared, tiling)
    for index in skipped:
        assert (prepared.image[(slice(None), *tiling.area(tiling.windows[index]))] == -1000.0).all()
    assert skipped  # two voxels are not a body


def test_skipped_windows_become_background_and_others_stay_as_they_were(
    fake: Make, spec_of: Make, volume_of: Make
) -> None:
    """A network that takes every voxel for tissue: what was left out is what differs."""
    volume = volume_of(phantom())
    session = fake(
        spec_of((4, 16, 16), 2), lambda patches: np.repeat(patches, 2, 1) * 0 + np.float32([[[[[0]]], [[[1]]]]])
    )
    plain = segment(session, volume, settings=SegmentSettings(overlap=0))
    before = sum(session.seen)
    found = segment(session, volume, settings=SegmentSettings(overlap=0, skip_air=True))
    run = sum(session.seen) - before
    stats = found.windows
    assert plain.windows.skipped == 0
    assert stats.total == before == 2 * 4 * 4
    assert stats.skipped == 2 * (16 - 4)
    assert stats.checked == 2  # one in 16
    assert run == stats.total - stats.skipped + stats.checked
    assert stats.background == 0.0  # the network said tissue: the check tells
    assert (plain.labels.voxels == 1).all()
    assert (found.labels.voxels[:, :32, :32] == 1).all()
    assert found.labels.voxels.sum() == 8 * 32 * 32


@pytest.mark.parametrize("classes", [1, 3])
def test_a_network_that_knows_air_gives_the_same_labels_and_says_so(
    fake: Make, spec_of: Make, volume_of: Make, classes: int
) -> None:
    def tissue(patches: np.ndarray) -> np.ndarray:
        return np.concatenate([patches * (1 if classes == 1 else -1), patches, patches - 5][:classes], 1)

    volume = volume_of(phantom())
    session = fake(spec_of((4, 16, 16), classes), tissue)
    plain, found = (segment(session, volume, settings=SegmentSettings(skip_air=way)) for way in (False, True))
    np.testing.assert_array_equal(plain.labels.voxels, found.labels.voxels)
    assert found.windows.background == 1.0
    assert 0 < found.windows.skipped < found.windows.total
    probabilities = segment(
        session, volume, settings=SegmentSettings(skip_air=True, probabilities=True)
    ).probabilities.voxels
    assert probabilities[0, :, -8:, -8:].min() > 0.999  # nobody doubts the background of what was left out


def test_a_scan_of_only_air_still_ends(fake: Make, spec_of: Make, volume_of: Make) -> None:
    voxels = np.random.default_rng(0).normal(-1000, 20, (4, 20, 20))
    found = segment(
        fake(spec_of((2, 8, 8), 1), np.copy), volume_of(voxels), settings=SegmentSettings(skip_air=True, batch=3)
    )
    assert found.windows.skipped == found.windows.total
    assert not found.labels.voxels.any()
