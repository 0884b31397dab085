"""What flows through a graph of two nodes: ranges, runs and memory, in numbers that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medattn_edge.precision.observe import _parts, activations, batched, ranges
from medattn_edge.precision.onnx_graph import Graph, with_shapes
from medattn_edge.precision.statistics import activation_ranges
from tests.precision.graphs import Net


def small() -> Any:
    net = Net()
    return net.model(net.node("Relu", net.conv("image", value=-0.5, name="conv"), name="relu"))


IMAGES = [np.full((1, 4, 8, 8), value, np.float32) for value in (1.0, 3.0, -2.0)]


def test_the_range_of_every_tensor_over_all_patches() -> None:
    assert ranges(small(), ["image", "conv", "relu"], IMAGES) == {"image": (-2, 3), "conv": (-6, 4), "relu": (0, 4)}
    for value in (np.nan, np.inf, -np.inf):
        broken = [IMAGES[0].copy(), *IMAGES[1:]]
        broken[0][0, 0, 0, 0] = value
        found = ranges(small(), ["image", "conv"], broken)
        assert found["image"] == (-np.inf, np.inf)
    assert ranges(small(), ["relu"], []) == {}


@pytest.mark.parametrize(("room", "runs"), [(1024, 2), (2048, 1), (2047, 2), (1, 2)])
def test_tensors_are_watched_in_as_many_runs_as_room_makes_necessary(room: int, runs: int) -> None:
    """Each has 4 x 8 x 8 values of four bytes."""
    graph = Graph(with_shapes(small()))
    assert len(_parts(["conv", "relu"], graph, room)) == runs
    found = list(activations(small(), ["image", "conv", "relu"], IMAGES[:1], max_bytes=room))
    assert len(found) == runs + 1
    assert list(found[0]) == ["image"]
    together = {name: values for part in found for name, values in part.items()}
    assert float(together["conv"].max()) == -2
    assert float(together["relu"].max()) == 0
    assert [len(part) for part in _parts(["conv", "relu"], graph, room)] == ([2] if runs == 1 else [1, 1])


@pytest.mark.parametrize(("batch", "runs"), [(None, [1, 1, 1]), (1, [1, 1, 1]), (2, [2, 2])])
def test_runs_have_the_networks_own_batch(batch: int | None, runs: list[int]) -> None:
    assert [len(run) for run in batched(IMAGES, batch)] == runs


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_each_method_of_ranges_has_its_default_threads_and_bins(method: str) -> None:
    """What lies beyond 99.999 % of the absolute values is clipped, to the bin of 2,048."""
    random = np.random.default_rng(0)
    values = random.normal(0, 1, (4, 1, 4, 8, 8)).astype(np.float32)
    values[0, 0, 0, 0, 0] = 100
    found = activation_ranges(small(), ["image"], list(values), method)["image"]
    if method == "minmax":
        assert found == (values.min(), 100)
    else:
        from onnxruntime.quantization.calibrate import HistogramCollector

        bins = {"percentile": 2048, "entropy": 128}[method]
        collector = HistogramCollector(method, method == "percentile", bins, 128, 99.999, "same")
        for one in values:
            collector.collect({"image": [one]})
        expected = collector.compute_collection_result()["image"]
        assert found == pytest.approx((float(expected[0]), float(expected[1])))
