"""What a file from elsewhere holds, before anybody says what it is for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medattn_edge.artifact import sha256
from medattn_edge.errors import MedattnError
from medattn_edge.exporters import ExportSettings
from medattn_edge.foreign.attentions import attentions
from medattn_edge.foreign.cost import gflop, operators, parameters
from medattn_edge.foreign.network import ForeignNetwork
from medattn_edge.foreign.onnx_checks import nodes_of, shape_of
from medattn_edge.foreign.onnx_file import read_onnx
from medattn_edge.foreign.read import read_foreign
from medattn_edge.foreign.reference import own_batch
from medattn_edge.foreign.source import EXPORTED, ONNX, TITLES, kind_of
from medattn_edge.spec import assumed_values

_ENDS = 6  # nodes that are shown of the end of a graph, where the logits are


def describe(path: Path | str, *, patch: Sequence[int] | None = None, output: str = "") -> dict[str, Any]:
    """JSON-ready facts of an ONNX, TorchScript or torch.export file.

    Args:
        path: of the file.
        patch: (H, W) or (D, H, W), where the file does not say it.
        output: which output is the logits, where there are several.

    Returns:
        `kind`, `sha256`, `inputs` and `outputs` (name -> sizes, -1 where one is free; empty where the file does not
        say), `operators`, `parameters`; of ONNX also `opset`, `producer` and the last tensors as `ends`. Where it can
        be exported as it is: `gflop`, `attentions`, `activation`, `operators_exported`, the `spec` that it would have,
        what of that nobody said as `spec_assumptions`, and `notes`. Where it cannot, `refused` says why and `hint` what
        would help.

    Raises:
        InputError: for a file that cannot be read.
    """
    path = Path(path)
    kind = kind_of(path) or ONNX
    facts: dict[str, Any] = {"kind": TITLES[kind], "sha256": sha256(path) if path.is_file() else ""}
    facts |= _of_onnx(path) if kind == ONNX else _of_torch(path, kind)
    return facts | _as_exported(path, patch, output)


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
    return facts


def _of_torch(path: Path, kind: str) -> dict[str, Any]:
    from medattn_edge.foreign.torch_program import load_exported, load_torchscript, operators_of

    if kind == EXPORTED:
        program, sizes = load_exported(path)
        inputs = {"image": [size or -1 for size in sizes]}
    else:
        program, inputs = load_torchscript(path), {}
    count = sum(value.numel() for value in program.parameters())
    return {"inputs": inputs, "outputs": {}, "operators": operators_of(program), "parameters": count}


def _as_exported(path: Path, patch: Sequence[int] | None, output: str) -> dict[str, Any]:
    """What export would make of it as it is."""
    try:
        found = read_foreign(path, patch=patch, output=output, settings=ExportSettings(batch=own_batch(path)))
    except MedattnError as error:
        return {"refused": error.message, "hint": error.hint}
    assert isinstance(found, ForeignNetwork)  # a file is never a module of the user's own
    graph = found.graph
    return {
        "gflop": gflop(graph.model),
        "attentions": [one._asdict() for one in attentions(graph.model)],
        "activation": graph.activation,
        "operators_exported": operators(graph.model),
        "spec": found.spec.to_json(),
        "spec_assumptions": assumed_values(found.spec, found.assumed),
        "notes": list(found.notes),
    }


def _sizes(value: Any) -> list[int]:
    return [size or -1 for size in shape_of(value)]
