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
from medattn_edge.backends.session import Options, Patches
from medattn_edge.errors import InputError, UsageError
from medattn_edge.file_gate import FileGate
from medattn_edge.gates import FP16, FP16_NOISE
from medattn_edge.precision.derived import against_parent, fp32_graph, write_derived
from medattn_edge.precision.fp16_graph import Island, rounded, to_fp16
from medattn_edge.precision.lint.graph import LAYOUT
from medattn_edge.precision.lint.operators import LARGEST_HALF
from medattn_edge.precision.observe import batched, floating_tensors, ranges
from medattn_edge.precision.onnx_graph import Graph, module_of, read
from medattn_edge.precision.statistics import Ranges

FP16_GATE, FP16_SMOKE = FP16.thresholds, FP16_NOISE.thresholds  # on real patches, and on noise
MARGIN = 8.0  # a tensor whose largest magnitude on the samples exceeds LARGEST_HALF / MARGIN stays FP32
# Operator -> rule. Sums over many values, their squares' roots, and exponentials, whatever their range.
ALWAYS_FP32 = {
    **dict.fromkeys(("Softmax", "LogSoftmax", "Attention"), "softmax"),
    "Sigmoid": "gate",
    **dict.fromkeys(("InstanceNormalization", "LayerNormalization", "GroupNormalization"), "norm"),
    **dict.fromkeys(("MeanVarianceNormalization", "RMSNormalization"), "norm"),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2", "ReduceLogSumExp"), "sum"),
    **dict.fromkeys(("GlobalAveragePool", "Exp", "Sqrt", "Reciprocal"), "sum"),
}
_HEADS = ("Conv", "ConvTranspose", "MatMul", "Gemm")  # where walking back from the logits ends
_NAMED = 1000  # magnitudes that the recipe names, the largest first: more than our networks have, but a bound


class _Choice:
    """The islands of a graph while they are chosen: the first reason to keep a node is the one that counts."""

    def __init__(self, model: Any) -> None:
        self.graph = Graph(model)
        self._why: dict[str, tuple[str, str]] = {}

    def keep(self, node: Any, rule: str, reason: str) -> None:
        self._why.setdefault(node.name, (rule, reason))

    def islands(self) -> tuple[Island, ...]:
        kept = [node for node in self.graph.nodes if node.name in self._why]
        return tuple(Island(node.name, module_of(node), node.op_type, *self._why[node.name]) for node in kept)


def islands(model: Any, ranges: Ranges, margin: float = MARGIN) -> tuple[Island, ...]:
    """The nodes that must stay FP32, in the graph's order.

    Args:
        model: a ModelProto.
        ranges: tensor -> smallest and largest value on real patches; a tensor that is not in it is not judged by range.
        margin: how far below the largest half a tensor must stay.
    """
    choice = _Choice(model)
    graph = choice.graph
    sizes = {name: max(map(abs, pair)) for name, pair in ranges.items()}
    sizes |= {name: _largest(tensor) for name, tensor in graph.weights.items()}
    for node in graph.nodes:
        if node.op_type in ALWAYS_FP32:
            choice.keep(node, ALWAYS_FP32[node.op_type], f"{node.op_type} is computed in FP32")
        if node.op_type == "Softmax":
            _keep_energy(choice, node)
        if node.op_type == "Sigmoid":
            for feeder in graph.inputs(node):
                choice.keep(feeder, "gate", "feeds a gate's sigmoid")
    for name in graph.outputs:
        _keep_head(choice, name)
    for node in graph.nodes:
        most, name = max(((sizes.get(name, 0.0), name) for name in (*node.input, *node.output)), default=(0.0, ""))
        if most > LARGEST_HALF / margin:
            choice.keep(node, "range", f"{name} reaches {most:.3g}, and a half ends at {LARGEST_HALF:g}")
    return choice.islands()


def _largest(tensor: Any) -> float:
    from onnx import TensorProto, numpy_helper

    if tensor.data_type != TensorProto.FLOAT:
        return 0.0
    return float(np.abs(numpy_helper.to_array(tensor)).max(initial=0.0))


def _keep_energy(choice: _Choice, softmax: Any) -> None:
    """Everything between a softmax and the product that makes its energies; the product itself when it is X X^T.

    X X^T sums as many squares as the image has voxels: it overflows from a root mean square of 4 on. The product of
    queries and keys sums over a few channels, and is judged by its range.
    """
    graph = choice.graph
    for node in graph.inputs(softmax):
        if node.op_type == "MatMul":
            if len({_source(graph, name) for name in node.input}) == 1:
                choice.keep(node, "energy", "X X^T of channel attention sums the squares of a whole image")
        elif node.op_type not in _HEADS:
            choice.keep(node, "energy", "between an attention's energy and its softmax")
            _keep_energy(choice, node)


def _source(graph: Graph, name: str) -> str:
    """The tensor that a view shows."""
    while name in graph.producer and graph.producer[name].op_type in LAYOUT:
        name = graph.producer[name].input[0]
    return name


def _keep_head(choice: _Choice, output: str) -> None:
    """What computes an output, back to the convolutions, or to what is an island for its own sake."""
    waiting = [choice.graph.producer[output]]
    while waiting:
        node = waiting.pop()
        choice.keep(node, "output", f"computes {output}")
        if node.op_type not in _HEADS and node.op_type not in ALWAYS_FP32:
            waiting += choice.graph.inputs(node)


def convert(
    parent: Artifact,
    path: Path,
    real: Mapping[str, Patches],
    random: Patches,
    margin: float = MARGIN,
    gate: Thresholds = FP16_GATE,
) -> Artifact:
    """Write the FP16 artifact of an FP32 ONNX artifact.

    Args:
        parent: the FP32 artifact.
        path: to write, NAME.onnx.
        real: name -> patches of real scans, on which the ranges are measured and the result must keep its labels.
        random: patches of noise, on which the logits are judged.
        margin: how far below the largest half a tensor must stay to become one.
        gate: on real patches; see `gates.FP16`.

    Returns:
        The artifact. Its recipe names every island with its module and reason, the largest magnitude of every tensor,
        how far emulated FP16 is from FP32, and how far the FP32 parent was from its own; its gate, the Dice with the
        reference that was asked.

    Raises:
        AgreementError: real input does not reach the gate; nothing was written.
        UsageError: a parent that is not FP32 ONNX, or no real patches.
        InputError: a tensor that is not finite in FP32 already.
    """
    fp32_graph(parent, "fp16")
    if not any(len(patches) for patches in real.values()):
        raise UsageError(
            "no real patch: half precision is chosen by the ranges of real input",
            expected="patches of at least one scan",
            hint="--scan SCAN",
        )
    model = read(parent.path)
    seen = [patch[None] for patches in real.values() for patch in patches]
    measured = ranges(model, floating_tensors(model), batched(seen, parent.manifest.batch))
    magnitudes = dict(sorted(((name, max(map(abs, pair))) for name, pair in measured.items()), key=lambda one: -one[1]))
    _check_finite(model, magnitudes, real)
    kept = islands(model, measured, margin)
    typed = to_fp16(model, kept)
    recipe = {
        "islands": [asdict(island) for island in kept],
        "margin": margin,
        "measured_on": {name: len(patches) for name, patches in real.items()},
        "magnitudes": {name: float(f"{most:.4g}") for name, most in list(magnitudes.items())[:_NAMED]},
        "emulated": _emulated(parent, typed, real, gate),
        "parent_agreement": list(parent.manifest.agreement),
    }
    return write_derived(
        parent,
        path,
        typed,
        precision="fp16",
        recipe=recipe,
        samples={**real, "random": random},
        gates={**dict.fromkeys(real, gate), "random": FP16_SMOKE},
        carried=None if gate.min_dice is None else FileGate(gate.min_dice),
    )


def _check_finite(model: Any, magnitudes: Mapping[str, float], real: Mapping[str, Patches]) -> None:
    endless = [name for name, most in magnitudes.items() if not np.isfinite(most)]
    if not endless:
        return
    node = Graph(model).producer.get(endless[0])
    where = f" in {module_of(node)}" if node is not None and module_of(node) else ""
    raise InputError(
        f"the tensor {endless[0]}{where} is not finite on {', '.join(real)}, in FP32 already",
        expected="finite numbers, to choose what half precision can hold",
        hint="look for weights or voxels that are not finite; medattn-edge export CHECKPOINT -o NAME.onnx stays FP32",
    )


def _emulated(parent: Artifact, typed: Any, real: Mapping[str, Patches], gate: Thresholds) -> list[dict[str, Any]]:
    """The figures of emulated FP16 against FP32; raises AgreementError when they do not reach the gate."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "emulated.onnx"
        onnx.save(rounded(typed), str(path))
        emulated = Artifact(path, parent.manifest)
        return against_parent(parent, emulated, "emulated fp16", real, gate, Options(optimise=False))
