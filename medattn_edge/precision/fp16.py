"""FP32 ONNX -> typed FP16 ONNX with FP32 islands where half precision would lose the answer or overflow.

The islands are chosen by rule (what sums over thousands of values, exponentials and what feeds them, the logits) and by
measured range (whatever comes near the largest half, 65504, on real input). The conversion is ONNX Runtime's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.agreement import Thresholds
from medattn_edge.artifact import Artifact
from medattn_edge.backends.check import check
from medattn_edge.backends.onnxruntime import OnnxRuntimeSession
from medattn_edge.backends.session import Options, Patches
from medattn_edge.errors import InputError
from medattn_edge.precision.derived import fp32_graph, write_derived
from medattn_edge.precision.fp16_graph import Island, rounded, to_fp16
from medattn_edge.precision.observe import batched, floating_tensors, ranges
from medattn_edge.precision.onnx_graph import Graph, module_of, read

LARGEST_HALF = 65504.0
FP16_GATE = Thresholds(min_dice=0.9995, min_sqnr_db=40.0)  # on real patches
FP16_SMOKE = Thresholds(min_sqnr_db=40.0)  # on noise, where labels mean nothing
MARGIN = 8.0  # a tensor whose largest magnitude on the samples exceeds LARGEST_HALF / MARGIN stays FP32
# Exponentials, sums over many values, and InstanceNorm's statistics; Resize has no FP16 form in every runtime.
ALWAYS_FP32 = frozenset(
    {"Softmax", "Sigmoid", "Exp", "InstanceNormalization", "LayerNormalization", "GroupNormalization", "Resize"}
    | {
        "ReduceMean",
        "ReduceSum",
        "ReduceSumSquare",
        "ReduceMax",
        "ReduceMin",
        "GlobalAveragePool",
        "Sqrt",
        "Reciprocal",
    }
)
_HEADS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})  # where walking back from the logits ends
_VIEWS = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})


def islands(model: Any, ranges: Mapping[str, tuple[float, float]], margin: float = MARGIN) -> tuple[Island, ...]:
    """The nodes that must stay FP32, in the graph's order.

    ranges: tensor -> smallest and largest value on real patches; a tensor that is not in it is not judged by range.
    """
    graph = Graph(model)
    reasons: dict[str, str] = {}

    def keep(node: Any, reason: str) -> None:
        reasons.setdefault(node.name, reason)

    for node in graph.nodes:
        if node.op_type in ALWAYS_FP32:
            keep(node, f"{node.op_type} is computed in FP32")
        if node.op_type == "Softmax":
            _keep_energy(graph, node, keep)
        if node.op_type == "Sigmoid":
            for feeder in graph.inputs(node):
                keep(feeder, "feeds a gate's sigmoid")
        reach = [
            (max(abs(low), abs(high)), name)
            for name in (*node.input, *node.output)
            for low, high in _range(ranges, name)
        ]
        reach += [(_largest(graph.weights[name]), name) for name in node.input if name in graph.weights]
        most, name = max(reach, default=(0.0, ""))
        if not most <= LARGEST_HALF / margin:
            keep(node, f"{name} reaches {most:.3g}, a half ends at {LARGEST_HALF:g}")
    for output in graph.outputs:
        _keep_head(graph, graph.producer[output], keep, f"computes {output}")
    return tuple(
        Island(node.name, module_of(node), node.op_type, reasons[node.name])
        for node in graph.nodes
        if node.name in reasons
    )


def _range(ranges: Mapping[str, tuple[float, float]], name: str) -> list[tuple[float, float]]:
    return [ranges[name]] if name in ranges else []


def _largest(tensor: Any) -> float:
    from onnx import TensorProto, numpy_helper

    if tensor.data_type != TensorProto.FLOAT:
        return 0.0
    return float(np.abs(numpy_helper.to_array(tensor)).max(initial=0.0))


def _keep_energy(graph: Graph, softmax: Any, keep: Any) -> None:
    """Everything between a softmax and the product that makes its energies; the product itself when it is X X^T.

    X X^T sums as many squares as the image has voxels: it overflows from a root mean square of 4 on. The product of
    queries and keys sums over a few channels, and is judged by its range.
    """
    waiting = graph.inputs(softmax)
    while waiting:
        node = waiting.pop()
        if node.op_type == "MatMul":
            if len({_source(graph, name) for name in node.input}) == 1:
                keep(node, "the energy of channel attention, X X^T, sums the squares of a whole image")
            continue
        if node.op_type in _HEADS:
            continue
        keep(node, "between an attention's energy and its softmax")
        waiting += graph.inputs(node)


def _source(graph: Graph, name: str) -> str:
    """The tensor that a view shows."""
    while name in graph.producer and graph.producer[name].op_type in _VIEWS:
        name = graph.producer[name].input[0]
    return name


def _keep_head(graph: Graph, node: Any, keep: Any, reason: str) -> None:
    waiting, seen = [node], set()
    while waiting:
        node = waiting.pop()
        if node.name in seen:
            continue
        seen.add(node.name)
        keep(node, reason)
        if node.op_type not in _HEADS and node.op_type not in ALWAYS_FP32 - {"Resize"}:
            waiting += graph.inputs(node)


def convert(
    parent: Artifact, path: Path, real: Mapping[str, Patches], random: Patches, margin: float = MARGIN
) -> Artifact:
    """Write the FP16 artifact of an FP32 ONNX artifact.

    real: name -> patches of real scans, on which the ranges are measured and the result must keep its labels; random:
    a smoke test. The recipe names every island with its module and reason, and says how far emulated FP16 is from FP32.
    Raises AgreementError, and writes nothing, when real input does not reach FP16_GATE; UsageError for a parent that is
    not FP32 ONNX, InputError for a tensor that is not finite in FP32 already.
    """
    fp32_graph(parent, "fp16")
    model = read(parent.path)
    seen = [patch[None] for patches in real.values() for patch in patches]
    found = ranges(model, floating_tensors(model), batched(seen, parent.manifest.batch))
    endless = [name for name, (low, high) in found.items() if not np.isfinite(low + high)]
    if endless:
        raise InputError(
            f"the tensor {endless[0]} is not finite on {', '.join(real)}",
            expected="finite numbers in FP32",
            hint="check the checkpoint: medattn-edge compare CHECKPOINT " + parent.path.name,
        )
    kept = islands(model, found, margin)
    largest = max(found, key=lambda name: max(map(abs, found[name])))
    recipe = {
        "islands": [asdict(island) for island in kept],
        "margin": margin,
        "largest": {"tensor": largest, "magnitude": max(map(abs, found[largest]))},
        "measured_on": {name: len(patches) for name, patches in real.items()},
        "emulated": _emulated(parent, model, kept, real),
    }
    return write_derived(
        parent,
        path,
        to_fp16(model, kept),
        precision="fp16",
        recipe=recipe,
        samples={**real, "random": random},
        gates={**dict.fromkeys(real, FP16_GATE), "random": FP16_SMOKE},
    )


def _emulated(
    parent: Artifact, model: Any, kept: tuple[Island, ...], real: Mapping[str, Patches]
) -> list[dict[str, Any]]:
    """The figures of emulated FP16 against FP32; raises AgreementError when they do not reach FP16_GATE."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "emulated.onnx"
        onnx.save(rounded(model, kept), str(path))
        with (
            OnnxRuntimeSession(parent, Options()) as reference,
            OnnxRuntimeSession(Artifact(path, parent.manifest), Options(optimise=False)) as candidate,
        ):
            return check(reference, candidate, real, FP16_GATE)
