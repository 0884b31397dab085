"""Which nodes of an FP32 graph may become INT8, and which never do."""

from __future__ import annotations

import difflib
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from medattn_edge.errors import UsageError
from medattn_edge.precision.onnx_graph import Graph, module_of

WEIGHTED = ("Conv", "ConvTranspose", "Gemm")
SMALL_CHANNELS = 16  # below, INT8 does not fill a tensor core's tile: no faster than FP16, and less exact


@dataclass(frozen=True)
class Layer:
    """A node with weights.

    Attributes:
        node: its name.
        module: the PyTorch module it came from.
        operator: its type.
        channels: in and out.
    """

    node: str
    module: str
    operator: str
    channels: tuple[int, int]


def layers(model: Any) -> tuple[Layer, ...]:
    """The convolutions and linear layers of an FP32 graph, in its order."""
    graph = Graph(model)
    return tuple(
        Layer(node.name, module_of(node), node.op_type, _channels(node, graph.weights[node.input[1]].dims))
        for node in graph.nodes
        if node.op_type in WEIGHTED and node.input[1] in graph.weights
    )


def _channels(node: Any, dims: Any) -> tuple[int, int]:
    first, second = int(dims[0]), int(dims[1])
    return (first, second) if node.op_type == "ConvTranspose" else (second, first)


def nodes_of_modules(model: Any, modules: Sequence[str]) -> tuple[str, ...]:
    """The names of the nodes of some PyTorch modules, and of the modules in them.

    Args:
        model: a ModelProto.
        modules: paths such as `decoder.3.gate.psi`.

    Raises:
        UsageError: a module that no node came from.
    """
    paths = {node.name: module_of(node) for node in model.graph.node}
    for module in modules:
        if not any(_lies_in(path, module) for path in paths.values()):
            known = sorted({path for path in paths.values() if path})
            near = difflib.get_close_matches(module, known, n=1, cutoff=0.0)
            raise UsageError(
                f"no layer of the graph came from the module {module!r}",
                expected="a module that medattn-edge bisect, inspect or lint names",
                hint=f"--floating {near[0]}" if near else "leave --floating out",
            )
    return tuple(name for name, path in paths.items() if any(_lies_in(path, module) for module in modules))


def _lies_in(path: str, module: str) -> bool:
    return bool(module) and (path == module or path.startswith(f"{module}."))


def attention_products(model: Any) -> tuple[str, ...]:
    """MatMul, Softmax and what stands between them: rows of a softmax over thousands of positions do not fit 8 bits."""
    graph = Graph(model)
    kept = {node.name for node in graph.nodes if node.op_type in ("MatMul", "Softmax")}
    for node in graph.nodes:
        if node.op_type != "Softmax":
            continue
        waiting = graph.inputs(node)
        while waiting:
            one = waiting.pop()
            if one.op_type not in WEIGHTED and one.op_type != "MatMul":
                kept.add(one.name)
                waiting += graph.inputs(one)
    return tuple(node.name for node in graph.nodes if node.name in kept)


def with_idle_nodes(model: Any, floating: Container[str]) -> tuple[str, ...]:
    """Those names of nodes that are in `floating`, and of nodes without weights that feed no quantised layer.

    A pooling or a concatenation between layers in floating point would else be rounded for nobody.
    """
    graph = Graph(model)
    feeding: set[str] = set()
    for node in reversed(graph.nodes):
        for user in graph.followers(node):
            quantised = user.op_type in WEIGHTED and user.name not in floating
            if quantised or (user.op_type not in WEIGHTED and user.name in feeding):
                feeding.add(node.name)
    return tuple(
        node.name
        for node in graph.nodes
        if node.name in floating or (node.op_type not in WEIGHTED and node.name not in feeding)
    )
