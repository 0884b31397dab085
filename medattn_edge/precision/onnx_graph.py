"""Reading an ONNX graph: who makes a tensor, who uses it, and which PyTorch module a node came from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medattn_edge.errors import InputError

MODULE = "module"  # the node metadata of our exports


def read(path: Path) -> Any:
    """The ModelProto of a file; raises InputError for one that is no ONNX model."""
    import onnx

    try:
        model = onnx.load(str(path))
    except (OSError, ValueError, onnx.onnx_cpp2py_export.checker.ValidationError) as error:
        raise _unreadable(path, error) from error
    except Exception as error:
        if type(error).__name__ == "DecodeError":  # of protobuf, whose module differs between its implementations
            raise _unreadable(path, error) from error
        raise
    if not model.graph.node:
        raise _unreadable(path, "it has no nodes")
    return model


def _unreadable(path: Path, why: object) -> InputError:
    return InputError(
        f"{Path(path).name} cannot be read as ONNX: {why}",
        expected="an ONNX model",
        hint="medattn-edge export CHECKPOINT -o NAME.onnx",
    )


class Graph:
    """An index of a ModelProto's main graph; make a new one after changing the graph.

    Attributes:
        nodes: in the graph's order.
        weights: name -> TensorProto, of initializers and Constant nodes.
        producer: tensor name -> the node that makes it.
        users: tensor name -> the nodes that read it.
        outputs: their names.
        kinds: tensor name -> ONNX type number; of inputs, outputs and what shape inference has written.
        shapes: tensor name -> sizes, 0 where one is free; of the same.
    """

    def __init__(self, model: Any) -> None:
        graph = model.graph
        self.model = model
        self.nodes: list[Any] = list(graph.node)
        self.weights: dict[str, Any] = {tensor.name: tensor for tensor in graph.initializer} | dict(_constants(graph))
        self.producer: dict[str, Any] = {name: node for node in graph.node for name in node.output if name}
        self.users: dict[str, list[Any]] = defaultdict(list)
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self.users[name].append(node)
        self.outputs: list[str] = [value.name for value in graph.output]
        values = [*graph.input, *graph.value_info, *graph.output]
        self.kinds: dict[str, int] = {value.name: value.type.tensor_type.elem_type for value in values}
        self.shapes: dict[str, list[int]] = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values
        }

    def inputs(self, node: Any) -> list[Any]:
        """The nodes that feed a node, in the order of its inputs; weights and image have none."""
        return [self.producer[name] for name in node.input if name in self.producer]

    def followers(self, node: Any) -> list[Any]:
        """The nodes that a node feeds."""
        return [user for name in node.output for user in self.users[name]]


def _constants(graph: Any) -> Iterator[tuple[str, Any]]:
    for node in graph.node:
        value = next((entry.t for entry in node.attribute if entry.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            yield node.output[0], value


def module_of(node: Any) -> str:
    """The PyTorch module path in a node's metadata, or nothing."""
    return next((entry.value for entry in node.metadata_props if entry.key == MODULE), "")


def set_module(node: Any, path: str) -> None:
    """Write a PyTorch module path into a node's metadata."""
    entry = node.metadata_props.add()
    entry.key, entry.value = MODULE, path


def with_shapes(model: Any) -> Any:
    """A copy whose every tensor has a type and a shape."""
    import onnx

    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def name_new_nodes(model: Any) -> None:
    """Give nodes that a converter added the module of what feeds them, or of what they feed."""
    graph = Graph(model)
    for node in graph.nodes:
        if any(entry.key == MODULE for entry in node.metadata_props):
            continue
        near = [*graph.inputs(node), *graph.followers(node)]
        named = [one for one in near if any(entry.key == MODULE for entry in one.metadata_props)]
        set_module(node, module_of(named[0]) if named else "")


def operators(model: Any) -> dict[str, int]:
    """Operator type -> how many, as a manifest has them."""
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))


def in_order(model: Any) -> None:
    """Put the nodes in the order of their data, as ONNX wants them: converters append theirs at the end."""
    ready = {value.name for value in model.graph.input} | {tensor.name for tensor in model.graph.initializer} | {""}
    waiting, ordered = list(model.graph.node), list[Any]()
    while waiting:
        late = []
        for node in waiting:
            if ready.issuperset(node.input):
                ordered.append(node)
                ready.update(node.output)
            else:
                late.append(node)
        if len(late) == len(waiting):
            raise ValueError(f"the graph has a cycle at {late[0].name}")
        waiting = late
    del model.graph.node[:]
    model.graph.node.extend(ordered)
