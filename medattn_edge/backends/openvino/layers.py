"""Which layers OpenVINO really computes, and in which precision: its plugin chooses, whatever the graph says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

_NOT_COMPUTED = ("Const", "Input", "Output")
_WEIGHTED = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_LISTED = 40  # layers that `deviations` names


@dataclass(frozen=True)
class ComputedLayer:
    """A layer as the plugin compiled it.

    Attributes:
        name: as the runtime calls it.
        kind: such as Convolution.
        precision: such as f32, bf16 or u8.
    """

    name: str
    kind: str
    precision: str


def computed_layers(compiled: Any) -> list[ComputedLayer]:
    """The layers of a compiled model that compute or move values, in the order of their execution."""
    layers = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        kind, precision = str(facts["layerType"].value), str(facts["runtimePrecision"].value)
        if kind not in _NOT_COMPUTED:
            layers.append(ComputedLayer(node.get_friendly_name(), kind, precision))
    return layers


def counts(layers: list[ComputedLayer]) -> dict[str, int]:
    """Precision -> how many layers are computed in it, the most frequent first."""
    return dict(Counter(layer.precision for layer in layers).most_common())


def deviations(layers: list[ComputedLayer], precision: str) -> list[dict[str, str]]:
    """Layers that are not computed in the precision of their graph, the first 40: name, kind, precision.

    Args:
        layers: of a compiled model.
        precision: the manifest's. In an fp32 graph everything that is not FP32 deviates; in an int8 or fp16 graph what
            has weights or is a matrix product, and is computed in something else, because the rest has no precision of
            its own there.
    """
    own = {"fp32": {"f32", "i32", "i64", "boolean"}, "bf16": {"bf16"}, "fp16": {"f16"}, "int8": {"u8", "i8"}}
    wanted = own.get(precision, own["fp32"])
    judged = layers if precision not in ("int8", "fp16", "bf16") else [one for one in layers if one.kind in _WEIGHTED]
    others = [layer for layer in judged if layer.precision not in wanted]
    return [{"name": one.name, "kind": one.kind, "precision": one.precision} for one in others[:_LISTED]]
