"""What an ONNX graph costs: operators, parameters, and 2 x multiply-adds from the shapes that it carries."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any


def operators(model: Any) -> dict[str, int]:
    """Operator type -> how many, as a manifest has them."""
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))


def parameters(model: Any) -> int:
    """How many float32 numbers the graph holds in tensors that are more than one number."""
    from onnx import TensorProto

    sizes = (math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT)
    return sum(size for size in sizes if size > 1)


def gflop(model: Any) -> float:
    """2 x multiply-adds of convolutions and matrix products of one patch, in 1e9; as `models.flops` counts modules.

    Args:
        model: a ModelProto after shape inference.
    """
    values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
    shapes = {value.name: [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim] for value in values}
    shapes |= {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    batch = max(shapes[model.graph.input[0].name][0], 1)
    return sum(_flop(node, shapes) for node in model.graph.node) / batch / 1e9


def _flop(node: Any, shapes: dict[str, list[int]]) -> float:
    known = [shapes.get(name, []) for name in [*node.input[:2], *node.output[:1]]]
    if node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm") or not all(known):
        return 0.0
    first, second, made = known
    if node.op_type == "Conv":  # weight (K, C / groups, *kernel)
        return 2.0 * math.prod(made) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":  # weight (C, K / groups, *kernel)
        return 2.0 * math.prod(first) * math.prod(second[1:])
    transposed = any(entry.name == "transA" and entry.i for entry in node.attribute)
    return 2.0 * math.prod(made) * (first[-2] if transposed else first[-1])
