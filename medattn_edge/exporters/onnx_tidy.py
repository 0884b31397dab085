"""What torch's exporter leaves behind, and is of no use to a runtime: shape arithmetic, source paths, empty names."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np

from medattn_edge.errors import BackendError

MODULE = "module"  # the node metadata that names the PyTorch module a node came from
_SCOPES = "pkg.torch.onnx.name_scopes"
_WRAPPER = "network."  # where the module that adds the attention output holds the network


def tidy(model: Any) -> Any:
    """The same ONNX model (a ModelProto, changed in place): Resize by constant scales, no shape arithmetic, every
    node's metadata its PyTorch module path alone (`module`; the network itself is an empty path).

    With a free batch the exporter computes each Resize's sizes from the input's; the scales are constants of the
    network, and are exact. Raises BackendError when shape arithmetic is left all the same.
    """
    _constant_scales(model.graph)
    _drop_unused(model.graph)
    left = sorted({node.op_type for node in model.graph.node} & {"Shape", "Size", "Loop", "If", "Scan"})
    if left:
        raise BackendError(
            f"the exported graph still computes shapes with {', '.join(left)}",
            expected="constant shapes",
            hint="export with a fixed --batch, and please report this",
        )
    _name_modules(model.graph)
    _name_weights(model.graph)
    for holder in (model, model.graph, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del holder.metadata_props[:]
    model.doc_string = ""
    model.producer_name, model.producer_version = "medattn-edge", ""
    return model


def _constant_scales(graph: Any) -> None:
    from onnx import numpy_helper

    shapes = _shapes(graph)
    for node in graph.node:
        if node.op_type != "Resize" or len(node.input) < 4 or not node.input[3]:
            continue
        if any(entry.name == "axes" or entry.s in (b"not_larger", b"not_smaller") for entry in node.attribute):
            continue  # sizes that are not those of all axes: of other people's graphs
        size, target = shapes.get(node.input[0], [])[2:], shapes.get(node.output[0], [])[2:]
        if not size or len(size) != len(target) or min(*size, *target) < 1:
            continue  # sizes that are not constants of the network: what computes them is found below
        scales = np.array([1.0, 1.0, *map(_scale, size, target)], np.float32)
        name = f"{node.output[0]}_scales"
        graph.initializer.append(numpy_helper.from_array(scales, name))
        kept = [node.input[0], node.input[1], name]
        del node.input[:]
        node.input.extend(kept)


def _scale(size: int, target: int) -> np.float32:
    """The smallest float32 whose product with `size` is not below `target`: the operator's output size is its floor.

    The exact product counts, as runtimes take it in float32 and onnx's checker in float64.
    """
    scale = np.float32(target / size)
    return scale if float(scale) * size >= target else np.nextafter(scale, np.float32(np.inf))


def _shapes(graph: Any) -> dict[str, list[int]]:
    """Name -> sizes, -1 where one is free."""
    values = [*graph.value_info, *graph.input, *graph.output]
    return {
        value.name: [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim]
        for value in values
    }


def _drop_unused(graph: Any) -> None:
    while True:
        used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        idle = [node for node in graph.node if not used & set(node.output)]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    alive = {name for node in graph.node for name in node.output}
    for value in [value for value in graph.value_info if value.name not in alive]:
        graph.value_info.remove(value)


def _name_modules(graph: Any) -> None:
    paths = {node.output[0]: _module_path(node) for node in graph.node}
    for node in graph.node:
        path = paths[node.output[0]]
        if path is None:  # a node that the optimiser made: it belongs to what feeds it
            path = next((paths[name] for name in node.input if paths.get(name) is not None), "")
            paths[node.output[0]] = path
        del node.metadata_props[:]
        entry = node.metadata_props.add()
        entry.key, entry.value = MODULE, path
        node.doc_string = ""


def _name_weights(graph: Any) -> None:
    """A weight has one name, its path in the network, with the attention output and without."""
    names = {tensor.name: tensor.name.removeprefix(_WRAPPER) for tensor in graph.initializer}
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _module_path(node: Any) -> str | None:
    """The innermost module's path, without the wrapper that adds the attention output."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), None)
    if scopes is None:
        return None
    path = str(["", *ast.literal_eval(scopes)[:-1]][-1])
    return "" if path == "network" else path.removeprefix(_WRAPPER)
