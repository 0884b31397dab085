"""Which nodes of a graph may be quantised and which stay in floating point, on graphs of a few nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import UsageError
from medattn_edge.precision.fp16 import MARGIN, islands
from medattn_edge.precision.layers import (
    SMALL_CHANNELS,
    attention_products,
    layers,
    nodes_of_modules,
    with_idle_nodes,
)
from medattn_edge.precision.onnx_graph import Graph, in_order, module_of, name_new_nodes, operators, with_shapes
from tests.precision.graphs import FLOAT, Net


def named_modules() -> Any:
    net = Net()
    first = net.conv("image", name="a", module="encoder.0.conv")
    second = net.conv(first, name="b", module="encoder.1")
    third = net.node("Relu", second, name="c", module="encoder.10.act")
    return net.model(net.conv(third, name="d"))


@pytest.mark.parametrize(
    ("modules", "nodes"),
    [(["encoder"], ("a", "b", "c")), (["encoder.1"], ("b",)), (["encoder.0", "encoder.10"], ("a", "c")), ([], ()),
     (["encoder.0.conv"], ("a",))],
)  # fmt: skip
def test_a_module_is_its_own_nodes_and_those_of_the_modules_in_it(modules: list[str], nodes: tuple[str, ...]) -> None:
    assert nodes_of_modules(named_modules(), modules) == nodes


def test_a_module_that_is_not_there_is_answered_with_the_nearest_one() -> None:
    for wrong, near in (("encoder.0.con", "encoder.0.conv"), ("encoder.11", "encoder.1"), ("", "encoder.1")):
        with pytest.raises(UsageError) as caught:
            nodes_of_modules(named_modules(), [wrong])
        assert caught.value.hint == f"--floating {near}" if wrong else caught.value.hint.startswith("--floating enc")
    net = Net()
    nameless = net.model(net.conv("image"))
    with pytest.raises(UsageError) as caught:
        nodes_of_modules(nameless, ["encoder"])
    assert caught.value.hint == "leave --floating out"


def test_layers_have_their_channels_in_and_out() -> None:
    net = Net()
    a = net.conv("image", 16, 4, name="a", module="down")
    b = net.node("ConvTranspose", a, net.weight(np.ones((16, 8, 1, 1), np.float32)), name="b")
    flat = net.node("Flatten", b)
    c = net.node("Gemm", flat, net.weight(np.ones((3, 512), np.float32)), name="c", transB=1)
    computed = net.node("Conv", "image", net.node("Abs", net.weight(np.ones((2, 4, 1, 1), np.float32))), name="d")
    found = layers(net.model(c, computed))
    assert [(one.node, one.operator, one.channels) for one in found] == [
        ("a", "Conv", (4, 16)), ("b", "ConvTranspose", (16, 8)), ("c", "Gemm", (512, 3)),
    ]  # fmt: skip
    assert [one.module for one in found] == ["down", "", ""]
    assert SMALL_CHANNELS == 16


def attention() -> tuple[Net, str]:
    """A convolution, energies with a scaling and a mask between product and Softmax, and what uses the weights."""
    net = Net()
    q = net.node("Reshape", net.conv("image", name="q"), net.weight(np.array([1, 4, 64])), name="q2")
    k = net.node("Reshape", net.conv("image", name="k"), net.weight(np.array([1, 4, 64])), name="k2")
    energy = net.node("MatMul", net.node("Transpose", q, perm=[0, 2, 1], name="qt"), k, name="energy")
    scaled = net.node("Mul", energy, net.weight(np.float32(0.5)), name="scaled")
    mask = net.node("Reshape", net.conv("image", 64, 4, name="m"), net.weight(np.array([1, 64, 64])), name="mask")
    masked = net.node("Add", scaled, mask, name="masked")
    weights = net.node("Softmax", masked, axis=-1, name="softmax")
    mixed = net.node("MatMul", q, weights, name="mixed")
    return net, net.node("Reshape", mixed, net.weight(np.array([1, 4, 8, 8])), name="back")


def test_what_stands_between_a_product_and_its_softmax_stays_in_floating_point() -> None:
    net, back = attention()
    other = net.node("Relu", net.conv(back, name="head"), name="after")
    assert attention_products(net.model(other)) == ("energy", "scaled", "mask", "masked", "softmax", "mixed")


@pytest.mark.parametrize(
    ("floating", "idle"),
    [((), ("after",)), (("head",), ("pool", "head", "after")), (("first",), ("first", "after")),
     (("first", "head"), ("first", "pool", "head", "after"))],
)  # fmt: skip
def test_what_feeds_no_quantised_layer_is_rounded_for_nobody(floating: tuple[str, ...], idle: tuple[str, ...]) -> None:
    net = Net()
    first = net.conv("image", name="first")
    pool = net.node("MaxPool", first, kernel_shape=[2, 2], name="pool")
    model = net.model(net.node("Relu", net.conv(pool, name="head"), name="after"))
    assert with_idle_nodes(model, floating) == idle


def test_nodes_are_put_in_the_order_of_their_data_and_a_cycle_is_named() -> None:
    net = Net()
    last = net.node("Relu", net.node("Abs", net.conv("image", name="a"), name="b"), name="c")
    net.nodes.reverse()
    model = net.model(last)
    in_order(model)
    assert [node.name for node in model.graph.node] == ["a", "b", "c"]
    net = Net()
    net.node("Add", "image", "y", name="x")
    net.node("Abs", "x", name="y")
    net.conv("image", name="fine")
    with pytest.raises(ValueError, match="cycle at x"):
        in_order(net.model("y"))


def test_new_nodes_get_the_module_of_what_feeds_them_or_of_what_they_feed() -> None:
    net = Net()
    first = net.node("Cast", "image", to=FLOAT, name="first")
    conv = net.conv(first, name="conv", module="down")
    head = net.conv(net.node("Cast", conv, to=FLOAT, name="between"), name="head", module="head")
    model = net.model(net.node("Cast", head, to=FLOAT, name="last"))
    name_new_nodes(model)
    assert {node.name: module_of(node) for node in model.graph.node} == {
        "first": "down", "conv": "down", "between": "down", "head": "head", "last": "head",
    }  # fmt: skip
    assert operators(model) == {"Cast": 3, "Conv": 2}
    graph = Graph(with_shapes(model))
    assert graph.shapes["image"] == [1, 4, 8, 8]
    assert graph.outputs == ["last"]


@pytest.mark.parametrize(("most", "kept"), [(8188.0, False), (8188.5, True), (-8188.5, True), (-8188.0, False)])
def test_a_tensor_stays_fp32_above_an_eighth_of_the_largest_half(most: float, kept: bool) -> None:
    assert MARGIN == 8
    net = Net()
    model = net.model(net.conv(net.node("Relu", net.node("Abs", net.conv("image", name="a"), name="b"), name="c")))
    found = {island.node: island.rule for island in islands(model, {"b": (min(0.0, most), max(0.0, most))})}
    assert ({"b", "c"} <= set(found)) is kept
    assert "a" not in found
    if kept:
        assert {found["b"], found["c"]} == {"range"}
