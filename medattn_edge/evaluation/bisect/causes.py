"""Causes: what differs between a layer of the reference and the candidate's, as both graphs have it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medattn_edge.agreement import LogitsDistance
from medattn_edge.evaluation.bisect.figures import LayerFigures
from medattn_edge.evaluation.bisect.onnx_cut import TRANSPARENT, OnnxCut
from medattn_edge.evaluation.bisect.storage import HALF_LIMIT
from medattn_edge.precision.lint.graph import DEQUANTIZE, QUANTIZE

_SAME_DB = {"fp32": 100.0, "fp16": 50.0, "int8": 25.0}  # of constants, as a precision rounds them
_CLIPPED = 1e-3  # of the values
_ORDER_IS_NONE = frozenset(("Add", "Mul", "Max", "Min", "Sum", "Mean"))  # operators that do not care
_ROLES = {1: "weights", 2: "bias"}
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm")


class Causes:
    """Explains figures by two graphs.

    Args:
        reference: the graph that counts as right.
        candidate: the ONNX graph that is judged; None where it is another format.
        pairs: the reference's name of a tensor -> the candidate's.
    """

    def __init__(self, reference: OnnxCut, candidate: OnnxCut | None, pairs: Mapping[str, str]) -> None:
        self._reference, self._candidate, self._pairs = reference, candidate, pairs
        self._back = {} if candidate is None else {candidate.base(theirs): name for name, theirs in pairs.items()}

    def explained(self, figures: LayerFigures) -> LayerFigures:
        """The same figures with the causes of a layer that leaves."""
        if not figures.leaves:
            return figures
        return replace(figures, causes=tuple(dict.fromkeys(self._causes(figures))))

    def _causes(self, figures: LayerFigures) -> Iterator[str]:
        if figures.failure:
            yield figures.failure
        elif figures.of_runtime:
            yield f"the runtime computes something else: as it is written the graph keeps {figures.written_db:.1f} dB"
        largest = max(map(abs, figures.reference_range))
        if figures.precision == "fp16" and largest > HALF_LIMIT:
            yield f"the reference reaches {largest:.3g}, and a half ends at {HALF_LIMIT:g}"
        if self._candidate is not None:
            for node in figures.layer.nodes:
                yield from self._differences(node, figures.precision)
        if figures.clipped > _CLIPPED and figures.precision == "int8":
            yield f"the quantizer clips {figures.clipped:.1%} of the reference's values"

    def _differences(self, node: Any, precision: str) -> Iterator[str]:
        """What the candidate's node has otherwise; nothing where it has no such node."""
        candidate = self._candidate
        assert candidate is not None, "it is asked only then"
        name = self._pairs.get(node.output[0])
        other = None if name is None else candidate.graph.producer.get(candidate.base(name))
        if other is None:
            return
        if other.op_type != node.op_type:
            yield f"it is {other.op_type}, not {node.op_type}"
            return
        mine, theirs = _attributes(node), _attributes(other)
        for key in sorted({*mine, *theirs}):
            if mine.get(key) != theirs.get(key):
                yield f"{key} of {node.op_type} is {_shown(theirs.get(key))}, not {_shown(mine.get(key))}"
        yield from self._wiring(node, other)
        yield from self._constants(node, other, precision)

    def _wiring(self, node: Any, other: Any) -> Iterator[str]:
        candidate = self._candidate
        assert candidate is not None, "it is asked only then"
        mine = [self._reference.base(name) for name in node.input if self._reference.depends(name)]
        theirs = [self._back.get(candidate.base(name), "") for name in other.input if candidate.depends(name)]
        if node.op_type in _ORDER_IS_NONE:
            mine, theirs = sorted(mine), sorted(theirs)
        if mine != theirs and "" not in theirs:
            same = sorted(mine) == sorted(theirs)
            yield f"the inputs of {node.op_type} are " + ("in another order" if same else "other tensors")

    def _constants(self, node: Any, other: Any, precision: str) -> Iterator[str]:
        candidate = self._candidate
        assert candidate is not None, "it is asked only then"
        for index, name in enumerate(node.input):
            right = _constant(self._reference, name)
            if right is None:
                continue
            role = _ROLES.get(index, f"input {index}") if node.op_type in _WEIGHTED else f"input {index}"
            found = _constant(candidate, other.input[index]) if index < len(other.input) else None
            if found is None or found.shape != right.shape:
                yield f"the {role} of {node.op_type}: missing, or of another shape"
                continue
            distance = LogitsDistance()
            distance.add(right.astype(np.float64), found.astype(np.float64))
            if not distance.sqnr_db >= _SAME_DB[precision] and distance.noise > 0:
                far = f"{distance.sqnr_db:.1f} dB" if math.isfinite(distance.sqnr_db) else "not finite"
                yield f"the {role} of {node.op_type}: {far} from the reference's"


def _attributes(node: Any) -> dict[str, Any]:
    import onnx

    return {
        one.name: onnx.helper.get_attribute_value(one)
        for one in node.attribute
        if one.type not in (onnx.AttributeProto.TENSOR, onnx.AttributeProto.GRAPH)
    }


def _shown(value: Any) -> str:
    if value is None:
        return "not given"
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _constant(graph: OnnxCut, name: str) -> npt.NDArray[Any] | None:
    """The values of a constant, through what stores it; None for what is computed from the image or is no number."""
    if not name or graph.depends(name):
        return None
    values = graph.graph.constant(name)
    if values is not None:
        return values
    node = graph.graph.producer.get(name)
    if node is None or node.op_type not in TRANSPARENT:
        return None
    inner = _constant(graph, node.input[0])
    if inner is None or node.op_type not in (QUANTIZE, DEQUANTIZE):
        return inner
    scale = graph.graph.constant(node.input[1])
    zero = graph.graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
    if scale is None:
        return None
    step, offset = (_along(one, inner.ndim, axis) for one in (scale, np.zeros(1) if zero is None else zero))
    if node.op_type == DEQUANTIZE:
        return np.asarray((inner.astype(np.float64) - offset) * step)
    limits = np.iinfo(np.uint8 if zero is None else zero.dtype)
    return np.clip(np.rint(inner / step) + offset, limits.min, limits.max)


def _along(values: npt.NDArray[Any], rank: int, axis: int) -> npt.NDArray[np.float64]:
    """Numbers of a tensor, or of each of its channels, as they are broadcast to it."""
    shape = [1] * rank
    if values.size > 1:
        shape[axis] = values.size
    return values.astype(np.float64).reshape(shape)
