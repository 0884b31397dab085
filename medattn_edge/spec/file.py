"""A spec as a file of its own: JSON, as spec.schema.json describes it."""

from __future__ import annotations

import json
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

from medattn_edge.errors import InputError
from medattn_edge.nearby import key_hint, place_hint
from medattn_edge.spec.model import ModelSpec

_MOST_BYTES = 1 << 20


def read_spec(path: Path) -> tuple[ModelSpec, tuple[str, ...]]:
    """The spec in a file, and the names of the fields that it gives; the others have their defaults.

    Raises:
        InputError: the file cannot be read, is no JSON object, has unknown fields or steps, or lacks a field.
    """
    path, hint = Path(path), "medattn-edge inspect CHECKPOINT --spec > spec.json"
    if not path.is_file():
        raise InputError(f"{path} is not a file", expected="a spec in JSON", hint=place_hint(path, hint))
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path.name} cannot be read: {error}", expected="a spec in JSON", hint=hint) from error
    try:
        spec = ModelSpec.from_json(values)
    except InputError as error:
        raise InputError(
            f"{path.name}: {error.found}", expected=error.expected, hint=_nearest_field(values) or hint
        ) from error
    return spec, tuple(values)


def _nearest_field(values: Any) -> str:
    """The field that was probably meant by the first that is none; empty where there is none like it."""
    known = [item.name for item in fields(ModelSpec)]
    unknown = [name for name in values if name not in known] if isinstance(values, dict) else []
    return key_hint(unknown[0], known, "").replace(" = ", ": ") if unknown else ""


def spec_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a spec."""
    text = resources.files("medattn_edge.spec").joinpath("spec.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} comes twice")
    return values
