"""Cutting OpenVINO's IR, which keeps the names of the tensors of the ONNX file that it was made from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.backends.openvino.model import IR, WEIGHTS
from medattn_edge.evaluation.bisect.storage import Floats, Storage

_FAKE = "FakeQuantize"
_CONSTANT, _RESULT = "Constant", "Result"


class OpenVinoCut:
    """An openvino.Model that can be cut; the same questions as of an `OnnxCut`.

    Args:
        ov: the module openvino.
        model: as `read_model` gives it.
    """

    suffix = IR

    def __init__(self, ov: Any, model: Any) -> None:
        self._ov, self.model = ov, model
        self._ports: dict[str, Any] = {}
        self._dynamic: set[str] = set()
        for op in model.get_ordered_ops():
            makers = [value.get_node().get_friendly_name() for value in op.input_values()]
            if op.get_type_name() == "Parameter" or self._dynamic.intersection(makers):
                self._dynamic.add(op.get_friendly_name())
            # A Result has the names of the tensor that it gives out.
            for port in op.outputs() if op.get_type_name() != _RESULT else ():
                self._ports.update(dict.fromkeys(port.get_names(), port))

    @property
    def image(self) -> str:
        """The name of the input."""
        return "image"

    @property
    def result(self) -> str:
        """The name of the logits."""
        return "logits"

    @cached_property
    def tensors(self) -> dict[str, tuple[str, str]]:
        """Name of a tensor that is computed from the image -> operator and module; an IR has neither of ONNX's."""
        return {
            name: ("", "")
            for name, port in self._ports.items()
            if port.get_node().get_friendly_name() in self._dynamic and port.get_node().get_type_name() != "Parameter"
        }

    def shape(self, name: str) -> tuple[int, ...]:
        """Sizes of a tensor, 0 where one is free."""
        return tuple(int(size.get_length()) if size.is_static else 0 for size in self._ports[name].get_partial_shape())

    def _base(self, name: str) -> Any:
        port = self._ports[name]
        while port.get_node().get_type_name() == _FAKE and _keeps_scale(port.get_node()):
            port = port.get_node().input_value(0)
        return port

    def _given(self, name: str) -> Any:
        port = self._base(name)
        while (stored := _stored(port)) is not None:
            port = stored[0]
        return port

    def storages(self, name: str) -> tuple[Storage, ...]:
        """What a tensor goes through until the outside gets it."""
        found, port = list[Storage](), self._base(name)
        while (stored := _stored(port)) is not None:
            port, storage = stored
            found.append(storage)
        return tuple(found)

    def reads(self, outputs: Sequence[str], cuts: Collection[str]) -> tuple[str, ...]:
        """Which of the cut tensors a sub-graph reads that gives some of them."""
        bases = {_key(self._base(name)): name for name in cuts if name not in outputs}
        waiting, seen, found = [self._given(name) for name in outputs], set[tuple[str, int]](), dict[str, None]()
        while waiting:
            port = waiting.pop()
            if _key(port) in seen:
                continue
            seen.add(_key(port))
            if _key(port) in bases:
                found[bases[_key(port)]] = None
            else:
                waiting += port.get_node().input_values()
        return tuple(found)

    def precision(self, inputs: Sequence[str], outputs: Sequence[str]) -> str:
        """In which numbers a sub-graph computes: int8 with a FakeQuantize or whole weights in it, else fp32."""
        stop = {_key(self._base(name)) for name in inputs}
        waiting, seen = [self._given(name) for name in outputs], set[tuple[str, int]]()
        while waiting:
            port = waiting.pop()
            if _key(port) in seen or _key(port) in stop:
                continue
            seen.add(_key(port))
            node = port.get_node()
            if node.get_type_name() == _FAKE or port.get_element_type().get_type_name() in ("i8", "u8"):
                return "int8"
            waiting += node.input_values()
        return "fp32"

    def write(self, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> Path:
        """Write the sub-graph that computes tensors from others; see `OnnxCut.write`."""
        from openvino import opset13 as ops

        copied = self.model.clone()
        nodes = {op.get_friendly_name(): op for op in copied.get_ops()}
        given = [_port(nodes, self._given(name)) for name in outputs]
        parameters = []
        for name in inputs:
            port = _port(nodes, self._base(name))
            parameter = ops.parameter(port.get_partial_shape(), port.get_element_type())
            readers = list(port.get_target_inputs())
            port.set_names(set())
            parameter.output(0).set_names({name})
            for reader in readers:
                if reader.get_node().get_type_name() != _RESULT:
                    reader.replace_source_output(parameter.output(0))
            parameters.append(parameter)
        part = self._ov.Model([ops.result(port) for port in given], parameters, "part")
        file = path.with_name(path.name + IR)
        self._ov.serialize(part, str(file), str(path.with_name(path.name + WEIGHTS)))
        return file


def _port(nodes: Mapping[str, Any], port: Any) -> Any:
    """The same port of another copy of the model."""
    return nodes[port.get_node().get_friendly_name()].output(port.get_index())


def _key(port: Any) -> tuple[str, int]:
    return port.get_node().get_friendly_name(), port.get_index()


def _stored(port: Any) -> tuple[Any, Storage] | None:
    """A tensor as everything reads it, after it was rounded, and how; None where something reads it as it is."""
    readers = list(port.get_target_inputs())
    if len(readers) != 1 or readers[0].get_node().get_type_name() != _FAKE or readers[0].get_index() != 0:
        return None
    fake = readers[0].get_node()
    low, high, out_low, _ = (_values(fake.input_value(index)) for index in range(1, 5))
    step = (high - low) / np.float32(fake.get_attributes()["levels"] - 1)
    if _keeps_scale(fake):
        return fake.output(0), Storage.linear(low, high, step)
    pair = _pair(fake)
    if pair is None:
        return None
    after, zero, scale = pair
    return after, Storage("int8", low, high, step, low, scale, (out_low - zero) * scale)


def _keeps_scale(fake: Any) -> bool:
    """Whether a FakeQuantize rounds values, and does not turn them into whole numbers."""
    return all(
        np.array_equal(_values(fake.input_value(index)), _values(fake.input_value(index + 2))) for index in (1, 2)
    )


def _pair(fake: Any) -> tuple[Any, Floats, Floats] | None:
    """Of the FakeQuantize that a QuantizeLinear becomes: its tensor read again, the zero-point and the scale."""
    port, found = fake.output(0), dict[str, Any]()
    for kind in ("Convert", "Convert", "Subtract", "Multiply"):
        readers = [one.get_node() for one in port.get_target_inputs()]
        if not readers or any(node.get_type_name() != kind for node in readers):
            return None
        found[kind], port = readers[0], readers[0].output(0)
    return port, _values(found["Subtract"].input_value(1)), _values(found["Multiply"].input_value(1))


def _values(port: Any) -> Floats:
    """The numbers of a constant, of whatever type."""
    node = port.get_node()
    while node.get_type_name() in ("Convert", "Reshape"):
        node = node.input_value(0).get_node()
    return np.asarray(node.get_data(), np.float32)
