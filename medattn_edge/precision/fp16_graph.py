"""Half precision in a graph: ONNX Runtime's conversion, mended so that no half stands between two islands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from medattn_edge.precision.onnx_graph import Graph, module_of, name_new_nodes, with_shapes

_FLOAT, _HALF = 1, 10  # ONNX's numbers of the two types


@dataclass(frozen=True)
class Island:
    """A node that stays FP32. node: its name. module: the PyTorch module it came from. reason: why."""

    node: str
    module: str
    operator: str
    reason: str


def to_fp16(model: Any, kept: Iterable[Island]) -> Any:
    """A typed copy: FP16 but for the islands; input and outputs FP32; every node keeps its PyTorch module."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copied = onnx.ModelProto()
    copied.CopyFrom(with_shapes(model))
    modules = {node.name: module_of(node) for node in copied.graph.node}
    converted = convert_float_to_float16(
        copied,
        keep_io_types=True,
        disable_shape_infer=True,
        op_block_list=[],
        node_block_list=[island.node for island in kept],
    )
    _join_islands(converted)
    _drop_casts_of_constants(converted)
    _sort(converted)
    del converted.graph.value_info[:]  # the converter's own types are not those of every tensor any more
    for node in converted.graph.node:
        node.doc_string = ""
        assert modules.get(node.name, "") == module_of(node) or node.op_type == "Cast"
    name_new_nodes(converted)
    typed = with_shapes(converted)
    onnx.checker.check_model(typed, full_check=True)
    return typed


def _join_islands(model: Any) -> None:
    """Between two FP32 nodes the converter goes through a half, where an overflow would happen: connect them."""
    graph = Graph(model)
    for node in graph.nodes:
        if not _casts(node, _FLOAT) or node.input[0] not in graph.producer:
            continue
        down = graph.producer[node.input[0]]
        if not _casts(down, _HALF):
            continue
        wide, name = down.input[0], node.output[0]
        if name in graph.outputs:
            graph.producer[wide].output[list(graph.producer[wide].output).index(wide)] = name
            for user in graph.users[wide]:
                user.input[:] = [name if one == wide else one for one in user.input]
            model.graph.node.remove(node)
        else:
            for user in graph.users[name]:
                user.input[:] = [wide if one == name else one for one in user.input]
        graph = Graph(model)
    used = {name for node in model.graph.node for name in node.input} | set(graph.outputs)
    while idle := [node for node in model.graph.node if node.op_type == "Cast" and node.output[0] not in used]:
        for node in idle:
            model.graph.node.remove(node)
        used = {name for node in model.graph.node for name in node.input} | set(graph.outputs)


def _casts(node: Any, kind: int) -> bool:
    return bool(node.op_type == "Cast" and node.attribute[0].i == kind)


def _drop_casts_of_constants(model: Any) -> None:
    """A weight that both an island and a half-precision node use is stored as half and cast; store it twice instead."""
    from onnx import numpy_helper

    graph = Graph(model)
    for node in graph.nodes:
        if _casts(node, _FLOAT) and node.input[0] in graph.weights:
            values = numpy_helper.to_array(graph.weights[node.input[0]]).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
            model.graph.node.remove(node)


def _sort(model: Any) -> None:
    """Nodes in the order of their data: the converter appends its casts at the end."""
    ready = {value.name for value in model.graph.input} | {tensor.name for tensor in model.graph.initializer} | {""}
    waiting, ordered = list(model.graph.node), []
    while waiting:
        now = [node for node in waiting if ready.issuperset(node.input)]
        if not now:
            raise ValueError("the converted graph has a cycle")
        ordered += now
        ready.update(name for node in now for name in node.output)
        placed = {id(node) for node in now}
        waiting = [node for node in waiting if id(node) not in placed]
    del model.graph.node[:]
    model.graph.node.extend(ordered)


def rounded(model: Any, kept: Iterable[Island]) -> Any:
    """The FP32 graph with every tensor and weight outside the islands rounded to half: emulated FP16.

    ONNX Runtime's CPU provider computes an FP16 graph in FP32 and drops the roundings between its own kernels; here
    each is a pair of casts of the graph's own, so that storage in half precision, overflow included, is what it would
    be on a GPU that accumulates in FP32. Run it with graph optimisation off.
    """
    import onnx
    from onnx import helper, numpy_helper

    wide = {island.node for island in kept}
    copied = onnx.ModelProto()
    copied.CopyFrom(with_shapes(model))
    graph = Graph(copied)
    new_nodes: list[Any] = []
    renamed: dict[str, str] = {}
    halves: dict[str, str] = {}
    for node in graph.nodes:
        node.input[:] = [renamed.get(name, name) if node.name not in wide else name for name in node.input]
        if node.name not in wide:
            for index, name in enumerate(node.input):
                tensor = graph.weights.get(name)
                if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or (node.op_type == "Resize" and index):
                    continue
                if name not in halves:
                    halves[name] = f"{name}_half"
                    with np.errstate(over="ignore"):
                        values = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
                    copied.graph.initializer.append(numpy_helper.from_array(values, halves[name]))
                node.input[index] = halves[name]
        new_nodes.append(node)
        for name in node.output:
            if graph.kinds.get(name) != onnx.TensorProto.FLOAT or name in graph.outputs:
                continue
            # A tensor that only islands touch is never a half; one that an island hands out is, for the others.
            half, back = f"{name}_as_half", f"{name}_rounded"
            new_nodes.append(helper.make_node("Cast", [name], [half], to=onnx.TensorProto.FLOAT16, name=half))
            new_nodes.append(helper.make_node("Cast", [half], [back], to=onnx.TensorProto.FLOAT, name=back))
            renamed[name] = back
            if node.name not in wide:
                # Also an island that reads it sees what was stored.
                for user in graph.users[name]:
                    if user.name in wide:
                        user.input[:] = [back if one == name else one for one in user.input]
    del copied.graph.node[:]
    copied.graph.node.extend(new_nodes)
    return copied
