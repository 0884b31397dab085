"""TOML to the sections of a configuration and back, checked key by key."""

from __future__ import annotations

import difflib
import json
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from medattn_edge.errors import UsageError
from medattn_edge.nearby import nearest, place_hint
from medattn_edge.newer_python import tomllib

Section = TypeVar("Section")
Table = Mapping[str, Any]
_LARGEST: Final = 1 << 63
NO_KEY: Final = MappingProxyType({"key": False})  # metadata of a field that is no key of the file
_KINDS: Final = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}


class Reader:
    """Reads the sections of one file. Relative paths start at its folder; every error names the file and the key."""

    def __init__(self, path: Path, renamed: Mapping[type, Mapping[str, str]] = MappingProxyType({})) -> None:
        """Nothing is read yet.

        Args:
            path: of the file.
            renamed: for each section that once had other keys, the new key by the old one.
        """
        self.path, self._renamed = Path(path), renamed

    def tables(self) -> dict[str, Any]:
        """The file's own tables. Raises UsageError for a file that cannot be read, or is not valid TOML."""
        try:
            with self.path.open("rb") as file:
                return tomllib.load(file)
        except OSError as error:
            make = "medattn-edge node init ARTIFACT -o node.toml"
            raise UsageError(
                f"{self.path} cannot be read: {error.strerror}",
                expected="the configuration of a node",
                hint=make if self.path.exists() else place_hint(self.path, make),
            ) from error
        except (ValueError, RecursionError) as error:  # not UTF-8, or a number of thousands of digits, as well
            raise UsageError(
                f"{self.path} is not valid TOML: {error}", expected="TOML 1.0", hint="correct that line"
            ) from error

    def section(self, kind: type[Section], table: object, where: str) -> Section:
        """A dataclass from a table. where: how people find it, such as `[receive]`."""
        if not isinstance(table, dict):
            raise self.wrong(where, "is not a section", "{ ... }" if where.endswith(":") else where)
        hints, known = get_type_hints(kind), {one.name: one for one in keys_of(kind)}
        for old, new in self._renamed.get(kind, {}).items():
            if old in table:
                raise self.wrong(f"{where} {old}", f"is now {new}", f"{new} = {_as_given(table[old])}")
        self.check_keys(table, known, where)
        for name, one in known.items():
            if name not in table and _is_required(one):
                example = '["..."]' if get_origin(hints[name]) is tuple else '"..."'
                raise self.wrong(f"{where} {name}", "is missing", f"{name} = {example}")
        values = {name: self._value(value, hints[name], f"{where} {name}") for name, value in table.items()}
        try:
            return kind(**values)
        except UsageError as error:
            raise UsageError(
                f"{self.path}: {where}: {error.found}", expected=error.expected, hint=error.hint
            ) from error

    def check_keys(self, table: Table, known: Iterable[str], where: str) -> None:
        """Raise UsageError for a key that nobody knows, with the nearest."""
        names = list(known)
        for key in table:
            if key not in names:
                raise self.wrong(
                    f"{where} {key}".strip(),
                    f"is not known; known are {', '.join(names)}",
                    nearest(key, names) or "remove the line",
                )

    def wrong(self, where: str, what: str, hint: str, expected: str = "") -> UsageError:
        """The error about a place in the file."""
        return UsageError(f"{self.path}: {where} {what}", expected=expected, hint=hint)

    def _value(self, value: object, kind: Any, where: str) -> Any:
        if type(value) is int and not -_LARGEST <= value < _LARGEST:
            raise self.wrong(where, "has more than 64 bits", "write a smaller number", "a number that TOML can have")
        origin, args = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            return self._value(value, next(one for one in args if one is not type(None)), where)
        if origin is Literal:
            if value not in args:
                near = difflib.get_close_matches(str(value), args, n=1)
                raise self.wrong(where, f"is {value!r}", (near or args)[0], " or ".join(map(str, args)))
            return value
        if origin is tuple:
            if not isinstance(value, list):
                raise self.wrong(where, f"is {value!r}", '["...", "..."]', "a list")
            numbered = ((f"{where} {n}:" if is_dataclass(args[0]) else where, one) for n, one in enumerate(value, 1))
            return tuple(self._value(one, args[0], place) for place, one in numbered)
        if isinstance(kind, type) and is_dataclass(kind):
            return self.section(kind, value, where)
        if kind is float and type(value) is int:
            return float(value)
        if kind is Path and isinstance(value, str) and value:
            return self._path(value, where)
        if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
            raise self.wrong(where, f"is {value!r}", f"write {_KINDS[kind]}", _KINDS[kind])
        return value

    def _path(self, text: str, where: str) -> Path:
        """Absolute, but not resolved: a link that is changed later keeps its meaning."""
        try:
            path = Path(text).expanduser()
        except RuntimeError as error:  # nobody has that name
            raise self.wrong(where, f"is {text!r}: {error}", "write the whole path", "a path") from error
        if "\0" in text:
            raise self.wrong(where, f"is {text!r}", "write the path without NUL", "a path")
        return self.path.parent.absolute() / path


def keys_of(section: Any) -> list[Field[Any]]:
    """The fields of a section, or of its class, that are keys of the file."""
    return [one for one in fields(section) if one.metadata.get("key", True)]


def _is_required(one: Field[Any]) -> bool:
    return one.default is MISSING and one.default_factory is MISSING


def _as_given(value: object) -> str:
    """A value of a TOML file, as far as a hint repeats it."""
    return as_toml(value) if isinstance(value, str | int | float) else "..."


def section_lines(section: Any) -> list[str]:
    """A section as lines of TOML, without its header; a value that is None has no line."""
    values = {one.name: getattr(section, one.name) for one in keys_of(section)}
    return [f"{name} = {as_toml(value)}" for name, value in values.items() if value is not None]


def as_toml(value: object) -> str:
    """A text, number, truth, path, section or list of these as TOML writes it, in one line.

    Raises UsageError for what is no Unicode.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(as_toml(one) for one in value)}]"
    if is_dataclass(value):
        return f"{{ {', '.join(section_lines(value))} }}"
    text = str(value)
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        # How Python keeps the bytes of a path that is not UTF-8; TOML has no way to write them.
        raise UsageError(f"{text!r} is no UTF-8", expected="text in UTF-8", hint="rename the file or its folder")
    # JSON's strings are TOML's, but for the delete character, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
