"""Q/DQ by ONNX Runtime's quantiser, with ranges that we gathered ourselves: both profiles, every method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.artifact import Artifact
from medattn_edge.precision.attention_paths import finish
from medattn_edge.precision.layers import SMALL_CHANNELS, WEIGHTED, attention_products, layers, with_idle_nodes
from medattn_edge.precision.onnx_graph import with_shapes
from medattn_edge.precision.quantizers.quantizer import Calibration, QuantizationRecipe, Quantizer
from medattn_edge.precision.statistics import METHODS, Ranges

# ONNX Runtime has INT8 kernels of these beside convolutions; a Q/DQ on another operator costs time and digits.
_CPU_TYPES = ("MaxPool", "Concat")


def quantise(
    parent: Artifact, model: Any, calibration: Calibration, recipe: QuantizationRecipe, files: Mapping[str, Path]
) -> None:
    """Write the Q/DQ graph of an FP32 ModelProto to files[".onnx"]; see `qdq`."""
    import onnx

    onnx.save(qdq(model, calibration.ranges(), recipe), str(files[".onnx"]))


def qdq(model: Any, ranges: Ranges, recipe: QuantizationRecipe, only: tuple[str, ...] | None = None) -> Any:
    """The Q/DQ form of an FP32 graph, for the recipe's profile.

    cpu: uint8 activations with a zero-point on x86 (int8 on ARM), weights int8, 7 bits without VNNI, bias int32.
    tensorrt: symmetric int8 activations, weights with their own Q/DQ pair, per output channel, no bias and no output
    quantised, convolutions of few channels left out.

    Args:
        model: a ModelProto, which is left as it is.
        ranges: of its FP32 tensors.
        recipe: to follow.
        only: quantise no other node than these.
    """
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    symmetric = recipe.profile == "tensorrt"
    floating = {*attention_products(model), *with_idle_nodes(model, recipe.floating)}
    if symmetric:
        floating |= {layer.node for layer in layers(model) if min(layer.channels) < SMALL_CHANNELS}
    copied = onnx.ModelProto()
    copied.CopyFrom(with_shapes(model))
    if symmetric:
        types: tuple[str, ...] = WEIGHTED
    else:
        # It has no INT8 ConvTranspose; alone, one is quantised to see what that does in a runtime that has.
        types = ("Conv", "Gemm", *_CPU_TYPES) if only is None else ("Conv", "Gemm", "ConvTranspose")
    chosen = [node.name for node in copied.graph.node if node.op_type in types and node.name not in floating]
    if only is not None:
        chosen = [name for name in chosen if name in only]
    if not chosen:  # ONNX Runtime takes an empty list for all nodes
        return copied
    quantizer = QDQQuantizer(
        copied,
        per_channel=True,
        reduce_range=recipe.profile == "cpu" and recipe.isa == "x86",
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if symmetric or recipe.isa == "arm" else QuantType.QUInt8,
        tensors_range=_tensors_range(ranges, symmetric),
        nodes_to_quantize=chosen,
        nodes_to_exclude=[],
        op_types_to_quantize=list(types),
        extra_options={
            "ActivationSymmetric": symmetric,
            "WeightSymmetric": True,
            "AddQDQPairToWeight": symmetric,
            "QuantizeBias": not symmetric,
            "DedicatedQDQPair": False,
            "OpTypesToExcludeOutputQuantization": list(types) if symmetric else [],
            "QDQOpTypePerChannelSupportToAxis": {"Conv": 0, "ConvTranspose": 1},
        },
    )
    quantizer.quantize_model()
    finish(quantizer.model.model)
    return quantizer.model.model


def _tensors_range(ranges: Ranges, symmetric: bool) -> Any:
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData

    def data(low: float, high: float) -> Any:
        if symmetric:
            high = max(abs(low), abs(high))
            low = -high
        return TensorData(lowest=np.float32(low), highest=np.float32(high))

    return TensorsData(CalibrationMethod.MinMax, {name: data(*pair) for name, pair in ranges.items()})


QUANTIZER = Quantizer(
    name="onnxruntime",
    suffixes=(".onnx",),
    profiles=("cpu", "tensorrt"),
    isas=("x86-vnni", "x86", "arm"),
    methods=METHODS,
    extra="calibrate",
    packages=("onnx", "onnxruntime"),
    quantise=quantise,
    default=False,
)
