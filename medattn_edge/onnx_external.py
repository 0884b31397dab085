"""Which other files an ONNX file reads its weights from, told without the onnx package: a scanner host has none.

Protocol Buffers is a list of (number, wire type, value); of the messages of onnx.proto3 (https://github.com/onnx/onnx)
only those that can lead to a tensor are followed.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_VARINT, _FIXED64, _BYTES, _GROUP, _END_GROUP, _FIXED32 = range(6)
_TENSOR, _ENTRY = "TensorProto", "StringStringEntryProto"
_INSIDE: Final[dict[str, dict[int, str]]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: _TENSOR, 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: _TENSOR,
        6: "GraphProto",
        10: _TENSOR,
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {13: _ENTRY},
    _ENTRY: {},
}
_LOCATION_FIELD, _EXTERNAL = 14, 1  # data_location of a TensorProto
_DEEPEST: Final = 100  # as the library allows messages inside messages


def external_files(path: Path) -> frozenset[str]:
    """The `location` of every tensor whose data are in another file, as it is written; "" for one without a location.

    A file that is no protobuf has none here: no runtime opens it.
    """
    if path.stat().st_size == 0:
        return frozenset()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found: set[str] = set()
        try:
            _look(data, 0, len(data), "ModelProto", found, 0)
        except ValueError:
            return frozenset(found)
        return frozenset(found)


def _look(data: mmap.mmap, start: int, end: int, message: str, found: set[str], depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError("messages inside messages without end")
    inside = _INSIDE[message]
    locations, external = [], False
    for number, value in _fields(data, start, end):
        if isinstance(value, int):
            external = external or (message == _TENSOR and number == _LOCATION_FIELD and value == _EXTERNAL)
        elif inside.get(number) == _ENTRY:
            pairs = [(key, one) for key, one in _fields(data, *value) if not isinstance(one, int)]
            texts = {key: bytes(data[slice(*one)]) for key, one in pairs}
            # Entries without the mark are looked at too: what a runtime makes of them is its own affair.
            if texts.get(1) == b"location":
                locations.append(texts.get(2, b"").decode("utf-8", "replace"))
        elif number in inside:
            _look(data, *value, inside[number], found, depth + 1)
    found.update(locations or ([""] if external else []))


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
    """(number, value) of a message: a whole number, or where the bytes start and end. Raises ValueError."""
    at = start
    while at < end:
        key, at = _varint(data, at, end)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(data, at, end)
            yield number, value
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            length, at = _varint(data, at, end)
            if at + length > end:
                raise ValueError("bytes beyond the end")
            yield number, (at, at + length)
            at += length
        elif kind not in (_GROUP, _END_GROUP):  # unknown fields of old files, whose content follows
            raise ValueError("not protobuf")
    if at > end:
        raise ValueError("a number beyond the end")


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError("a number without an end")
