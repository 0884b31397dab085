"""Q/DQ by NNCF on the ONNX graph: one file that ONNX Runtime and OpenVINO both compute."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Artifact
from medattn_edge.precision.attention_paths import finish
from medattn_edge.precision.layers import attention_products, with_idle_nodes
from medattn_edge.precision.quantizers.nncf_quantise import METHODS, quantised
from medattn_edge.precision.quantizers.quantizer import Calibration, QuantizationRecipe, Quantizer


def quantise(
    parent: Artifact, model: Any, calibration: Calibration, recipe: QuantizationRecipe, files: Mapping[str, Path]
) -> None:
    """Write the Q/DQ graph of an FP32 ModelProto to files[".onnx"]."""
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    quantized = quantised(
        copied, calibration, recipe, [*attention_products(model), *with_idle_nodes(model, recipe.floating)]
    )
    finish(quantized)
    del quantized.metadata_props[:]
    onnx.save(quantized, str(files[".onnx"]))


QUANTIZER = Quantizer(
    name="nncf-onnx",
    suffixes=(".onnx",),
    profiles=("cpu",),
    isas=("x86-vnni", "x86"),  # its activations are unsigned, ARM wants signed ones
    methods=METHODS,
    extra="calibrate",
    packages=("onnx", "nncf", "openvino"),
    quantise=quantise,
)
