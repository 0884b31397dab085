"""Position attention in OpenVINO as one operation, which it computes in the memory of its tiles.

OpenVINO leaves MatMul-Softmax-MatMul of an ONNX file as three operations with a matrix of N x N positions between them.
Channel attention is left alone: its energy X X^T, taken for such an attention, comes out wrong.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

TYPE = "ScaledDotProductAttention"
_VIEWS = ("Transpose", "Reshape", "Unsqueeze", "Squeeze")
_POSITIONS = 1  # axis of them in queries and answers (N, L, E)


class _Attention(NamedTuple):
    """The nodes of a softmax(Q K^T) V.

    value: V (N, S, C), or its transpose. turned: V is given and used transposed, V^T A^T.
    """

    softmax: Any
    energy: Any
    product: Any
    value: Any
    turned: bool


def fuse_attention(model: Any) -> list[str]:
    """Replace every softmax(Q K^T) V of an openvino.Model, which it changes; the names of what was put in.

    Of three-dimensional operands: (N, L, E), (N, S, E) and (N, S, C), as they are or transposed. Blocks of queries
    whose answers are put together again become one: the operation needs no matrix, and one is faster than many.
    """
    ordered = model.get_ordered_ops()
    found = [one for op in ordered if op.get_type_name() == "Softmax" and (one := _attention(op)) is not None]
    by_product = {one.product.get_friendly_name(): one for one in found}
    names, done = [], set[str]()
    for joined in [op for op in ordered if op.get_type_name() == "Concat"]:
        products = [value.get_node().get_friendly_name() for value in joined.input_values()]
        blocks = [by_product[name] for name in products if name in by_product]
        query = _whole_query(blocks) if len(blocks) == len(products) and _is_joined(joined) else None
        if query is not None:
            names.append(_replace(blocks[0], query, joined))
            done.update(products)
    for name, one in by_product.items():
        if name not in done:
            names.append(_replace(one, one.energy.input_value(0), one.product))
    model.validate_nodes_and_infer_types()
    return names


def _attention(softmax: Any) -> _Attention | None:
    energy, product = softmax.input_value(0).get_node(), _product(softmax)
    if product is None or energy.get_type_name() != "MatMul" or len(softmax.get_output_partial_shape(0)) != 3:
        return None
    value = _value(softmax, product)
    if value is None or _source(energy.input_value(0)) == _source(energy.input_value(1)):
        return None
    return _Attention(softmax, energy, product, *value)


def _is_joined(concat: Any) -> bool:
    """Whether it puts answers (N, rows, C) together along their positions, and nothing else reads them."""
    alone = all(len(value.get_target_inputs()) == 1 for value in concat.input_values())
    return bool(alone and concat.get_attributes()["axis"] == _POSITIONS)


def _whole_query(blocks: list[_Attention]) -> Any:
    """The tensor (N, L, E) that blocks with one key and one value share out among them; None when there is none.

    Its slices, in order and complete, are the queries of the blocks.
    """
    shared = {(_port(one.energy.input_value(1)), _port(one.product.input_value(1)), one.turned) for one in blocks}
    turns = {str([one.energy.get_attributes(), one.product.get_attributes()]) for one in blocks}
    slices = [one.energy.input_value(0).get_node() for one in blocks]
    if len(shared) != 1 or len(turns) != 1 or blocks[0].turned or blocks[0].energy.get_attributes()["transpose_a"]:
        return None
    if any(one.get_type_name() != "Slice" for one in slices):
        return None
    whole, end = slices[0].input_value(0), 0
    size = whole.get_partial_shape()[_POSITIONS]
    for one in slices:
        start, stop, step, axis = (_constant(one.input_value(index)) for index in (1, 2, 3, 4))
        if _port(one.input_value(0)) != _port(whole) or (start, step, axis) != ([end], [1], [_POSITIONS]):
            return None
        end = stop[0] if stop else -1
    return whole if size.is_static and end >= size.get_length() else None


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
        if node.get_type_name() != "Transpose" or _constant(node.input_value(1)) != [0, 2, 1]:
            return None


def _replace(one: _Attention, query: Any, replaced: Any) -> str:
    """Put the attention of a query in the place of a node; the name of what was put in."""
    from openvino import opset13 as ops

    flipped = one.energy.get_attributes()
    query = _turned(query, flipped["transpose_a"])
    key = _turned(one.energy.input_value(1), not flipped["transpose_b"])
    head = ops.constant([1])  # with one head: three-dimensional operands it computes more slowly
    operands = (ops.unsqueeze(part, head) for part in (query, key, one.value))
    attention = ops.scaled_dot_product_attention(*operands, ops.constant(np.float32(0)), ops.constant(np.float32(1)))
    name = f"{one.softmax.get_friendly_name()}/attention"
    attention.set_friendly_name(name)
    answer = ops.squeeze(attention, head).output(0)
    final = _turned(answer, True).output(0) if one.turned else answer
    for target in replaced.output(0).get_target_inputs():
        target.replace_source_output(final)
    return name


def _turned(output: Any, turn: bool) -> Any:
    from openvino import opset13 as ops

    return ops.transpose(output, ops.constant([0, 2, 1])) if turn else output


def _is_transposed(output: Any) -> bool:
    return bool(output.get_node().get_type_name() == "Transpose")


def _constant(output: Any) -> list[int]:
    """The integers of a constant; none of what is computed."""
    node = output.get_node()
    return [int(value) for value in node.get_data().ravel()] if node.get_type_name() == "Constant" else []


def _port(output: Any) -> tuple[str, int]:
    return output.get_node().get_friendly_name(), output.get_index()


def _source(output: Any) -> tuple[str, int]:
    """The tensor that a view shows."""
    node = output.get_node()
    while node.get_type_name() in _VIEWS:
        output = node.input_value(0)
        node = output.get_node()
    return _port(output)
