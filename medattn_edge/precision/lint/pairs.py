"""What can be wrong with the QuantizeLinear (Q) and DequantizeLinear (DQ) nodes themselves.

Each function is the `find` of one rule of qdq_rules.py: graph, instruction set -> faults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from medattn_edge.precision.lint.graph import CONVOLUTIONS, DEQUANTIZE, QUANTIZE, Fault, QdqGraph, attribute

Faults = Iterator[Fault]
_PARAMETERS = {1: "scale", 2: "zero-point"}


def parameters(graph: QdqGraph, isa: str) -> Faults:
    """A scale or a zero-point that is computed instead of constant."""
    for node in graph.quantisers:
        for index, what in _PARAMETERS.items():
            name = node.input[index] if index < len(node.input) else ""
            if (name or index == 1) and name not in graph.weights:
                yield Fault(node, f"its {what} {name or '(none)'} is not a constant of the graph")


def scale(graph: QdqGraph, isa: str) -> Faults:
    """A scale of zero, below zero, infinite or NaN."""
    for node in graph.quantisers:
        values = graph.constant(node.input[1])
        if values is None:
            continue
        numbers = values.astype(np.float64)
        wrong = numbers[~(np.isfinite(numbers) & (numbers > 0))]
        if wrong.size:
            yield Fault(node, f"{wrong.size} of {numbers.size} scales are not positive numbers, such as {wrong[0]:g}")


def zero_point(graph: QdqGraph, isa: str) -> Faults:
    """A signed type with a zero-point other than 0; of an unsigned one the type is the fault."""
    for node in graph.quantisers:
        values = graph.constant(node.input[2]) if len(node.input) > 2 else None
        if values is None or graph.quantised_type(node) == "UINT8":
            continue
        shifted = values.astype(np.int64)
        if shifted.any():
            yield Fault(node, f"its zero-point is {shifted[shifted != 0][0]}: TensorRT's parser refuses all but 0")


def unsigned(graph: QdqGraph, isa: str) -> Faults:
    """UINT8, said or by default: TensorRT warns 'Defaulting to INT8' and computes other numbers."""
    for node in graph.quantisers:
        if graph.quantised_type(node) == "UINT8":
            given = len(node.input) > 2 and node.input[2]
            why = "quantises to UINT8" if given else "has no zero-point, which makes it UINT8"
            yield Fault(node, f"it {why}, and TensorRT reads the numbers as INT8 with no more than a warning")


def bias(graph: QdqGraph, isa: str) -> Faults:
    """A bias stored as INT32 behind a DQ."""
    for node in graph.select(DEQUANTIZE):
        if graph.quantised_type(node) == "INT32":
            yield Fault(node, "it dequantises an INT32 bias, which TensorRT's parser refuses")


def number_type(allowed: tuple[str, ...], runtime: str) -> Callable[[QdqGraph, str], Faults]:
    """The rule that a quantised type is one of `allowed`; UINT8 and INT32 have rules of their own."""

    def find(graph: QdqGraph, isa: str) -> Faults:
        for node in graph.quantisers:
            kind = graph.quantised_type(node)
            weights_only = kind == "INT4" and graph.has_constant_data(node)
            known = kind in allowed and (kind != "INT4" or weights_only)
            if not known and kind not in ("", "UINT8", "INT32"):
                yield Fault(node, f"it quantises to {kind}, for which {runtime} has no kernel here")

    return find


def weight_axis(graph: QdqGraph, isa: str) -> Faults:
    """Weights quantised per channel along an axis that is not the output channels."""
    for node in graph.select(*CONVOLUTIONS, "MatMul", "Gemm"):
        dequantize = graph.producer.get(node.input[1])
        if dequantize is None or dequantize.op_type != DEQUANTIZE or not graph.has_constant_data(dequantize):
            continue
        scales = graph.constant(dequantize.input[1])
        if scales is None or scales.size < 2:
            continue
        rank = len(graph.shape_of(dequantize.input[0])) or _rank(graph, dequantize)
        axis, expected = attribute(dequantize, "axis", 1), _output_axis(node, rank)
        if axis % max(1, rank) != expected:
            yield Fault(dequantize, f"its weights of {node.op_type} are quantised along axis {axis}, not {expected}")


def _output_axis(node: Any, rank: int) -> int:
    if node.op_type in CONVOLUTIONS:
        return CONVOLUTIONS.index(node.op_type)  # Conv (M, C/g, ...), ConvTranspose (C, M/g, ...)
    return 0 if node.op_type == "Gemm" and attribute(node, "transB", 0) else rank - 1


def _rank(graph: QdqGraph, dequantize: Any) -> int:
    weights = graph.quantised_weights(dequantize)
    return 0 if weights is None else weights.ndim


def activation_channels(graph: QdqGraph, isa: str) -> Faults:
    """Activations quantised per channel: the integer sum over channels has one scale only."""
    for node in graph.quantisers:
        scales = graph.constant(node.input[1])
        if scales is not None and scales.size > 1 and not graph.has_constant_data(node):
            yield Fault(node, f"its activations have {scales.size} scales, one a channel")


def orphan(graph: QdqGraph, isa: str) -> Faults:
    """A Q without a DQ behind it, a DQ without a Q or a constant before it, a DQ that nobody uses."""
    for node in graph.select(QUANTIZE):
        others = sorted({user.op_type for user in graph.followers(node)} - {DEQUANTIZE})
        if set(graph.outputs) & set(node.output):
            others.append("the graph's output")
        if others or not graph.followers(node):
            yield Fault(node, f"its integers go to {', '.join(others) or 'nobody'}, not to a DequantizeLinear")
    for node in graph.select(DEQUANTIZE):
        before = graph.producer.get(node.input[0])
        if node.input[0] not in graph.weights and (before is None or before.op_type != QUANTIZE):
            source = before.op_type if before is not None else "an input of the graph"
            yield Fault(node, f"its integers come from {source}, not from a QuantizeLinear or a constant")
        if not graph.followers(node) and not set(graph.outputs) & set(node.output):
            yield Fault(node, "nobody uses what it dequantises")


def output_pair(graph: QdqGraph, isa: str) -> Faults:
    """A Q/DQ pair that rounds the graph's own output."""
    for node in graph.select(DEQUANTIZE):
        if set(graph.outputs) & set(node.output):
            yield Fault(node, f"it rounds the output {node.output[0]} to 8 bits, with no product behind it")
