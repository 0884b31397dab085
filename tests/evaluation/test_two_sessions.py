"""Two sessions on one scan, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from medattn_edge.agreement import IDENTICAL_DB, Thresholds
from medattn_edge.errors import UsageError
from medattn_edge.evaluation.side_by_side import side_by_side
from medattn_edge.inference import SegmentSettings, segment
from medattn_edge.spec import Intensity

Make = Callable[..., Any]


def compare(reference: Any, candidate: Any, *rest: Any, **named: Any) -> tuple[Any, Any, Any]:
    """The agreement, and the labels of both."""
    seen = side_by_side(reference, {"candidate": candidate}, *rest, **named)
    agreement, labels = seen.agreed["candidate"]
    return agreement, seen.labels, labels


@pytest.fixture
def volume(volume_of: Make) -> Any:
    scan = volume_of(np.random.default_rng(0).normal(size=(9, 14, 12)), (2.0, 1.0, 1.0))
    return scan._permuted((2, 0, 1), (True, False, False))


@pytest.mark.parametrize("settings", [{"patch": (8, 8)}, {"patch": (4, 8, 8), "spacing": (1.5, 1.2, 0.9)}])
def test_a_session_agrees_with_itself_whatever_the_batch(
    fake: Make, spec_of: Make, network: Make, volume: Any, settings: dict[str, Any]
) -> None:
    spec = spec_of(**settings)
    reference, candidate = fake(spec, network(3), batch=1), fake(spec, network(3), batch=5)
    agreement, first, second = compare(reference, candidate, volume)
    assert (agreement.sqnr_db, agreement.label_match, agreement.max_abs) == (IDENTICAL_DB, 1.0, 0.0)
    expected = segment(reference, volume).labels
    for labels in (first, second):
        np.testing.assert_array_equal(labels.voxels, expected.voxels)
        assert labels.affine.tobytes() == volume.affine.tobytes()


def test_a_constant_offset_is_found_at_its_size(fake: Make, spec_of: Make, network: Make, volume: Any) -> None:
    spec, function = spec_of((8, 8), 2), network(2)
    shifted = fake(spec, lambda patches: function(patches) + np.float32([0, 0.25]).reshape(1, 2, 1, 1))
    agreement, first, second = compare(fake(spec, function), shifted, volume, SegmentSettings(overlap=0))
    assert agreement.max_abs == pytest.approx(0.25, abs=1e-6)
    assert agreement.flips == (first.voxels != second.voxels).sum() > 0
    assert 0 < agreement.sqnr_db < 40


def test_a_candidate_that_is_not_finite_fails_every_gate(fake: Make, spec_of: Make, network: Make, volume: Any) -> None:
    spec = spec_of((4, 8, 8), spacing=(1.5, 1.2, 0.9))
    for value in (np.nan, np.inf):
        agreement, _, _ = compare(
            fake(spec, network(3)), fake(spec, lambda patches, v=value: network(3)(patches) + np.float32(v)), volume
        )
        assert not agreement.finite
        assert agreement.sqnr_db == -math.inf
        assert Thresholds().failures(agreement)


def test_progress_counts_both(fake: Make, spec_of: Make, network: Make, volume: Any) -> None:
    said: list[tuple[int, int]] = []
    session = fake(spec_of((8, 8)), network(3))
    compare(session, session, volume, progress=lambda done, total: said.append((done, total)))
    assert said == sorted(said)
    assert said[-1][0] == said[-1][1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"patch": (16, 8)}, r"patch is \(16, 8\).*\(8, 8\)(.|\n)*--patch 8x8"),
        ({"labels": ("background", "b", "c")}, "labels"),
        ({"spacing": (1.0, 1.0)}, "spacing"),
        ({"intensity": Intensity.parse("zscore")}, r"intensity(.|\n)*one checkpoint"),
    ],
)
def test_sessions_that_see_other_things_are_not_compared(
    fake: Make, spec_of: Make, network: Make, volume: Any, change: dict[str, Any], said: str
) -> None:
    spec = spec_of((8, 8))
    with pytest.raises(UsageError, match=said):
        compare(fake(spec, network(3)), fake(replace(spec, **change), network(3)), volume)
