"""Entry: a data set as DICOM's JSON has it (PS3.18 F.2), of which nothing is taken for granted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Entry = Mapping[str, Any]


def values_of(entry: Entry, tag: str) -> list[Any]:
    """The values of an element, such as "0020000D"; none where it is missing, empty or malformed."""
    element = entry.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def items_of(entry: Entry, tag: str) -> list[Entry]:
    """The items of a sequence."""
    return [item for item in values_of(entry, tag) if isinstance(item, dict)]


def value_of(entry: Entry, tag: str) -> Any:
    """The first value, None without one."""
    return next(iter(values_of(entry, tag)), None)


def text_of(entry: Entry, tag: str, default: str = "") -> str:
    """The first value as a text without white space around it."""
    values = values_of(entry, tag)
    return str(values[0]).strip() if values else default
