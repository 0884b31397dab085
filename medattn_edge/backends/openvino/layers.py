"""Which layers OpenVINO really executes, and in which precision: its plugin chooses, whatever the graph says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

_NOT_COMPUTED = ("Const", "Input", "Output")
_WEIGHTED = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_TOLD = 40  # layers that `deviations` names


@dataclass(frozen=True)
class Layer:
    """name: as the runtime calls it. kind: such as Convolution. precision: such as f32, bf16 or u8."""

    name: str
    kind: str
    precision: str


def computed_layers(compiled: Any) -> list[Layer]:
    """The layers of a compiled model that compute or move values, in the order of their execution."""
    found = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        kind, precision = str(facts["layerType"].value), str(facts["runtimePrecision"].value)
        if kind not in _NOT_COMPUTED:
            found.append(Layer(node.get_friendly_name(), kind, precision))
    return found


def counts(layers: list[Layer]) -> dict[str, int]:
    """Precision -> how many layers are computed in it, the most frequent first."""
    return dict(Counter(layer.precision for layer in layers).most_common())


def deviations(layers: list[Layer], precision: str) -> list[dict[str, str]]:
    """Layers that are not computed in the precision of their graph, the first 40: name, kind, precision.

    precision: the manifest's. In an fp32 graph everything that is not FP32; in an int8 or fp16 graph what has weights
    or is a matrix product, and is computed in something else, because the rest has no precision of its own there.
    """
    own = {"fp32": {"f32", "i32", "i64", "boolean"}, "bf16": {"bf16"}, "fp16": {"f16"}, "int8": {"u8", "i8"}}
    wanted = own.get(precision, own["fp32"])
    asked = layers if precision not in ("int8", "fp16", "bf16") else [one for one in layers if one.kind in _WEIGHTED]
    found = [layer for layer in asked if layer.precision not in wanted]
    return [{"name": one.name, "kind": one.kind, "precision": one.precision} for one in found[:_TOLD]]
