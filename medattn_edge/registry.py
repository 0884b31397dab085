"""Variants are found by looking in their folder: one file, one frozen record, or one theme, a tuple of records."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any


@cache
def records(package: str, attribute: str) -> tuple[Any, ...]:
    """The `attribute` of every module of `package`, subpackages included, that has one, ordered by the record's name.

    A module's attribute is a record or a tuple of records.

    Raises ValueError when two records share a name, or when the records share file suffixes and not exactly one of
    them is the default for each: a wrong default would change silently with the next file.
    """
    path = importlib.import_module(package).__path__
    names = [module.name for module in pkgutil.walk_packages(path, f"{package}.")]
    modules = [importlib.import_module(name) for name in sorted(names)]
    values = [getattr(module, attribute) for module in modules if hasattr(module, attribute)]
    found = sorted(
        (r for value in values for r in (value if isinstance(value, tuple) else (value,))), key=lambda r: r.name
    )
    check(found)
    return tuple(found)


def check(found: list[Any]) -> None:
    """Raise ValueError for duplicate names, and for a suffix without exactly one default record."""
    names = [record.name for record in found]
    if len(set(names)) != len(names):
        raise ValueError(f"duplicate record names: {names}")
    for suffix in sorted({suffix for record in found for suffix in getattr(record, "suffixes", ())}):
        owners = [record for record in found if suffix in record.suffixes]
        defaults = [record.name for record in owners if is_default(record, suffix)]
        if len(defaults) != 1:
            raise ValueError(f"{suffix}: one default record is needed, found {defaults} of {[r.name for r in owners]}")


def is_default(record: Any, suffix: str) -> bool:
    """Whether a record stands for one of its suffixes when nobody names a record."""
    return bool(record.default) and suffix not in getattr(record, "on_request", ())
