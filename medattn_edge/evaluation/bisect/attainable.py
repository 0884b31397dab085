"""What 8 bits can hold of a layer: its weights and tensors rounded, each by its own range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.backends.parts import Floats, run_as_written
from medattn_edge.evaluation.bisect.figures import Measured
from medattn_edge.evaluation.bisect.layers import CutLayer
from medattn_edge.evaluation.bisect.onnx_cut import OnnxCut

_LEVELS = 255
Answers = tuple[Sequence[Mapping[str, Floats]], Sequence[Sequence[Floats]]]


def attainable(reference: OnnxCut, layer: CutLayer, inputs: Sequence[str], answers: Answers, source: Path) -> float:
    """SQNR in dB of a layer with weights per channel, inputs and outputs per tensor in 8 bits, against itself.

    Args:
        reference: its graph.
        layer: of that.
        inputs: what it reads.
        answers: its inputs and its outputs, for each run.
        source: its file, which tells where to put another.
    """
    import onnx

    part = reference.part(inputs, layer.outputs)
    _round_weights(part, layer.weights)
    path = source.with_name("attainable.onnx")
    onnx.save(part, str(path))
    fed, expected = answers
    rounded = [{name: _rounded(values) for name, values in one.items()} for one in fed]
    measured = Measured()
    for right, found in zip(expected, run_as_written(path, inputs, rounded), strict=True):
        measured.add(layer.outputs, right, [_rounded(one) for one in found])
    return measured.sqnr_db


def _rounded(values: Floats) -> Floats:
    """By smallest and largest value; 0 stays 0."""
    low, high = min(0.0, float(values.min(initial=0.0))), max(0.0, float(values.max(initial=0.0)))
    step = (high - low) / _LEVELS
    if not np.isfinite(step) or step == 0:
        return values
    whole: Floats = (np.rint(values / step) * step).astype(np.float32)
    return whole


def _round_weights(part: Any, names: Sequence[str]) -> None:
    """Symmetric, for each output channel; changes a ModelProto in place."""
    from onnx import TensorProto, numpy_helper

    axes = {name: 1 if node.op_type == "ConvTranspose" else 0 for node in part.graph.node for name in node.input[1:2]}
    for tensor in part.graph.initializer:
        if tensor.name not in names or tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        others = tuple(axis for axis in range(values.ndim) if axis != axes.get(tensor.name, 0))
        step = np.abs(values).max(axis=others, keepdims=True) * 2 / _LEVELS
        step = np.where(step > 0, step, 1).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array((np.rint(values / step) * step).astype(np.float32), tensor.name))
