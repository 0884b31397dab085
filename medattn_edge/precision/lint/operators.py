"""What can be wrong with the operators around Q/DQ nodes, and with those of FP16 graphs.

Each function is the `find` of one rule of qdq_rules.py: graph, instruction set -> faults.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from medattn_edge.host.computed_precision import RTX_INT8
from medattn_edge.precision.layers import SMALL_CHANNELS
from medattn_edge.precision.lint.graph import (
    CONVOLUTIONS,
    LAYOUT,
    PRODUCTS,
    QUANTIZE,
    Fault,
    QdqGraph,
    attribute,
    sizes,
)

Faults = Iterator[Fault]
LARGEST_HALF = 65504.0
_SEVEN_BITS = 64  # what ONNX Runtime's reduce_range gives: two products 255 * 64 still fit the 16-bit sum
_OPSETS = (17, 18)
_HALVES = ("FLOAT16", "BFLOAT16")
_NORMS = ("InstanceNormalization", "LayerNormalization", "GroupNormalization", "MeanVarianceNormalization")
_SUMS = ("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2", "ReduceLogSumExp", "GlobalAveragePool")
ISLANDS = ("Softmax", "LogSoftmax", "Sigmoid", "Exp", *_NORMS, *_SUMS)
_CONTROL = ("Shape", "Size", "Loop", "If", "Scan", "NonZero", "SequenceAt", "SequenceConstruct")


def softmax(graph: QdqGraph, isa: str) -> Faults:
    """A Softmax of, or into, integers."""
    for node in graph.select("Softmax", "LogSoftmax", "Attention"):
        if graph.dequantizer(node, 0) is not None:
            yield Fault(node, f"the energies of this {node.op_type} are quantised")
        if any(user.op_type == QUANTIZE for user in graph.reach(node, LAYOUT, up=False)):
            yield Fault(node, "its weights are quantised: of a row over 4096 positions 8 bits leave 98 to 100 % zero")


def attention_product(graph: QdqGraph, isa: str) -> Faults:
    """A product of an attention computed in integers, which takes both factors; one alone is only stored in 8 bits."""
    for node in graph.attention_products:
        if all(graph.dequantizer(node, index) is not None for index in (0, 1)):
            yield Fault(node, f"this {node.op_type} of an attention is quantised")


def forbidden(graph: QdqGraph, isa: str) -> Faults:
    """A gate or a norm whose input is quantised."""
    for node in graph.select("Sigmoid", *_NORMS):
        if graph.dequantizer(node, 0) is not None:
            yield Fault(node, f"the input of this {node.op_type} is quantised")


def few_channels(graph: QdqGraph, isa: str) -> Faults:
    """A quantised convolution of a handful of channels."""
    for node in _quantised(graph, *CONVOLUTIONS):
        shape = _weight_shape(graph, node)
        if len(shape) < 2:
            continue
        group = attribute(node, "group", 1)
        first, second = (shape[0], shape[1] * group)
        before, after = (second, first) if node.op_type == "Conv" else (first, second)
        if min(before, after) < SMALL_CHANNELS:
            yield Fault(node, f"this INT8 {node.op_type} has {before} channels in and {after} out")


def foreign(graph: QdqGraph, isa: str) -> Faults:
    """Integer operators and operators outside ONNX: TensorRT knows Q/DQ around ordinary ones."""
    for node in graph.nodes:
        integer = node.op_type.startswith(("QLinear", "DynamicQuantize")) or node.op_type.endswith("Integer")
        if node.domain not in ("", "ai.onnx"):
            yield Fault(node, f"{node.domain}.{node.op_type} is an operator of one runtime, not of ONNX")
        elif integer:
            yield Fault(node, f"{node.op_type} is an integer operator; TensorRT takes Q/DQ around the ordinary one")


def opset(graph: QdqGraph, isa: str) -> Faults:
    """An opset that we do not build with: older ones leave out norms, newer ones not every parser knows."""
    if graph.opset not in _OPSETS:
        low, high = _OPSETS
        yield Fault(
            None, f"the opset is {graph.opset}; all of TensorRT 10, 11 and RTX are sure to know {low} and {high}"
        )


def free_sizes(graph: QdqGraph, isa: str) -> Faults:
    """An input with a free size other than the batch."""
    for value in graph.inputs_of_graph:
        shape = sizes(value)
        if min(shape[1:], default=1) < 1:
            text = ", ".join("free" if size < 1 else str(size) for size in shape)
            yield Fault(None, f"the input {value.name} is ({text}): only N may be free")


def control(graph: QdqGraph, isa: str) -> Faults:
    """Shapes computed at run time, and control flow."""
    for node in graph.select(*_CONTROL):
        yield Fault(node, f"{node.op_type} makes the graph's shapes or its course depend on data")


def signed_activations(graph: QdqGraph, isa: str) -> Faults:
    """Signed activations with signed weights on x86."""
    if isa == "arm":
        return
    for node in _quantised(graph, *PRODUCTS):
        types = [graph.quantised_type(graph.dequantizer(node, index)) for index in (0, 1)]
        if types == ["INT8", "INT8"]:
            yield Fault(node, f"{node.op_type} of signed activations and signed weights (S8S8): x86 has U8S8 only")


def eight_bit_weights(graph: QdqGraph, isa: str) -> Faults:
    """Weights of 8 bits where sums of two products are 16 bits wide: x86 without VNNI."""
    if isa != "x86":
        return
    for node in _quantised(graph, *PRODUCTS):
        pair = [graph.dequantizer(node, index) for index in (0, 1)]
        weights = graph.quantised_weights(pair[1]) if graph.quantised_type(pair[1]) == "INT8" else None
        most = 0 if weights is None else int(np.abs(weights).max(initial=0))
        if graph.quantised_type(pair[0]) == "UINT8" and most > _SEVEN_BITS:
            yield Fault(node, f"its weights reach {most}: without VNNI the 16-bit sums of x86 saturate above 64")


def transposed_3d(graph: QdqGraph, isa: str) -> Faults:
    """A quantised 3-D ConvTranspose."""
    for node in _quantised(graph, "ConvTranspose"):
        if len(_weight_shape(graph, node)) == 5:
            yield Fault(node, "ONNX Runtime has no INT8 ConvTranspose, and its 3-D form costs more than it saves")


def half_ports(graph: QdqGraph, isa: str) -> Faults:
    """An input or an output that is not FP32."""
    for value in (*graph.inputs_of_graph, *graph.model.graph.output):
        kind = graph.type_of(value.name)
        if kind in (*_HALVES, "DOUBLE"):
            yield Fault(graph.producer.get(value.name), f"{value.name} is {kind}, and sessions exchange FP32")


def half_islands(graph: QdqGraph, isa: str) -> Faults:
    """What must be computed in FP32 computed in half precision."""
    for node in graph.select(*ISLANDS):
        kind = graph.type_of(node.input[0])
        if kind in _HALVES:
            yield Fault(node, f"this {node.op_type} is computed in {kind}")


def half_energy(graph: QdqGraph, isa: str) -> Faults:
    """X X^T of channel attention in half precision: a sum of squares over a whole image."""
    for node in graph.energies:
        sources = {graph.source(name) for name in node.input[:2] if name}
        if len(sources) == 1 and graph.type_of(node.input[0]) in _HALVES:
            yield Fault(node, "it sums the squares of a whole image, which passes 65504 soon")


def half_weights(graph: QdqGraph, isa: str) -> Faults:
    """Half-precision constants that are not finite, or near the end of the range."""
    for name in graph.weights:
        if graph.type_of(name) != "FLOAT16":
            continue
        most = float(np.abs(_floats(graph, name)).max(initial=0.0))
        if not most <= LARGEST_HALF / 2:
            user = next((node for node in graph.nodes if name in node.input), None)
            yield Fault(user, f"its constant {name} reaches {most:g}, and a half ends at {LARGEST_HALF:g}")


def _floats(graph: QdqGraph, name: str) -> Any:
    values = graph.constant(name)
    return np.zeros(0) if values is None else values.astype(np.float64)


def _quantised(graph: QdqGraph, *kinds: str) -> Iterator[Any]:
    """The nodes of these types with both factors quantised."""
    for node in graph.select(*kinds):
        if all(graph.dequantizer(node, index) is not None for index in (0, 1)):
            yield node


def _weight_shape(graph: QdqGraph, node: Any) -> tuple[int, ...]:
    weights = graph.quantised_weights(graph.dequantizer(node, 1))
    return () if weights is None else weights.shape


def integers_in_rtx(graph: QdqGraph, isa: str) -> Faults:
    """A quantised graph, which TensorRT for RTX builds."""
    if graph.quantisers:
        yield Fault(None, RTX_INT8)
