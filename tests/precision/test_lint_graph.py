"""How the rules of the lint read a graph: types, shapes, pairs, and what lies beside a node."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from medattn_edge.precision.lint.graph import LAYOUT, QdqGraph, attribute
from medattn_edge.precision.lint.rules import lint
from tests.precision.graphs import INT4, INT8, UINT8, Net

INT32 = TensorProto.INT32


def by_name(graph: QdqGraph, name: str) -> Any:
    return next(node for node in graph.nodes if node.name == name)


@pytest.mark.parametrize(
    ("domains", "version"),
    [([("", 18)], 18), ([("ai.onnx", 17)], 17), ([("com.microsoft", 1)], 0), ([("com.microsoft", 30), ("", 18)], 18)],
)
def test_the_opset_is_that_of_onnxs_own_operators(domains: list[tuple[str, int]], version: int) -> None:
    net = Net()
    model = net.model(net.node("Relu", "image"))
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(*one) for one in domains)
    assert QdqGraph(model).opset == version


def test_shapes_and_types_of_tensors() -> None:
    net = Net(("N", 4, 8, 8))
    out = net.node("Relu", net.conv("image", 6, 4, name="conv"), name="out")
    graph = QdqGraph(net.model(out))
    assert graph.shape_of("image") == [-1, 4, 8, 8]
    assert graph.shape_of("conv") == [-1, 6, 8, 8]
    assert graph.shape_of("w0") == [6, 4, 1, 1]
    assert (graph.shape_of("none"), graph.type_of("none"), graph.type_of("conv")) == ([], "", "FLOAT")
    assert [value.name for value in graph.inputs_of_graph] == ["image"]
    values = graph.constant("w0")
    assert values is not None
    assert values.shape == (6, 4, 1, 1)
    assert graph.constant("image") is None
    assert attribute(by_name(graph, "conv"), "group", 7) == 7


def test_initializers_that_are_listed_among_the_inputs_are_none() -> None:
    net = Net()
    model = net.model(net.conv("image"))
    model.graph.input.append(helper.make_tensor_value_info("w0", TensorProto.FLOAT, [4, 4, 1, 1]))
    assert [value.name for value in QdqGraph(model).inputs_of_graph] == ["image"]


@pytest.mark.parametrize(("zero", "kind", "expected"), [(0, INT8, "INT8"), (0, UINT8, "UINT8"), (None, INT8, "UINT8")])
def test_the_type_of_a_pair_is_that_of_its_zero_point_or_the_default(zero: Any, kind: int, expected: str) -> None:
    net = Net()
    out = net.pair("image", kind, zero=zero)
    graph = QdqGraph(net.model(out))
    assert [graph.quantised_type(node) for node in graph.nodes] == [expected, expected]
    assert [node.op_type for node in graph.quantisers] == ["QuantizeLinear"]  # the pair is one fault, once
    assert [graph.has_constant_data(node) for node in graph.nodes] == [False, False]


def test_a_pair_whose_halves_differ_is_two() -> None:
    net = Net()
    integers = net.node("QuantizeLinear", "image", net.weight(np.float32(0.1)), net.weight(0, INT8))
    out = net.node("DequantizeLinear", integers, net.weight(np.float32(0.2)), net.weight(0, INT8))
    assert len(QdqGraph(net.model(out)).quantisers) == 2


def test_the_type_that_a_q_is_told_and_that_stored_integers_have() -> None:
    net = Net(opset=21)
    first = net.node("QuantizeLinear", "image", net.weight(np.float32(0.1)), output_dtype=INT8, name="told")
    second = net.node("DequantizeLinear", first, net.weight(np.float32(0.1)), name="behind")
    third = net.node("DequantizeLinear", net.weight(np.ones((1, 4, 8, 8), np.int32)), net.weight(np.float32(1)),
                     name="stored")  # fmt: skip
    graph = QdqGraph(net.model(net.node("Add", second, third)))
    types = [graph.quantised_type(by_name(graph, name)) for name in ("told", "behind", "stored")]
    assert types == ["INT8", "INT8", "INT32"]
    assert graph.has_constant_data(by_name(graph, "stored"))
    assert graph.quantised_weights(by_name(graph, "behind")) is None


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_that_are_quantised_on_the_way_are_rounded_and_clipped(axis: int) -> None:
    net = Net()
    values = np.array([[0.24, 0.26], [100, -100], [0.05, -0.05]], np.float32)
    scale = np.array([0.1, 0.2, 0.1], np.float32)[: 3 if axis == 0 else 2]
    scales, zeros = net.weight(scale), net.weight(np.zeros(scale.size), INT8)
    stored = net.node("QuantizeLinear", net.weight(values), scales, zeros, axis=axis)
    out = net.node("DequantizeLinear", stored, scales, zeros, axis=axis, name="weights")
    graph = QdqGraph(net.model(out))
    found = graph.quantised_weights(by_name(graph, "weights"))
    assert found is not None
    assert found.dtype == np.int32
    expected = np.rint(values / (scale[:, None] if axis == 0 else scale)).clip(-128, 127)
    assert np.array_equal(found, expected)
    assert graph.has_constant_data(by_name(graph, "weights"))


def test_a_factor_is_quantised_past_changes_of_layout_only() -> None:
    net = Net((1, 16, 8))
    turned = net.node("Transpose", net.node("Squeeze", net.node("Unsqueeze", net.pair("image"),
                      net.weight(np.array([0]))), net.weight(np.array([0]))), perm=[0, 2, 1])  # fmt: skip
    product = net.node("MatMul", turned, net.node("Relu", net.pair("image")), name="product")
    graph = QdqGraph(net.model(product))
    node = by_name(graph, "product")
    found = graph.dequantizer(node, 0)
    assert found is not None
    assert found.op_type == "DequantizeLinear"
    assert (graph.dequantizer(node, 1), graph.dequantizer(node, 2)) == (None, None)


def attention() -> QdqGraph:
    net = Net((1, 8, 8))
    energy = net.node("MatMul", net.node("Transpose", "image", perm=[0, 2, 1]), "image", name="energy")
    scaled = net.node("Neg", net.node("Mul", energy, net.weight(np.float32(2))), name="scaled")
    weights = net.node("Softmax", scaled, axis=-1, name="softmax")
    used = net.node("MatMul", "image", net.node("Transpose", weights, perm=[0, 2, 1]), name="used")
    relu = net.node("Relu", used, name="relu")
    return QdqGraph(net.model(net.node("MatMul", relu, "image", name="other")))


def test_the_products_of_an_attention_are_those_before_and_behind_its_softmax() -> None:
    graph = attention()
    assert [node.name for node in graph.energies] == ["energy"]
    assert [node.name for node in graph.attention_products] == ["energy", "used"]
    assert graph.source(by_name(graph, "energy").input[0]) == "image"
    assert graph.source(by_name(graph, "energy").input[1]) == "image"
    assert graph.source("relu") == "relu"


def test_what_is_met_beyond_nodes_of_some_types_is_met_once() -> None:
    graph = attention()
    softmax = by_name(graph, "softmax")
    assert [node.name for node in graph.reach(softmax, LAYOUT, up=False)] == ["used"]
    assert [node.name for node in graph.reach(softmax, {"Neg", "Mul"}, up=True)] == ["energy"]
    assert [node.name for node in graph.reach(by_name(graph, "other"), set(), up=False)] == []


def test_a_pair_belongs_to_the_module_that_it_feeds_or_to_the_one_that_feeds_it() -> None:
    net = Net((1, 16, 8, 8))
    conv = net.node("Conv", net.pair("image"), net.stored((16, 16, 1, 1)), module="down.0", name="conv")
    last = net.pair(conv)
    graph = QdqGraph(net.model(last))
    modules = [graph.module_of(node) for node in graph.nodes]
    assert modules == ["down.0"] * len(graph.nodes)
    plain = Net()
    alone = QdqGraph(plain.model(plain.pair("image")))
    assert [alone.module_of(node) for node in alone.nodes] == ["", ""]


@pytest.mark.parametrize(
    ("operator", "shape", "axis", "transposed", "expected"),
    [
        ("Conv", (16, 16, 1, 1), 0, 0, None), ("Conv", (16, 16, 1, 1), 1, 0, 0),
        ("ConvTranspose", (16, 16, 1, 1), 1, 0, None), ("ConvTranspose", (16, 16, 1, 1), 0, 0, 1),
        ("MatMul", (32, 16), 1, 0, None), ("MatMul", (32, 16), 0, 0, 1), ("MatMul", (32, 16), -1, 0, None),
        ("Gemm", (16, 32), 0, 1, None), ("Gemm", (16, 32), 1, 1, 0), ("Gemm", (32, 16), 1, 0, None),
    ],
)  # fmt: skip
def test_weights_are_quantised_along_their_outputs(
    operator: str, shape: tuple[int, ...], axis: int, transposed: int, expected: int | None
) -> None:
    net = Net((4, 32) if operator in ("MatMul", "Gemm") else (1, 16, 8, 8))
    more = {"transB": transposed} if operator == "Gemm" else {}
    out = net.node(operator, net.pair("image"), net.stored(shape, axis), **more)
    found = [one.reason for one in lint(net.model(out), "tensorrt") if one.rule == "weight-axis"]
    assert found == ([] if expected is None else
                     [f"its weights of {operator} are quantised along axis {axis}, not {expected}"])  # fmt: skip


@pytest.mark.parametrize(("kind", "weights", "found"), [(INT8, True, 0), (INT4, True, 0), (INT4, False, 1)])
def test_four_bits_are_for_weights_of_tensorrt_alone(kind: int, weights: bool, found: int) -> None:
    net = Net((1, 16, 8, 8), opset=21)
    image = net.pair("image") if weights else net.pair("image", kind)
    out = net.node("Conv", image, net.stored((16, 16, 1, 1), kind=kind if weights else INT8))
    model = net.model(out)
    assert sum(one.rule == "type" for one in lint(model, "tensorrt")) == found
    assert sum(one.rule == "type" for one in lint(model, "cpu", "arm")) == (kind == INT4)
