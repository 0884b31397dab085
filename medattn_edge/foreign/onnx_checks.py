"""What an ONNX graph must be before anything is done with it: one FP32 network of standard operators, one image in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from medattn_edge.errors import InputError
from medattn_edge.foreign.onnx_file import tensors

_STANDARD = ("", "ai.onnx")
_MIN_OPSET = 11  # Resize has had its modes since
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")


def check_graph(model: Any, name: str) -> None:
    """Raise InputError for what is no FP32 network of ONNX's own operators with its weights inside."""
    from onnx import TensorProto

    nodes = list(nodes_of(model.graph))
    if custom := Counter(f"{node.domain}.{node.op_type}" for node in nodes if node.domain not in _STANDARD):
        raise InputError(
            f"{name} has custom operators: {_listed(custom)}",
            expected="ONNX's own operators",
            hint="export it again without the runtime's optimisations, or from its framework",
        )
    opset = max((entry.version for entry in model.opset_import if entry.domain in _STANDARD), default=0)
    if opset < _MIN_OPSET:
        raise InputError(
            f"{name} is written in opset {opset}",
            expected=f"opset {_MIN_OPSET} or newer",
            hint="onnx.version_converter.convert_version(model, 18)",
        )
    kinds = Counter(node.op_type for node in nodes)
    if quantised := Counter({kind: kinds[kind] for kind in _QUANTISED if kinds[kind]}):
        raise InputError(
            f"{name} is quantised already: {_listed(quantised)}",
            expected="an FP32 network",
            hint="export the FP32 network, then medattn-edge calibrate",
        )
    if noise := Counter({kind: kinds[kind] for kind in _RANDOM if kinds[kind]}):
        raise InputError(
            f"{name} draws random numbers: {_listed(noise)}",
            expected="the same answer for the same image",
            hint="export it in evaluation mode: model.eval()",
        )
    if training := [node.op_type for node in nodes if _trains(model, node)]:
        raise InputError(
            f"{name} was exported in training mode: {training[0]} looks at the batch",
            expected="a network in evaluation mode",
            hint="model.eval() before torch.onnx.export",
        )
    halves = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    weights = [tensor for tensor in tensors(model) if tensor.data_type in (TensorProto.FLOAT, *halves)]
    if narrow := [tensor for tensor in weights if tensor.data_type in halves and _count(tensor) > 1]:
        kind = TensorProto.DataType.Name(narrow[0].data_type).lower()
        raise InputError(
            f"{name} has weights in {kind}: {narrow[0].name or 'a constant'}",
            expected="float32",
            hint="export it from the FP32 network; medattn-edge makes FP16 of that: --precision fp16",
        )
    if not any(_count(tensor) > 1 for tensor in weights):
        raise InputError(
            f"{name} has no weights",
            expected="a trained network, its weights inside or beside it",
            hint="torch.onnx.export(..., export_params=True)",
        )


def image_of(model: Any, name: str) -> Any:
    """The one input (ValueInfoProto) that is no weight; raises InputError for several, none, or one not in float32."""
    from onnx import TensorProto

    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        listed = ", ".join(f"{value.name} {tuple(shape_of(value))}" for value in inputs) or "none"
        raise InputError(
            f"{name} has {len(inputs)} inputs: {listed}",
            expected="one image (N, C, *patch)",
            hint="export the part of the network that takes an image and gives logits",
        )
    kind = inputs[0].type.tensor_type.elem_type
    if kind != TensorProto.FLOAT:
        raise InputError(
            f"the input {inputs[0].name} of {name} is {TensorProto.DataType.Name(kind).lower()}",
            expected="float32",
            hint="export it from the FP32 network; medattn-edge makes FP16 of that: --precision fp16",
        )
    return inputs[0]


def shape_of(value: Any) -> list[int]:
    """The sizes of a ValueInfoProto, 0 where one is free."""
    return [max(int(dim.dim_value), 0) for dim in value.type.tensor_type.shape.dim]


def nodes_of(graph: Any) -> Iterator[Any]:
    """Every node, those of subgraphs included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from nodes_of(inner)


def _trains(model: Any, node: Any) -> bool:
    from onnx import numpy_helper

    if node.op_type == "BatchNormalization":
        return any(entry.name == "training_mode" and entry.i for entry in node.attribute)
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return False
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    known |= {n.output[0]: a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute}
    mode = known.get(node.input[2])
    return mode is None or bool(numpy_helper.to_array(mode))


def _count(tensor: Any) -> int:
    size = 1
    for dim in tensor.dims:
        size *= dim
    return size


def _listed(counted: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counted.items()))
