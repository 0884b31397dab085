"""FakeQuantize by NNCF on the OpenVINO model: an IR for OpenVINO only, the fastest and closest one in 3-D."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Artifact
from medattn_edge.backends.openvino.attention import fuse_attention
from medattn_edge.backends.openvino.library import imported
from medattn_edge.backends.openvino.names import name_by_place
from medattn_edge.precision.layers import attention_products, with_idle_nodes
from medattn_edge.precision.quantizers.nncf_quantise import METHODS, quantised
from medattn_edge.precision.quantizers.quantizer import Calibration, QuantizationRecipe, Quantizer


def quantise(
    parent: Artifact, model: Any, calibration: Calibration, recipe: QuantizationRecipe, files: Mapping[str, Path]
) -> None:
    """Write the IR of the parent's graph, quantised, to files[".xml"] and files[".bin"], which share one stem."""
    ov = imported()
    read = ov.Core().read_model(str(parent.path))
    name_by_place(read)  # NNCF names what it adds after the node that it is for
    fused = fuse_attention(read)
    floating = names_in(read, model, (*attention_products(model), *with_idle_nodes(model, recipe.floating)))
    quantized = quantised(read, calibration, recipe, [*fused, *floating])
    name_by_place(quantized)
    ov.save_model(quantized, str(files[".xml"]), compress_to_fp16=False)


def names_in(read: Any, model: Any, nodes: tuple[str, ...]) -> list[str]:
    """The names that nodes of a ModelProto have in the OpenVINO model that was read of it.

    A convolution with a bias becomes two operations there; the node that an output comes from has the output's name.
    """
    outputs = {output.name for output in model.graph.output}
    wanted = {name for node in nodes for name in (node, f"{node}/WithoutBiases")}
    wanted |= {name for node in model.graph.node if node.name in nodes for name in node.output if name in outputs}
    return [name for name in (op.get_friendly_name() for op in read.get_ordered_ops()) if name in wanted]


QUANTIZER = Quantizer(
    name="nncf-openvino",
    suffixes=(".xml",),
    companions=(".bin",),
    profiles=("cpu",),
    isas=("x86-vnni", "x86", "arm"),
    methods=METHODS,
    extra="calibrate",
    packages=("onnx", "nncf", "openvino"),
    quantise=quantise,
)
