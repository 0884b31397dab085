"""The part of JSON Schema that our schemas use, so that tests need no other package for it."""

from __future__ import annotations

import re
from typing import Any

_KINDS: dict[str, Any] = {
    "string": str,
    "array": list,
    "object": dict,
    "number": (int, float),
    "integer": int,
    "null": type(None),
}
_READ = {
    *("$schema", "title", "description", "type", "required", "additionalProperties", "properties", "items", "enum"),
    *("anyOf", "pattern", "minLength", "maxLength", "minItems", "maxItems", "uniqueItems", "minimum"),
    *("exclusiveMinimum", "exclusiveMaximum"),
}


def faults(value: Any, schema: dict[str, Any], where: str = "$") -> list[str]:
    """What of a value is not as the schema wants it; a keyword that is not known here is a fault as well."""
    wrong = [f"{where}: the keyword {key}" for key in set(schema) - _READ]
    kinds = schema.get("type", list(_KINDS))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if isinstance(value, bool):
        return wrong if "type" not in schema else [*wrong, f"{where}: {value!r} is no {kinds}"]
    if not any(isinstance(value, _KINDS[kind]) for kind in kinds):
        return [*wrong, f"{where}: {value!r} is no {kinds}"]
    if "enum" in schema and value not in schema["enum"]:
        wrong.append(f"{where}: {value!r} is none of {schema['enum']}")
    if "anyOf" in schema and all(faults(value, one, where) for one in schema["anyOf"]):
        wrong.append(f"{where}: {value!r} is none of the forms")
    if isinstance(value, str):
        if not re.search(schema.get("pattern", ""), value):
            wrong.append(f"{where}: {value!r} does not match")
        wrong += _sizes(len(value), schema, "Length", where)
    elif isinstance(value, int | float):
        if value < schema.get("minimum", value) or value <= schema.get("exclusiveMinimum", value - 1):
            wrong.append(f"{where}: {value} is too small")
        if value >= schema.get("exclusiveMaximum", value + 1):
            wrong.append(f"{where}: {value} is too large")
    elif isinstance(value, list):
        wrong += _sizes(len(value), schema, "Items", where)
        if schema.get("uniqueItems") and len({repr(item) for item in value}) < len(value):
            wrong.append(f"{where}: an item comes twice")
        for index, item in enumerate(value):
            wrong += faults(item, schema.get("items", {}), f"{where}[{index}]")
    elif isinstance(value, dict):
        wrong += [f"{where}: {name} is missing" for name in schema.get("required", []) if name not in value]
        others = schema.get("additionalProperties", {})
        for name, item in value.items():
            known = schema.get("properties", {}).get(name, others)
            wrong += [f"{where}: {name} is unknown"] if known is False else faults(item, known, f"{where}.{name}")
    return wrong


def _sizes(size: int, schema: dict[str, Any], what: str, where: str) -> list[str]:
    low, high = schema.get(f"min{what}", size), schema.get(f"max{what}", size)
    return [] if low <= size <= high else [f"{where}: a size of {size}"]
