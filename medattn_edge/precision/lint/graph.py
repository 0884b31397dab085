"""An ONNX graph as the rules read it: who makes a tensor, who uses it, how it is quantised, which module it serves."""

from __future__ import annotations

from collections.abc import Container, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from medattn_edge.precision.onnx_graph import MODULE, Graph

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
CONVOLUTIONS = ("Conv", "ConvTranspose")
PRODUCTS = (*CONVOLUTIONS, "MatMul", "Gemm")
LAYOUT = frozenset(("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"))
_ENERGY = LAYOUT | {QUANTIZE, DEQUANTIZE, "Cast", "Expand", "Add", "Sub", "Mul", "Div", "Neg", "ReduceMax", "Clip"}
_WEIGHTING = LAYOUT | {QUANTIZE, DEQUANTIZE, "Cast", "Dropout"}


class Fault(NamedTuple):
    """What a rule has found.

    Attributes:
        node: a NodeProto, or None for the graph as a whole.
        reason: what is wrong.
    """

    node: Any
    reason: str


class QdqGraph(Graph):
    """How a graph is quantised; the model must not change while it is used."""

    @cached_property
    def inputs_of_graph(self) -> list[Any]:
        """What the graph is given from outside (ValueInfoProto), without initializers that are listed there too."""
        return [value for value in self.model.graph.input if value.name not in self.weights]

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators; 0 when the model names none."""
        return max((entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), default=0)

    def constant(self, name: str) -> np.ndarray[Any, Any] | None:
        """The values of an initializer or a Constant; None for what is computed."""
        from onnx import numpy_helper

        if name not in self.weights:
            return None
        return np.asarray(numpy_helper.to_array(self.weights[name]))

    def select(self, *kinds: str) -> Iterator[Any]:
        """The nodes of these operator types."""
        return (node for node in self.nodes if node.op_type in kinds)

    @cached_property
    def quantisers(self) -> list[Any]:
        """Every Q and DQ node, but no DQ that only repeats the parameters of the Q before it: one fault, once."""
        nodes = []
        for node in self.select(QUANTIZE, DEQUANTIZE):
            before = self.producer.get(node.input[0])
            repeats = before is not None and before.op_type == QUANTIZE and before.input[1:] == node.input[1:]
            if node.op_type == QUANTIZE or not repeats:
                nodes.append(node)
        return nodes

    def quantised_type(self, node: Any) -> str:
        """The name of a Q's or a DQ's integer type, such as INT8, as ONNX defines it when nothing says it."""
        if len(node.input) > 2 and node.input[2]:
            return self.type_of(node.input[2])
        if node.op_type == DEQUANTIZE:
            before = self.producer.get(node.input[0])
            return (
                self.quantised_type(before)
                if before is not None and before.op_type == QUANTIZE
                else self.type_of(node.input[0])
            )
        return _type_name(attribute(node, "output_dtype", 0)) if attribute(node, "output_dtype", 0) else "UINT8"

    def has_constant_data(self, node: Any) -> bool:
        """Whether a Q or a DQ holds weights: a constant, quantised already or on the way."""
        before = self.producer.get(node.input[0])
        source = before if node.op_type == DEQUANTIZE and before is not None and before.op_type == QUANTIZE else node
        return source.input[0] in self.weights

    def dequantizer(self, node: Any, index: int) -> Any:
        """The DQ that an input of a node comes from, past changes of layout; None for one that is not quantised."""
        name = node.input[index] if index < len(node.input) else ""
        before = self.producer.get(name)
        while before is not None and before.op_type in LAYOUT:
            before = self.producer.get(before.input[0])
        return before if before is not None and before.op_type == DEQUANTIZE else None

    def quantised_weights(self, node: Any) -> np.ndarray[Any, Any] | None:
        """The integers of the weights that a DQ holds, as int32; None when they are not constant."""
        stored = self.constant(node.input[0])
        if stored is not None:
            return stored.astype(np.int32)
        before = self.producer.get(node.input[0])
        values, scale = (self.constant(name) for name in before.input[:2]) if before is not None else (None, None)
        if values is None or scale is None:
            return None
        shape = [1] * values.ndim
        if scale.size > 1:
            shape[attribute(before, "axis", 1)] = scale.size
        with np.errstate(all="ignore"):  # a broken scale is reported by its own rule
            integers: np.ndarray[Any, Any] = np.nan_to_num(
                np.rint(values / scale.reshape(shape)), posinf=127, neginf=-128
            )
        return np.asarray(integers.clip(-128, 127), np.int32)

    def reach(self, node: Any, through: Container[str], *, up: bool) -> list[Any]:
        """The first nodes of other types met on the way up, or down, past nodes of the types `through`."""
        met, seen, todo = [], set(), self._beside(node, up)
        while todo:
            one = todo.pop(0)
            if id(one) in seen:
                continue
            seen.add(id(one))
            if one.op_type in through:
                todo += self._beside(one, up)
            else:
                met.append(one)
        return met

    @cached_property
    def energies(self) -> list[Any]:
        """The products whose result a Softmax turns into weights."""
        return self._around_softmax(_ENERGY, up=True)

    @cached_property
    def attention_products(self) -> list[Any]:
        """The products that feed a Softmax, and those that its weights are used in."""
        products = [*self.energies, *self._around_softmax(_WEIGHTING, up=False)]
        return list({id(node): node for node in products}.values())

    def source(self, name: str) -> str:
        """The tensor that a view, a cast or a quantised copy shows."""
        before = self.producer.get(name)
        while before is not None and before.op_type in _WEIGHTING:
            name = before.input[0]
            before = self.producer.get(name)
        return name

    def _around_softmax(self, through: Container[str], *, up: bool) -> list[Any]:
        met = [node for softmax in self.select("Softmax") for node in self.reach(softmax, through, up=up)]
        return [node for node in met if node.op_type in ("MatMul", "Gemm", "Einsum")]

    def module_of(self, node: Any) -> str:
        """The path of the PyTorch module that a node belongs to, or that the nearest node with one belongs to.

        For a Q or a DQ that is the one that it feeds, else the one that feeds it. Empty for the network itself, or when
        none says.
        """
        for up in (False, True):
            seen, todo = set(), [node]
            while todo:
                one = todo.pop(0)
                paths = [entry.value for entry in one.metadata_props if entry.key == MODULE]
                if paths:
                    return str(paths[0])
                if id(one) not in seen:
                    seen.add(id(one))
                    todo += self._beside(one, up)
        return ""

    def _beside(self, node: Any, up: bool) -> list[Any]:
        if not up:
            return self.followers(node)
        return self.inputs(node)

    def type_of(self, name: str) -> str:
        """The element type of a tensor, such as FLOAT16; empty where it is not known."""
        if name in self.weights:
            return _type_name(self.weights[name].data_type)
        value = self._values.get(name)
        return _type_name(value.type.tensor_type.elem_type) if value is not None else ""

    def shape_of(self, name: str) -> list[int]:
        """The sizes of a tensor, -1 where one is free; empty where they are not known."""
        if name in self.weights:
            return list(self.weights[name].dims)
        value = self._values.get(name)
        return sizes(value) if value is not None else []

    @cached_property
    def _values(self) -> dict[str, Any]:
        from onnx import shape_inference

        graph = shape_inference.infer_shapes(self.model).graph
        return {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}


def attribute(node: Any, name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((int(entry.i) for entry in node.attribute if entry.name == name), default)


def sizes(value: Any) -> list[int]:
    """The sizes of a graph's input, output or value, -1 where one is free."""
    return [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim]


def _type_name(number: int) -> str:
    from onnx import TensorProto

    return str(TensorProto.DataType.Name(number)) if number else ""
