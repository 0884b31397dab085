"""Half precision in a graph: ONNX Runtime's conversion, mended so that no half stands between two islands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from medattn_edge.precision.onnx_graph import Graph, in_order, name_new_nodes, with_shapes

_FLOAT, _HALF = 1, 10  # ONNX's numbers of the two types


@dataclass(frozen=True)
class Island:
    """A node that stays FP32.

    Attributes:
        node: its name.
        module: the PyTorch module it came from.
        operator: its type.
        rule: the kind of reason, to count them by.
        reason: why.
    """

    node: str
    module: str
    operator: str
    rule: str
    reason: str


def to_fp16(model: Any, kept: Iterable[Island]) -> Any:
    """A typed copy: FP16 but for the islands; input and outputs FP32; every node keeps its PyTorch module."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted = convert_float_to_float16(
        with_shapes(model),
        keep_io_types=True,
        disable_shape_infer=True,
        op_block_list=[],
        node_block_list=[island.node for island in kept],
    )
    _restore_weights(converted, Graph(model).weights)
    _join_islands(converted)
    _drop_unused_casts(converted)
    in_order(converted)
    del converted.graph.value_info[:]  # the converter's own types are not those of every tensor any more
    for node in converted.graph.node:
        node.doc_string = ""
    name_new_nodes(converted)
    typed = with_shapes(converted)
    onnx.checker.check_model(typed, full_check=True)
    return typed


def _restore_weights(model: Any, weights: dict[str, Any]) -> None:
    """A weight that islands share with others was stored as half and cast back: islands get it as it was."""
    from onnx import numpy_helper

    for node in list(model.graph.node):
        if _casts(node, _FLOAT) and node.input[0] in weights:
            values = numpy_helper.to_array(weights[node.input[0]])
            model.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
            model.graph.node.remove(node)


def _join_islands(model: Any) -> None:
    """Between two FP32 nodes the converter goes through a half, where an overflow would happen: connect them."""
    graph = Graph(model)
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        down = graph.producer.get(node.input[0]) if _casts(node, _FLOAT) else None
        if down is None or not _casts(down, _HALF):
            continue
        wide, name = down.input[0], node.output[0]
        if name in graph.outputs:  # whose name stays
            renamed[wide] = name
        else:
            renamed[name] = wide
        model.graph.node.remove(node)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [_last(renamed, name) for name in names]


def _last(renamed: dict[str, str], name: str) -> str:
    while name in renamed:
        name = renamed[name]
    return name


def _casts(node: Any, kind: int) -> bool:
    return bool(node.op_type == "Cast" and node.attribute[0].i == kind)


def _drop_unused_casts(model: Any) -> None:
    graph = Graph(model)
    for node in graph.nodes:
        if node.op_type == "Cast" and not graph.followers(node) and node.output[0] not in graph.outputs:
            model.graph.node.remove(node)


def rounded(typed: Any) -> Any:
    """What `to_fp16` made, computed in FP32, each of its half tensors and weights rounded to a half: emulated FP16.

    ONNX Runtime's CPU provider computes an FP16 graph in FP32 and drops the roundings between its own kernels; here
    each is a pair of casts of the graph's own, so that storage in half precision, overflow included, is what it would
    be on a GPU that accumulates in FP32. Run it with graph optimisation off.
    """
    import onnx
    from onnx import helper, numpy_helper

    copied = onnx.ModelProto()
    copied.CopyFrom(typed)
    graph = Graph(copied)
    halves = {name for name, kind in graph.kinds.items() if kind == _HALF}
    nodes: list[Any] = []
    for node in graph.nodes:
        casts, rounding = node.op_type == "Cast", [name for name in node.output if name in halves]
        nodes.append(node)
        if not casts:
            node.input[:] = [f"{name}_wide" if name in halves else name for name in node.input]
            node.output[:] = [f"{name}_exact" if name in halves else name for name in node.output]
        for name in rounding:
            if not casts:
                nodes.append(helper.make_node("Cast", [f"{name}_exact"], [name], f"{name}_round", to=_HALF))
            nodes.append(helper.make_node("Cast", [name], [f"{name}_wide"], f"{name}_widen", to=_FLOAT))
    del copied.graph.node[:]
    copied.graph.node.extend(nodes)
    for tensor in copied.graph.initializer:
        if tensor.data_type == _HALF:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    del copied.graph.value_info[:]
    return with_shapes(copied)
