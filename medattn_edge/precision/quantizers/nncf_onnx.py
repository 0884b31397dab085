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
    unsign_activations(quantized)
    finish(quantized)
    del quantized.metadata_props[:]
    onnx.save(quantized, str(files[".onnx"]))


def unsign_activations(model: Any) -> None:
    """Write activations that NNCF made signed, as below 0 it does, as unsigned: q + 128 with the zero-point z + 128.

    The same numbers come out, and x86 has products of unsigned activations with signed weights only. Changes a
    ModelProto in place.
    """
    import numpy as np
    from onnx import TensorProto, numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    shifted = set[str]()
    for node in model.graph.node:
        pair = node.op_type == "QuantizeLinear" and node.input[0] not in weights
        pair = pair or (node.op_type == "DequantizeLinear" and node.input[0] in shifted)
        zero = weights.get(node.input[2]) if pair and len(node.input) > 2 else None
        if zero is None or zero.data_type != TensorProto.INT8:
            continue
        name = f"{zero.name}_unsigned"
        if name not in weights:  # the signed one may be that of weights too
            values = numpy_helper.to_array(zero).astype(np.int16) + 128
            weights[name] = numpy_helper.from_array(values.astype(np.uint8), name)
            model.graph.initializer.append(weights[name])
        node.input[2] = name
        shifted.update(node.output if node.op_type == "QuantizeLinear" else ())
    read = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in read]:
        model.graph.initializer.remove(tensor)
    quantised = [value for value in model.graph.value_info if value.name in shifted]
    for value in quantised:
        value.type.tensor_type.elem_type = TensorProto.UINT8


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
