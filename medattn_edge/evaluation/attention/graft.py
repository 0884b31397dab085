"""A copy of a deployed ONNX graph that also answers the attention maps: nothing of the graph itself is changed.

The network is exported once more, with its maps. What leads from tensors that its logits are made from to the maps is
the tail; the tail is added to the copy, where it reads the deployed graph's own tensors of the same nodes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Artifact, manifest_path, sha256
from medattn_edge.errors import BackendError, InputError, UsageError, quoted
from medattn_edge.models.checkpoint import Checkpoint
from medattn_edge.precision.onnx_graph import Graph, module_of, operators, read, with_shapes

_OUTPUT, _LOGITS, _PREFIX = "attention", "logits", "explain/"
_FLOAT = 1  # of onnx.TensorProto
_COMMUTE = ("Add", "Mul")
_ROUNDING = ("QuantizeLinear", "DequantizeLinear", "Cast")
# What every precision keeps of a graph: by how many of each, of which modules, a tensor is known again.
_KEPT = ("Conv", "ConvTranspose", "MatMul", "Softmax", "Sigmoid")


@dataclass(frozen=True)
class Graft:
    """A copy with maps.

    Attributes:
        artifact: the copy, with a manifest of its own.
        added: operator type -> how many were added.
        tensors: the deployed graph's own tensors that these read, as `operator of module`.
    """

    artifact: Artifact
    added: Mapping[str, int]
    tensors: tuple[str, ...]


def graft_maps(deployed: Artifact, checkpoint: Checkpoint, path: Path) -> Graft:
    """Write a copy of a deployed ONNX file that answers the maps of its own tensors.

    Args:
        deployed: of our exporter, in any precision.
        checkpoint: that it was made from, under its spec.
        path: of the copy; a second file beside it is written on the way.

    Raises:
        UsageError: for a file that is no ONNX.
        InputError: for a graph in which a tensor of the network is not found again.
    """
    from medattn_edge.evaluation.attention.networks import WithMatrices

    if deployed.path.suffix.lower() != ".onnx":
        raise no_copy_of(deployed.path)
    full = _export(deployed, checkpoint, path.with_name("with_maps.onnx"))
    names = WithMatrices(checkpoint.network, checkpoint.spec.patch).attention_names
    model = read(deployed.path)
    tail, cuts = _tail(full)
    graph = Graph(with_shapes(model))
    found = {name: _found(full, trunk, graph, deployed.path) for name, trunk in cuts.items()}
    added = _add(model, full, tail, found)
    _save(model, path)
    outputs = {**deployed.manifest.outputs, _OUTPUT: [-1, len(names), *checkpoint.spec.patch]}
    outputs[_OUTPUT][0] = deployed.manifest.batch or -1
    manifest = deployed.manifest.child(
        sha256=sha256(path), attention_maps=names, outputs=outputs, operators=operators(model)
    )
    manifest.write(manifest_path(path))
    producers = [full.producer[name] for name in cuts.values()]
    return Graft(Artifact(path, manifest), added, tuple(f"{one.op_type} of {module_of(one)}" for one in producers))


def no_copy_of(path: Path) -> UsageError:
    """What to say of a file from which no maps can be had: it has no such output, and takes none."""
    return UsageError(
        f"{path.name} has no attention output, and a {path.suffix} file takes none afterwards",
        expected="an .onnx file, or one that was exported with attention maps",
        hint=f"medattn-edge explain CHECKPOINT {quoted(path.stem + '.onnx')} SCAN -o FOLDER, the file that it was "
        "compiled from, or export it with --attention and compile that",
    )


def _export(deployed: Artifact, checkpoint: Checkpoint, path: Path) -> Graph:
    """The same network, rewritten as the deployed file was, with its maps, in FP32."""
    from medattn_edge.evaluation.attention.networks import Exported, channel_matrices
    from medattn_edge.exporters import ExportSettings, exporter_of
    from medattn_edge.rewrites import rewrite

    manifest = deployed.manifest
    rewritten = rewrite(checkpoint, [str(step["name"]) for step in manifest.rewrites])
    opset = next(entry.version for entry in read(deployed.path).opset_import if entry.domain in ("", "ai.onnx"))
    settings = ExportSettings(batch=manifest.batch, opset=opset, attention=True)
    module = Exported(rewritten.network, channel_matrices(checkpoint.network, checkpoint.spec.patch)[0]).eval()
    exporter_of(path).write(module, checkpoint.spec, settings, path)
    return Graph(with_shapes(read(path)))


def _numbers(graph: Graph) -> dict[str, str]:
    """Tensor -> a number of its value: the same for two tensors that are computed in the same way from the same."""
    from onnx import numpy_helper

    numbers = {value.name: value.name for value in graph.model.graph.input}
    for name, tensor in graph.weights.items():
        values = numpy_helper.to_array(tensor)
        numbers[name] = hashlib.sha256(f"{values.dtype}{values.shape}".encode() + values.tobytes()).hexdigest()
    for node in graph.nodes:
        inputs = [numbers.get(name, name) for name in node.input]
        if node.op_type in _COMMUTE:
            inputs.sort()
        attributes = sorted(entry.SerializeToString() for entry in node.attribute)
        number = hashlib.sha256(repr((node.domain, node.op_type, inputs, attributes)).encode()).hexdigest()
        for index, name in enumerate(node.output):
            numbers.setdefault(name, f"{number}.{index}")
    return numbers


def _above(graph: Graph, name: str) -> Iterator[str]:
    """A tensor and all that it is computed from."""
    seen, waiting = set[str](), [name]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        yield one
        if one in graph.producer:
            waiting += graph.producer[one].input


def _tail(full: Graph) -> tuple[list[Any], dict[str, str]]:
    """The nodes between tensors of the logits and the maps, in order; and those tensors, by every name they have.

    Returns:
        The nodes, and tensor that a node of the tail reads -> the tensor of the logits that has the same value.
    """
    numbers = _numbers(full)
    trunk = {numbers[name]: name for name in _above(full, _LOGITS) if name in full.producer}
    nodes, read_by_tail, waiting, seen = set[str](), dict[str, str](), [_OUTPUT], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in full.producer or name in full.weights:
            if name == full.model.graph.input[0].name:  # a map of the image itself says nothing of what is deployed
                raise BackendError("an attention map is made from the image alone", hint="please report this bug")
            continue
        seen.add(name)
        if numbers[name] in trunk:
            read_by_tail[name] = trunk[numbers[name]]
            continue
        nodes.add(full.producer[name].output[0])
        waiting += full.producer[name].input
    return [node for node in full.nodes if node.output[0] in nodes], read_by_tail


def _found(full: Graph, name: str, graph: Graph, path: Path) -> tuple[str, int]:
    """The tensor of a deployed graph that is `name` of the network's, as what follows reads it, and its type."""
    wanted = full.producer[name]
    index = list(wanted.output).index(name)
    same = [
        node
        for node in graph.nodes
        if (node.name, node.op_type, module_of(node)) == (wanted.name, wanted.op_type, module_of(wanted))
        and _kept_above(graph, node.output[index]) == _kept_above(full, name)
        and graph.shapes.get(node.output[index]) == full.shapes.get(name)
    ]
    if len(same) != 1:
        raise InputError(
            f"{path.name} has {len(same) or 'no'} tensor(s) that are the {wanted.op_type} of "
            f"{module_of(wanted) or 'the network'}, from which an attention map is made",
            expected="a graph of our exporter, made from this checkpoint with these versions",
            hint="export it with its maps: medattn-edge export CHECKPOINT -o NAME.onnx --attention",
        )
    tensor = _as_read(graph, same[0].output[index])
    return tensor, graph.kinds[tensor]


def _kept_above(graph: Graph, name: str) -> Counter[tuple[str, str]]:
    above = {graph.producer[one].output[0]: graph.producer[one] for one in _above(graph, name) if one in graph.producer}
    return Counter((node.op_type, module_of(node)) for node in above.values() if node.op_type in _KEPT)


def _as_read(graph: Graph, name: str) -> str:
    """The tensor after its rounding to 8 bits, where what follows reads it so."""
    for rounding in graph.users[name]:
        if rounding.op_type == "QuantizeLinear":
            for back in graph.users[rounding.output[0]]:
                if back.op_type == "DequantizeLinear":
                    return str(back.output[0])
    return name


def _add(model: Any, full: Graph, tail: list[Any], found: Mapping[str, tuple[str, int]]) -> dict[str, int]:
    """Add the tail to a graph, in place; operator type -> how many."""
    import onnx

    graph = model.graph
    _free_name(graph)
    names: dict[str, str] = {}
    for name, (tensor, kind) in found.items():
        names[name] = tensor
        if kind != _FLOAT:
            names[name] = f"{_PREFIX}{name}"
            graph.node.append(onnx.helper.make_node("Cast", [tensor], [names[name]], f"{_PREFIX}{name}", to=_FLOAT))
    before = len(graph.node) - sum(kind != _FLOAT for _, kind in found.values())
    own = {name for node in tail for name in node.output}
    for node in tail:
        copied = graph.node.add()
        copied.CopyFrom(node)
        copied.name = _PREFIX + node.name
        copied.input[:] = [names.get(name) or (_PREFIX + name if name else "") for name in node.input]
        copied.output[:] = [name if name == _OUTPUT else _PREFIX + name for name in node.output]
    needed = {name for node in tail for name in node.input if name in full.weights} - own
    for name in sorted(needed - set(names)):
        weight = graph.initializer.add()
        weight.CopyFrom(full.weights[name])
        weight.name = _PREFIX + name
    sizes = [size or None for size in full.shapes[_OUTPUT]]
    graph.output.append(onnx.helper.make_tensor_value_info(_OUTPUT, _FLOAT, sizes))
    return dict(sorted(Counter(node.op_type for node in graph.node[before:]).items()))


def _free_name(graph: Any) -> None:
    """The name of the maps' output, where the graph already has one that lacks some of them."""
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [_PREFIX + "own" if name == _OUTPUT else name for name in names]
    for value in [value for value in (*graph.output, *graph.value_info) if value.name == _OUTPUT]:
        (graph.output if value in graph.output else graph.value_info).remove(value)


def _save(model: Any, path: Path) -> None:
    import onnx

    onnx.checker.check_model(model)
    onnx.save(model, str(path))
