"""Windows cover a scan, and their weights add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medattn_edge.errors import UsageError
from medattn_edge.inference.tiling import Tiling, gaussian, starts

OVERLAPS = st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 0.75, 0.9])


@given(st.integers(1, 300), st.integers(1, 64), OVERLAPS)
def test_starts_cover_the_axis_with_steps_no_longer_than_asked(size: int, patch: int, overlap: float) -> None:
    found = starts(size, patch, overlap)
    steps = np.diff(found)
    assert found[0] == 0
    assert found[-1] == max(0, size - patch)
    assert (steps >= 1).all()
    assert (steps <= max(1, patch * (1 - overlap) + 1e-6)).all()
    assert len(steps) == 0 or steps.max() - steps.min() <= 1


def test_an_overlap_of_eight_tenths_of_ten_steps_by_two() -> None:
    assert starts(14, 10, 0.8) == [0, 2, 4]


@pytest.mark.parametrize("overlap", [-0.1, 1.0, float("nan")])
def test_an_overlap_that_cannot_be_is_refused(overlap: float) -> None:
    with pytest.raises(UsageError, match="--overlap"):
        starts(10, 5, overlap)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=3), st.sampled_from([0.001, 1 / 8, 0.5]))
def test_the_gaussian_is_symmetric_positive_and_one_in_the_middle(patch: list[int], sigma: float) -> None:
    weights = gaussian(tuple(patch), sigma)
    assert weights.shape == tuple(patch)
    assert weights.max() == 1
    assert (weights > 0).all()
    np.testing.assert_array_equal(weights, np.flip(weights))


def test_the_gaussian_falls_as_published() -> None:
    weights = gaussian((17,))  # sigma = 17 / 8 voxels around voxel 8
    np.testing.assert_allclose(weights[8 + 2], np.exp(-0.5 * (2 / (17 / 8)) ** 2))


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.integers(1, 12)] * 3), st.tuples(*[st.integers(2, 9)] * 3), OVERLAPS)
def test_shares_are_the_gaussian_average_and_add_up_to_one(
    shape: tuple[int, ...], patch: tuple[int, ...], overlap: float
) -> None:
    tiling = Tiling(shape, patch, overlap)
    total, bells, alone = np.zeros(shape), np.zeros(shape), np.zeros(shape, int)
    for window in tiling.windows:
        alone[tiling.area(window)] += 1
        bells[tiling.area(window)] += gaussian(tiling.size)
    for window in tiling.windows:
        weights = tiling.weights(window)
        weights = np.ones(tiling.size, np.float32) if weights is None else weights
        total[tiling.area(window)] += weights
        np.testing.assert_allclose(weights, gaussian(tiling.size) / bells[tiling.area(window)], rtol=2e-6)
        assert (weights[alone[tiling.area(window)] == 1] == 1).all()
    np.testing.assert_allclose(total, 1, atol=2e-6)
