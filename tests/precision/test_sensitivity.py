"""Ranking layers and finding the fewest that must stay in floating point, on damage that is known beforehand."""

from __future__ import annotations

from typing import Any

import pytest

from medattn_edge.agreement import Agreement
from medattn_edge.precision.judge import Verdict
from medattn_edge.precision.layers import Layer
from medattn_edge.precision.sensitivity import fewest_floating, rank

LAYERS = tuple(Layer(f"conv{i}", f"block.{i}", "Conv", (16, 16)) for i in range(12))


def verdict(holds: bool) -> Verdict:
    return Verdict(Agreement(0.0, 40.0, 1.0, {"organ": 1.0}, {}, 0, 0), () if holds else ("too low",))


def ranking(noise: dict[str, float]) -> list[Any]:
    return rank(LAYERS, 99, lambda nodes: (-sum(noise.get(node, 0.0) for node in nodes), 1.0))


class Needs:
    """The gate holds when all of these are in floating point; counts its trials, and stops at a limit."""

    def __init__(self, *nodes: str, limit: int = 99) -> None:
        self.nodes, self.limit, self.asked = set(nodes), limit, list[int]()

    def __call__(self, floating: tuple[str, ...]) -> Verdict | None:
        if len(self.asked) == self.limit:
            return None
        self.asked.append(len(floating))
        return verdict(self.nodes <= set(floating))


def floating(found: tuple[Any, ...]) -> set[str]:
    return {node for damage in found for node in damage.nodes}


def test_the_worst_layer_comes_first() -> None:
    found = ranking({"conv3": 3.0, "conv7": 9.0, "conv1": 1.0})
    assert [damage.nodes for damage in found[:3]] == [("conv7",), ("conv3",), ("conv1",)]
    assert found[0].layers[0].module == "block.7"


def test_with_fewer_trials_than_layers_neighbours_are_tried_together() -> None:
    tried: list[tuple[str, ...]] = []
    found = rank(LAYERS, 5, lambda nodes: (tried.append(nodes) or 0.0, 1.0))
    assert len(found) == len(tried) == 5
    assert [node for group in tried for node in group] == [layer.node for layer in LAYERS]


def test_progress_reaches_its_end() -> None:
    steps: list[tuple[int, int]] = []
    rank(LAYERS, 99, lambda nodes: (0.0, 1.0), lambda done, total: steps.append((done, total)))
    assert steps == [(i + 1, 12) for i in range(12)]


@pytest.mark.parametrize("count", range(1, 13))
def test_the_shortest_head_of_the_ranking_is_found(count: int) -> None:
    order = ranking({f"conv{i}": 100.0 - i for i in range(12)})
    needs = Needs(*(f"conv{i}" for i in range(count)))
    assert floating(fewest_floating(order, needs)) == needs.nodes


def test_what_the_gate_does_not_need_is_quantised_again() -> None:
    order = ranking({f"conv{i}": 100.0 - i for i in range(12)})
    assert floating(fewest_floating(order, Needs("conv2", "conv6"))) == {"conv2", "conv6"}


def test_few_trials_are_spent_on_one_bad_layer() -> None:
    needs = Needs("conv0")
    fewest_floating(ranking({"conv0": 9.0}), needs)
    assert needs.asked == [1]


def test_nothing_is_found_when_floating_point_does_not_help() -> None:
    needs = Needs("somewhere else")
    assert fewest_floating(ranking({"conv0": 9.0}), needs) == ()
    assert max(needs.asked) == 12


def test_without_trials_what_held_so_far_is_the_answer() -> None:
    order = ranking({f"conv{i}": 100.0 - i for i in range(12)})
    assert floating(fewest_floating(order, Needs("conv2", limit=3))) == {f"conv{i}" for i in range(4)}
    assert fewest_floating(order, Needs("conv2", limit=0)) == ()
