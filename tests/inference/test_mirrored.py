"""Mirroring: the logits are the mean over every mirrored form, each mirrored back."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from medattn_edge.inference import SegmentSettings, segment
from medattn_edge.inference.mirrored import mirrored
from medattn_edge.spec import ModelSpec

Make = Callable[..., Any]


def mean_of_forms(function: Callable[[np.ndarray], np.ndarray], patches: np.ndarray, axes: list[int]) -> np.ndarray:
    forms = [form for count in range(len(axes) + 1) for form in itertools.combinations(axes, count)]
    return np.mean([np.flip(function(np.flip(patches, form)), form) for form in forms], axis=0)


@pytest.mark.parametrize(
    ("patch", "axes", "mirror", "tensor_axes"),
    [
        ((6, 7), "HW", "HW", [2, 3]),
        ((6, 7), "WH", "W", [2]),
        ((4, 6, 5), "DHW", "DHW", [2, 3, 4]),
        ((4, 6, 5), "WDH", "DW", [2, 3]),
    ],
)
@pytest.mark.parametrize("batch", [None, 2])
def test_logits_and_attention_are_the_mean_of_all_mirrored_forms(
    fake: Make, network: Make, patch: tuple[int, ...], axes: str, mirror: str, tensor_axes: list[int], batch: int | None
) -> None:
    labels = ("a", "b", "c")
    spec = ModelSpec("fake", 1, labels, patch, (1,) * len(patch), axes=axes, activation="sigmoid", mirror=mirror)
    session = fake(spec, network(3), batch=batch, attention=network(1))
    patches = np.random.default_rng(0).normal(size=(3, 1, *patch)).astype(np.float32)
    expected = mean_of_forms(network(3), patches, tensor_axes)
    found, maps = mirrored(session).run_any_with_attention(patches)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(maps, mean_of_forms(network(1), patches, tensor_axes), atol=1e-6)
    np.testing.assert_array_equal(mirrored(session).run_any(patches), found)
    assert not np.allclose(found, network(3)(patches), atol=1e-2)
    assert set(session.seen) == {batch or 3}  # its own batch, whatever is mirrored


def test_without_an_axis_the_session_is_the_same_one(fake: Make, spec_of: Make, network: Make) -> None:
    session = fake(spec_of((6, 7)), network(3))
    assert mirrored(session) is session


def test_a_scan_is_segmented_by_the_mirrored_logits_and_every_window_costs_as_many_runs(
    fake: Make, spec_of: Make, volume_of: Make, network: Make
) -> None:
    volume = volume_of(np.random.default_rng(0).normal(size=(3, 6, 7)))
    spec = spec_of((6, 7), 3, mirror="HW")
    session, plain = fake(spec, network(3)), fake(spec_of((6, 7), 3), network(3))
    found = segment(session, volume, settings=SegmentSettings(batch=1))
    patches = volume.voxels.astype(np.float32)[:, None]
    expected = mean_of_forms(network(3), patches, [2, 3]).argmax(axis=1)
    np.testing.assert_array_equal(found.labels.voxels, expected)
    segment(plain, volume, settings=SegmentSettings(batch=1))
    assert len(session.seen) == 4 * len(plain.seen) == 12
