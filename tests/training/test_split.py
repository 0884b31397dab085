"""What is held out is never learnt from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medattn_edge.errors import ScanError, UsageError
from medattn_edge.spec import Intensity, ModelSpec
from medattn_edge.training import Case, split_cases
from medattn_edge.training.sampling import training_stretches
from medattn_edge.training.split import GAP, cut, describe, evenly, ranges
from medattn_edge.volume import Volume


@given(st.integers(3, 300), st.floats(0.01, 0.5), st.integers(3, 40))
def test_blocks_keep_their_distance(depth: int, holdout: float, blocks: int) -> None:
    part = cut(depth, holdout, blocks)
    assert part.held_out
    assert part == cut(depth, holdout, blocks)
    assert all(abs(a - b) > GAP for a in part.training for b in part.held_out)
    assert set(part.training) | set(part.held_out) <= set(range(depth))


def test_the_chest_ct_is_split_as_its_checkpoints_say() -> None:
    part = cut(34, 0.2, 10)
    assert (ranges(part.training), ranges(part.held_out)) == ("0-6,13-23,29-33", "8-11,25-27")


def test_held_out_blocks_spread_over_the_scan() -> None:
    assert evenly(10, 0.2) == [2, 7]
    assert evenly(5, 0.2) == [2]
    assert evenly(7, 0.01) == [3]


def test_ranges_are_short() -> None:
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert ranges([]) == ""


def test_five_scans_are_held_out_whole(case_of: Callable[..., Case]) -> None:
    cases = [case_of(shape=(6, 8, 8), name=f"{index}.npz") for index in range(5)]
    parts = split_cases(cases, 0.2, 10)
    assert [bool(part.held_out) for part in parts] == [False, False, True, False, False]
    assert describe(cases, parts)[2] == {"scan": "2.npz", "training_slices": "", "held_out_slices": "0-5"}


def test_pictures_are_held_out_whole_and_one_alone_cannot_be(case_of: Callable[..., Case]) -> None:
    picture = case_of(shape=(1, 16, 16))
    assert [bool(part.held_out) for part in split_cases([picture] * 3, 0.2, 10)] == [False, True, False]
    with pytest.raises(ScanError, match="several scans"):
        split_cases([picture], 0.2, 10)


@pytest.mark.parametrize(("holdout", "blocks"), [(0.0, 10), (0.6, 10), (0.2, 2)])
def test_a_fraction_that_cannot_be_is_refused(holdout: float, blocks: int, case_of: Callable[..., Case]) -> None:
    with pytest.raises(UsageError, match="--holdout"):
        split_cases([case_of()], holdout, blocks)


def test_a_label_that_only_one_part_has_is_refused(case_of: Callable[..., Case]) -> None:
    case = case_of()
    labels = np.zeros_like(case.labels.voxels)
    labels[0] = 1
    with pytest.raises(ScanError, match="in no slice held out"):
        split_cases([Case("a", case.scan, case.labels.with_voxels(labels))], 0.2, 10)
    labels = np.zeros_like(case.labels.voxels)
    labels[list(cut(24, 0.2, 10).held_out)] = 1
    with pytest.raises(ScanError, match="in no slice for training"):
        split_cases([Case("a", case.scan, case.labels.with_voxels(labels))], 0.2, 10)


@pytest.mark.parametrize("spacing", [None, (1.5, 1.0, 1.0), (0.7, 2.0, 1.0)])
@pytest.mark.parametrize("axes", ["DHW", "HWD"])
def test_held_out_voxels_never_reach_a_training_patch(
    spacing: tuple[float, ...] | None, axes: str, case_of: Callable[..., Case]
) -> None:
    """Whatever is written into the held-out slices, the training stretches stay bit for bit what they were."""
    case = case_of()
    spec = ModelSpec(
        "any", 1, ("background", "a", "b"), (8, 8, 8), (8, 8, 8), spacing, Intensity.window(-100, 300), axes=axes
    )
    (part,) = split_cases([case], 0.2, 10)
    spoiled_scan, spoiled_labels = case.scan.voxels.copy(), case.labels.voxels.copy()
    dropped = sorted(set(range(24)) - set(part.training))
    spoiled_scan[dropped], spoiled_labels[dropped] = 299, 2
    spoiled = Case("b", case.scan.with_voxels(spoiled_scan), case.labels.with_voxels(spoiled_labels))
    clean, dirty = (training_stretches(one, part, spec) for one in (case, spoiled))
    assert clean
    for one, other in zip(clean, dirty, strict=True):
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.labels, other.labels)


def test_slices_are_counted_from_the_feet_whatever_the_file_does(case_of: Callable[..., Case]) -> None:
    case = case_of()
    spec = ModelSpec("any", 1, ("background", "a", "b"), (32, 32), (16, 16))
    upside_down = Case("b", *(volume._permuted((0, 1, 2), (True, False, True)) for volume in (case.scan, case.labels)))
    assert isinstance(upside_down.scan, Volume)
    (part,) = split_cases([case], 0.2, 10)
    assert split_cases([upside_down], 0.2, 10) == (part,)
    pairs = zip(training_stretches(case, part, spec), training_stretches(upside_down, part, spec), strict=True)
    assert all(np.array_equal(a.image, b.image) and np.array_equal(a.labels, b.labels) for a, b in pairs)
