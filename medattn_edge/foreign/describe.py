"""What a file from elsewhere holds, before anybody says what it is for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from medattn_edge.artifact import sha256
from medattn_edge.errors import MedattnError
from medattn_edge.foreign.adopt import adopt
from medattn_edge.foreign.attentions import attentions
from medattn_edge.foreign.cost import gflop, operators, parameters
from medattn_edge.foreign.onnx_checks import nodes_of, shape_of
from medattn_edge.foreign.onnx_file import read_onnx
from medattn_edge.foreign.source import EXPORTED, ONNX, TITLES, kind_of

_ENDS = 6  # nodes that are shown of the end of a graph, where the logits are


def describe(path: Path | str) -> dict[str, Any]:
    """JSON-ready facts of an ONNX, TorchScript or torch.export file.

    Returns:
        `kind`, `sha256`, `inputs` and `outputs` (name -> sizes, -1 where one is free; empty where the file does not
        say), `operators`, `parameters`; of ONNX also `opset`, `producer`, the last tensors as `ends`, and, where the
        file says its sizes and can be exported as it is, `gflop`, `attentions` and `activation`. `refused` says why it
        cannot.

    Raises:
        InputError: for a file that cannot be read.
    """
    path = Path(path)
    kind = kind_of(path) or ONNX
    facts: dict[str, Any] = {"kind": TITLES[kind], "sha256": sha256(path) if path.is_file() else ""}
    return facts | (_of_onnx(path) if kind == ONNX else _of_torch(path, kind))


def _of_onnx(path: Path) -> dict[str, Any]:
    model = read_onnx(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    facts: dict[str, Any] = {
        "inputs": {value.name: _sizes(value) for value in model.graph.input if value.name not in weights},
        "outputs": {value.name: _sizes(value) for value in model.graph.output},
        "opset": max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "operators": dict(sorted(Counter(node.op_type for node in nodes_of(model.graph)).items())),
        "parameters": parameters(model),
        "ends": [f"{node.output[0]} ({node.op_type})" for node in list(model.graph.node)[-_ENDS:]],
    }
    try:
        graph = adopt(model, path.name, batch=_batch(model, weights))
    except MedattnError as error:
        return {**facts, "refused": error.message}
    found = [one._asdict() for one in attentions(graph.model)]
    facts |= {"gflop": gflop(graph.model), "attentions": found, "activation": graph.activation}
    return {**facts, "operators_exported": operators(graph.model)}


def _of_torch(path: Path, kind: str) -> dict[str, Any]:
    from medattn_edge.foreign.torch_program import load_exported, load_torchscript, operators_of

    if kind == EXPORTED:
        program, sizes = load_exported(path)
        inputs = {"image": [size or -1 for size in sizes]}
    else:
        program, inputs = load_torchscript(path), {}
    count = sum(value.numel() for value in program.parameters())
    return {"inputs": inputs, "outputs": {}, "operators": operators_of(program), "parameters": count}


def _batch(model: Any, weights: set[str]) -> int | None:
    """The batch that the file is made for; 1 where it is free."""
    images = [value for value in model.graph.input if value.name not in weights]
    return (shape_of(images[0]) or [1])[0] or 1 if images else 1


def _sizes(value: Any) -> list[int]:
    return [size or -1 for size in shape_of(value)]
