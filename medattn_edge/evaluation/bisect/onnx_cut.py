"""Cutting an ONNX graph: sub-graphs between tensors, without a look at what lies inside them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medattn_edge.evaluation.bisect.storage import Storage
from medattn_edge.precision.lint.graph import DEQUANTIZE, QUANTIZE, QdqGraph
from medattn_edge.precision.onnx_graph import module_of, with_shapes

TRANSPARENT = frozenset((QUANTIZE, DEQUANTIZE, "Cast"))  # the same values, in other numbers
_FLOATS = (1, 10)  # ONNX's numbers of FP32 and FP16
_HALF = 10


class OnnxCut:
    """A graph that can be cut; tensors go by the names that both graphs have.

    A tensor is the same before and after the Q/DQ pairs and casts that store it. It is cut before them, so that a
    sub-graph rounds what it reads as the whole graph does; and it is given to the outside after them, where nothing
    reads it from before.

    Args:
        model: the ModelProto.
    """

    suffix = ".onnx"

    def __init__(self, model: Any) -> None:
        self.model = with_shapes(model)
        self.graph = QdqGraph(self.model)
        self._dynamic: set[str] = {value.name for value in self.graph.inputs_of_graph}
        for node in self.graph.nodes:
            if self._dynamic.intersection(node.input):
                self._dynamic.update(name for name in node.output if name)

    @property
    def image(self) -> str:
        """The name of the input."""
        return str(self.graph.inputs_of_graph[0].name)

    @property
    def result(self) -> str:
        """The name of the logits."""
        return self.graph.outputs[0]

    def depends(self, name: str) -> bool:
        """Whether a tensor is computed from the image."""
        return name in self._dynamic

    def computes(self, node: Any) -> bool:
        """Whether a node computes something from the image, and not from weights only."""
        return any(name in self._dynamic for name in node.output)

    def base(self, name: str) -> str:
        """The tensor before the pairs and casts that store it."""
        node = self.graph.producer.get(name)
        while node is not None and node.op_type in TRANSPARENT and node.input[0] in self._dynamic:
            name = node.input[0]
            node = self.graph.producer.get(name)
        return name

    def given(self, name: str) -> str:
        """The tensor that the outside gets for one: after the pairs and casts through which all read it."""
        name = self.base(name)
        while name not in self.graph.outputs:
            readers = self.graph.users[name]
            kinds = {node.op_type for node in readers}
            only = len(readers) == 1 or kinds == {DEQUANTIZE}
            if not readers or not only or not kinds <= TRANSPARENT:
                break
            name = readers[0].output[0]
        return name if self.graph.kinds.get(name) in _FLOATS else self.base(name)

    def storages(self, name: str) -> tuple[Storage, ...]:
        """What a tensor goes through until the outside gets it."""
        found, here, base = list[Storage](), self.given(name), self.base(name)
        half, after = self.graph.kinds.get(here) == _HALF, None
        while here != base:
            node = self.graph.producer[here]
            if node.op_type == QUANTIZE and after is not None:
                found.append(self._pair(node, after))
            after = node if node.op_type == DEQUANTIZE else after
            here = node.input[0]
            half = half or self.graph.kinds.get(here) == _HALF
        return (*([Storage.half()] if half else []), *reversed(found))

    def _pair(self, quantize: Any, dequantize: Any) -> Storage:
        rank = len(self.graph.shapes.get(quantize.input[0], ()))
        limits = np.iinfo(self._zero(quantize).dtype)
        scales = [(self._along(self.graph.constant(one.input[1]), one, rank), self._along(self._zero(one), one, rank))
                  for one in (quantize, dequantize)]  # fmt: skip
        return Storage.pair(scales[0], scales[1], (int(limits.min), int(limits.max)))

    def _zero(self, node: Any) -> npt.NDArray[Any]:
        zero = self.graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        return np.zeros(1, np.uint8) if zero is None else zero

    @staticmethod
    def _along(values: npt.NDArray[Any] | None, node: Any, rank: int) -> npt.NDArray[np.float32]:
        """Numbers of a tensor, or of each of its channels, as they are broadcast to it."""
        assert values is not None, "quantizers write constants"
        axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
        shape = [1] * rank
        if values.size > 1:
            shape[axis] = values.size
        return values.astype(np.float32).reshape(shape)

    @cached_property
    def tensors(self) -> dict[str, tuple[str, str]]:
        """Name of a floating-point tensor that is computed from the image -> operator and module of what makes it.

        A tensor that a converter has renamed keeps its name after the pair or cast that stores it.
        """
        found = {}
        for node in self.graph.nodes:
            for name in node.output:
                if name in self._dynamic and self.graph.kinds.get(name) in _FLOATS:
                    maker = self.graph.producer.get(self.base(name))
                    if maker is not None and maker.op_type not in TRANSPARENT:
                        found[name] = (maker.op_type, module_of(maker))
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        """Sizes of a tensor, 0 where one is free."""
        return tuple(self.graph.shapes.get(name, ()))

    def weight(self, name: str) -> str:
        """The name of the constant that a node reads, through the pair that stores it; empty where there is none."""
        while name not in self.graph.weights:
            node = self.graph.producer.get(name)
            if node is None or node.op_type not in TRANSPARENT:
                return ""
            name = node.input[0]
        return name

    def reads(self, outputs: Sequence[str], cuts: Collection[str]) -> tuple[str, ...]:
        """Which of the cut tensors, all by their own names, a sub-graph reads that gives some of them."""
        bases = {self.base(name): name for name in cuts if name not in outputs}
        waiting, seen, found = [self.given(name) for name in outputs], set[str](), dict[str, None]()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in bases:
                found[bases[name]] = None
            elif name in self.graph.producer:
                waiting += [one for one in self.graph.producer[name].input if one]
        return tuple(found)

    def precision(self, inputs: Sequence[str], outputs: Sequence[str]) -> str:
        """In which numbers a sub-graph computes: int8 with a Q/DQ pair in it, fp16 with a half, else fp32."""
        part = self.part(inputs, outputs)
        if any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in part.graph.node):
            return "int8"
        names = {name for node in part.graph.node for name in (*node.input, *node.output)}
        halves = any(self.graph.kinds.get(name) == _HALF for name in names)
        return "fp16" if halves or any(one.data_type == _HALF for one in part.graph.initializer) else "fp32"

    def part(self, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
        """The ModelProto of the sub-graph that computes tensors from others.

        Args:
            inputs: as `reads` found them.
            outputs: in this order.
        """
        return self._extractor.extract_model([self.base(one) for one in inputs], [self.given(one) for one in outputs])

    def write(self, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> Path:
        """Write such a sub-graph to a file, whose path is given without its suffix."""
        import onnx

        file = path.with_name(path.name + self.suffix)
        onnx.save(self.part(inputs, outputs), str(file))
        return file

    @cached_property
    def _extractor(self) -> Any:
        from onnx.utils import Extractor

        return Extractor(self.model)
