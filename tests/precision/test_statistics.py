"""Ranges of activations: right, and in memory that does not grow with the patches."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
import pytest

from medattn_edge.errors import UsageError
from medattn_edge.precision.observe import activations, floating_tensors, ranges
from medattn_edge.precision.statistics import METHODS, activation_ranges, check_method
from medattn_edge.precision.windows import Windows

Halves = tuple[Windows, Windows]


@pytest.fixture(scope="module")
def patches(halves: Halves) -> list[Any]:
    return list(halves[0])[:4]


def values(model: Any, name: str, patches: list[Any]) -> np.ndarray:
    """All values of a tensor, the plain way: one more output."""
    import onnx

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.add().name = name
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run([name], {"image": patch})[0].ravel() for patch in patches])


def test_the_range_of_every_tensor_is_its_smallest_and_largest_value(lungs_model: Any, patches: list[Any]) -> None:
    names = floating_tensors(lungs_model)
    found = activation_ranges(lungs_model, names, patches)
    assert set(found) == set(names)
    assert found["image"] == (min(p.min() for p in patches), max(p.max() for p in patches))
    for name in names[5::25]:
        seen = values(lungs_model, name, patches)
        assert found[name] == pytest.approx((seen.min(), seen.max()), rel=1e-4, abs=1e-5)


def test_percentiles_lie_inside_the_range_and_entropy_too(lungs_model: Any, patches: list[Any]) -> None:
    names = [name for name in floating_tensors(lungs_model) if name.startswith("relu")][:3]
    widest = activation_ranges(lungs_model, names, patches)
    for method in ("percentile", "entropy"):
        found = activation_ranges(lungs_model, names, patches, method)
        for name in names:
            assert found[name][1] <= widest[name][1] * 1.001
            assert found[name][1] > 0.05 * widest[name][1]
    sharp = activation_ranges(lungs_model, names, patches, "percentile")
    seen = values(lungs_model, names[0], patches)
    assert (np.abs(seen) <= sharp[names[0]][1]).mean() >= 0.9999


def test_patches_are_taken_one_by_one_and_forgotten(lungs_model: Any, patches: list[Any]) -> None:
    seen: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def made() -> Iterator[Any]:
        for index in range(12):
            patch = patches[index % 4].copy()
            seen.append(weakref.ref(patch))
            alive.append(sum(one() is not None for one in seen))
            yield patch

    activation_ranges(lungs_model, floating_tensors(lungs_model)[:4], made(), "percentile")
    assert len(alive) == 12
    assert max(alive) <= 3


def test_many_tensors_are_watched_in_several_runs(lungs_model: Any, patches: list[Any]) -> None:
    names = floating_tensors(lungs_model)
    whole = ranges(lungs_model, names, patches[:1])
    parts = list(activations(lungs_model, names, patches[:1], max_bytes=4 * 2**20))
    assert len(parts) > 3
    assert sorted(name for part in parts for name in part) == sorted(names)
    found = ranges(lungs_model, names, patches[:1])
    assert all(found[name] == pytest.approx(whole[name], rel=1e-5, abs=1e-6) for name in names)


def test_progress_counts_the_patches(lungs_model: Any, patches: list[Any]) -> None:
    steps: list[tuple[int, int]] = []
    activation_ranges(lungs_model, ["image"], patches, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UsageError, match="minmax, percentile, entropy"):
        check_method("mean")
    assert METHODS == ("minmax", "percentile", "entropy")
