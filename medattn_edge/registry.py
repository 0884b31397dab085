"""Variants are found by looking in their folder, and in the entry points of other packages: one frozen record each."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.abc import InspectLoader
from types import ModuleType
from typing import TYPE_CHECKING, Any

from medattn_edge.errors import HostError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


@cache
def records(package: str, attribute: str, group: str = "") -> tuple[Any, ...]:
    """The records of a kind, ours and those of other installed packages.

    Modules that do not assign the attribute are not imported.

    Args:
        package: its modules, subpackages included, are looked through.
        attribute: what a module of ours calls its record, or its tuple of records.
        group: the entry points that name the records of other packages; "" when nobody else may have one.

    Returns:
        The records, ordered by name.

    Raises:
        HostError: when an entry point cannot be loaded or is no such record, when two records share a name, or when
            records share a file suffix and not exactly one of them is its default: a wrong default would change
            silently with the next package.
    """
    origins = {origin: record for module in _modules(package, attribute) for origin, record in _own(module, attribute)}
    if group:
        from importlib.metadata import entry_points

        kinds = tuple({type(record) for record in origins.values()})
        origins |= {_origin(entry): _loaded(entry, kinds) for entry in entry_points(group=group)}
    check_distinct(origins)
    return tuple(sorted(origins.values(), key=lambda record: str(record.name)))


def check_distinct(origins: Mapping[str, Any]) -> None:
    """Check that records can be told apart.

    Args:
        origins: the records by where each comes from.

    Raises:
        HostError: for a name that two have, and for a suffix without exactly one default.
    """
    by_name: dict[str, list[str]] = {}
    for origin, record in origins.items():
        by_name.setdefault(record.name, []).append(origin)
    for name, owners in by_name.items():
        if len(owners) > 1:
            raise HostError(
                f"{' and '.join(owners)} have the same name {name!r}",
                expected="a name of its own for each record",
                hint="pip uninstall the package that is not needed",
            )
    for suffix in sorted({suffix for record in origins.values() for suffix in getattr(record, "suffixes", ())}):
        owners = [origin for origin, record in origins.items() if suffix in record.suffixes]
        defaults = [origin for origin in owners if is_default(origins[origin], suffix)]
        if len(defaults) != 1:
            raise HostError(
                f"files that end in {suffix} are for {' and '.join(owners)},"
                f" and the default is {' and '.join(defaults) or 'none of them'}",
                expected="exactly one record with default=True for a suffix",
                hint="pip uninstall the package that is not needed",
            )


def is_default(record: Any, suffix: str) -> bool:
    """Whether a record stands for one of its suffixes when nobody names a record."""
    return bool(record.default) and suffix not in getattr(record, "on_request", ())


def _modules(package: str, attribute: str) -> Iterator[ModuleType]:
    """The modules below a package that have the attribute; those whose source never assigns it are not imported."""
    assigned = re.compile(rf"^{attribute}\b", re.MULTILINE)
    path = importlib.import_module(package).__path__
    # A subpackage that cannot be imported is imported once more, for its error: walk_packages would pass over it.
    for found in pkgutil.walk_packages(path, f"{package}.", onerror=importlib.import_module):
        spec = found.module_finder.find_spec(found.name, None)
        source = spec.loader.get_source(found.name) if spec and isinstance(spec.loader, InspectLoader) else None
        if source is None or assigned.search(source):
            module = importlib.import_module(found.name)
            if hasattr(module, attribute):
                yield module


def _own(module: ModuleType, attribute: str) -> Iterator[tuple[str, Any]]:
    """Each record of a module of ours, with where it comes from."""
    value = getattr(module, attribute)
    if not isinstance(value, tuple):
        yield module.__name__, value
        return
    for number, record in enumerate(value, start=1):
        yield f"record {number} of {module.__name__}", record


def _origin(entry: EntryPoint) -> str:
    """Where an entry point comes from, for people."""
    owner = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"
    return f"{entry.value} of {owner}"


def _loaded(entry: EntryPoint, kinds: tuple[type, ...]) -> Any:
    package = entry.dist.name if entry.dist else entry.module
    hint = f"pip install --upgrade {package}, or pip uninstall {package}"
    expected = f"an entry point of the group {entry.group} that is a record"
    try:
        record = entry.load()
    except Exception as error:
        what = f"{_origin(entry)} cannot be loaded ({type(error).__name__}: {error})"
        raise HostError(what, expected=expected, hint=hint) from error
    if kinds and not isinstance(record, kinds):
        names = " or ".join(sorted(kind.__name__ for kind in kinds))
        raise HostError(f"{_origin(entry)} is a {type(record).__name__}", expected=f"a {names}", hint=hint)
    return record
