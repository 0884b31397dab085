"""Graphs of a few nodes, node by node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from medattn_edge.precision.lint.rules import lint

FLOAT, HALF, INT8, UINT8, INT4 = (getattr(TensorProto, name) for name in ("FLOAT", "FLOAT16", "INT8", "UINT8", "INT4"))


class Net:
    """A graph under construction: every method adds a node and returns its name, which is that of its output too."""

    def __init__(self, shape: Sequence[Any] = (1, 4, 8, 8), kind: int = FLOAT, opset: int = 18) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.image, self.kind, self.opset = helper.make_tensor_value_info("image", kind, shape), kind, opset

    def weight(self, values: Any, kind: int | None = None) -> str:
        name, array = f"w{len(self.tensors)}", np.asarray(values)
        made = helper.make_tensor(name, kind, array.shape, array.ravel().tolist()) if kind else None
        self.tensors.append(made or numpy_helper.from_array(array, name))
        return name

    def node(self, operator: str, *inputs: str, name: str = "", module: str | None = None, **attributes: Any) -> str:
        name = name or f"{operator}_{len(self.nodes)}"
        node = helper.make_node(operator, inputs, [name], name, **attributes)
        if module is not None:
            entry = node.metadata_props.add()
            entry.key, entry.value = "module", module
        self.nodes.append(node)
        return name

    def conv(self, source: str, out: int = 4, into: int = 4, value: float = 0.5, **more: Any) -> str:
        return self.node("Conv", source, self.weight(np.full((out, into, 1, 1), value, np.float32)), **more)

    def pair(self, source: str, kind: int = INT8, scale: Any = 0.1, zero: int | None = 0) -> str:
        scales = self.weight(np.asarray(scale, np.float32))
        shift = [] if zero is None else [self.weight(np.full(np.shape(scale), zero), kind)]
        axis = {"axis": 1} if np.size(scale) > 1 else {}
        return self.node("DequantizeLinear", self.node("QuantizeLinear", source, scales, *shift, **axis), scales,
                         *shift, **axis)  # fmt: skip

    def stored(self, shape: Sequence[int], axis: int = 0, kind: int = INT8, value: int = 7) -> str:
        scales = self.weight(np.full(shape[axis], 0.1, np.float32))
        zeros = self.weight(np.zeros(shape[axis]), kind)
        return self.node("DequantizeLinear", self.weight(np.full(shape, value), kind), scales, zeros, axis=axis)

    def model(self, *outputs: str) -> Any:
        ends = [helper.make_tensor_value_info(name, self.kind, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "network", [self.image], ends, self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)


def rules(model: Any, profile: str = "tensorrt", isa: str = "x86-vnni") -> list[str]:
    return [finding.rule for finding in lint(model, profile, isa)]
