"""An ONNX file of anybody's as one ModelProto: weights in other files packed in, from its own folder only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medattn_edge.errors import InputError
from medattn_edge.nearby import missing

_MAX_BYTES = 2**31 - 1  # of a protobuf message
_EXPORT_AGAIN = "torch.onnx.export(model, (image,), 'net.onnx', external_data=False)"


def read_onnx(path: Path) -> Any:
    """The ModelProto of a file, its weights inside.

    Raises:
        InputError: for what is no ONNX file, is damaged, or has weights outside its folder.
    """
    import onnx

    path = Path(path)
    if not path.is_file():
        raise missing(path, "an ONNX file")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        if isinstance(error, OSError | ValueError) or type(error).__name__ == "DecodeError":
            raise _unreadable(path, error) from error
        raise
    if not model.graph.node:
        raise _unreadable(path, "it has no nodes")
    _pack(model, path)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise _unreadable(path, error) from error
    return model


def _unreadable(path: Path, why: object) -> InputError:
    lines = str(why).strip().splitlines() or [type(why).__name__]
    return InputError(
        f"{path.name} cannot be read as ONNX: {lines[0]}",
        expected="an ONNX model",
        hint="copy or export the file again",
    )


def _pack(model: Any, path: Path) -> None:
    import onnx

    outside = [(tensor, _location(tensor)) for tensor in tensors(model) if _location(tensor)]
    folder, total = path.parent.resolve(), 0
    for tensor, location in outside:
        file = (folder / location).resolve()
        if Path(location).is_absolute() or not file.is_relative_to(folder):
            raise InputError(
                f"{path.name} keeps the weight {tensor.name} outside its folder, in {location!r}",
                expected=f"external data beside it, in {folder}",
                hint=f"move the data there and save again: {_EXPORT_AGAIN}",
            )
        if not file.is_file():
            raise InputError(
                f"{path.name} keeps the weight {tensor.name} in {location!r}, which does not exist",
                expected=f"external data beside it, in {folder}",
                hint=f"copy {location} there too, or: {_EXPORT_AGAIN}",
            )
    for file in {(folder / location).resolve() for _, location in outside}:
        total += file.stat().st_size
    if total + path.stat().st_size > _MAX_BYTES:
        raise InputError(
            f"{path.name} has {total / 1e9:.1f} GB of weights",
            expected="at most 2 GB, what one ONNX file can hold",
            hint="a smaller network",
        )
    try:
        for tensor, _ in outside:
            _load(tensor, folder)
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise _unreadable(path, error) from error


def _load(tensor: Any, folder: Path) -> None:
    from onnx import TensorProto, external_data_helper

    external_data_helper.load_external_data_for_tensor(tensor, str(folder))
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _location(tensor: Any) -> str:
    """Where a tensor's numbers lie, relative to the model file; empty for those that are in it."""
    from onnx import TensorProto

    if tensor.data_location != TensorProto.EXTERNAL:
        return ""
    return next((str(entry.value) for entry in tensor.external_data if entry.key == "location"), "?")


def tensors(model: Any) -> Iterator[Any]:
    """Every TensorProto of a model: initializers and attributes, subgraphs and functions included."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _of_node(node)


def _of_graph(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _of_node(node)


def _of_node(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            yield from _of_graph(graph)
