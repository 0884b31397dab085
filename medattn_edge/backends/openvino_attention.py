"""Position attention in OpenVINO as one operation, which it computes in the memory of its tiles.

OpenVINO leaves MatMul-Softmax-MatMul of an ONNX file as three operations with a matrix of N x N positions between them.
Channel attention is left alone: its energy X X^T, taken for such an attention, comes out wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np

TYPE = "ScaledDotProductAttention"
_VIEWS = ("Transpose", "Reshape", "Unsqueeze", "Squeeze")


def fuse_attention(model: Any) -> list[str]:
    """Replace every softmax(Q K^T) V of an openvino.Model, which it changes; the names of what was put in.

    Of three-dimensional operands: (N, L, E), (N, S, E) and (N, S, C), as they are or transposed.
    """
    names = []
    for softmax in [op for op in model.get_ordered_ops() if op.get_type_name() == "Softmax"]:
        energy, product = softmax.input_value(0).get_node(), _product(softmax)
        if product is None or energy.get_type_name() != "MatMul" or len(softmax.get_output_partial_shape(0)) != 3:
            continue
        value = _value(softmax, product)
        if value is not None and _source(energy.input_value(0)) != _source(energy.input_value(1)):
            names.append(_replace(softmax, energy, product, value))
    model.validate_nodes_and_infer_types()
    return names


def _value(softmax: Any, product: Any) -> tuple[Any, bool] | None:
    """V (N, S, C), and whether the product is V^T A^T; None when it sums over queries, which is another function."""
    turns, weights = product.get_attributes(), _source(softmax.output(0))
    if _source(product.input_value(0)) == weights:
        right = turns["transpose_a"] == _is_transposed(product.input_value(0))
        return (_turned(product.input_value(1), turns["transpose_b"]), False) if right else None
    right = turns["transpose_b"] != _is_transposed(product.input_value(1))
    return (_turned(product.input_value(0), not turns["transpose_a"]), True) if right else None


def _product(softmax: Any) -> Any:
    """The product that the weights are used in, when they are used in nothing else; None otherwise."""
    node = softmax
    while True:
        targets = list(node.output(0).get_target_inputs())
        if len(targets) != 1:
            return None
        node = targets[0].get_node()
        if node.get_type_name() == "MatMul":
            return node
        if node.get_type_name() != "Transpose" or _order(node) != [0, 2, 1]:
            return None


def _replace(softmax: Any, energy: Any, product: Any, values: tuple[Any, bool]) -> str:
    from openvino import opset13 as ops

    flipped, (value, turned) = energy.get_attributes(), values
    query = _turned(energy.input_value(0), flipped["transpose_a"])
    key = _turned(energy.input_value(1), not flipped["transpose_b"])
    head = ops.constant([1])  # with one head: three-dimensional operands it computes more slowly
    operands = (ops.unsqueeze(one, head) for one in (query, key, value))
    attention = ops.scaled_dot_product_attention(*operands, ops.constant(np.float32(0)), ops.constant(np.float32(1)))
    name = f"{softmax.get_friendly_name()}/attention"
    attention.set_friendly_name(name)
    answer = ops.squeeze(attention, head).output(0)
    final = _turned(answer, True).output(0) if turned else answer
    for target in product.output(0).get_target_inputs():
        target.replace_source_output(final)
    return name


def _turned(output: Any, turn: bool) -> Any:
    from openvino import opset13 as ops

    return ops.transpose(output, ops.constant([0, 2, 1])) if turn else output


def _is_transposed(output: Any) -> bool:
    return bool(output.get_node().get_type_name() == "Transpose")


def _order(transpose: Any) -> list[int]:
    found = transpose.input_value(1).get_node()
    return [int(axis) for axis in found.get_data().ravel()] if found.get_type_name() == "Constant" else []


def _source(output: Any) -> tuple[str, int]:
    """The tensor that a view shows."""
    node = output.get_node()
    while node.get_type_name() in _VIEWS:
        output = node.input_value(0)
        node = output.get_node()
    return node.get_friendly_name(), output.get_index()
