"""The configuration of a MONAI bundle, read without running any of it.

MONAI evaluates `$expressions` as Python and imports every `_target_`. Here references (`@id`) are followed and literals
(`$[1.5, 1.5, 2.0]`) are read; what would have to be run is refused where it is needed, and never looked at elsewhere.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medattn_edge.errors import InputError, quoted

_DEPTH = 32
_FLOAT32 = ("torch.float32", "torch.float", "np.float32", "numpy.float32")
_SPECIAL = ("_target_", "_disabled_", "_desc_", "_requires_", "_mode_")


@dataclass(frozen=True)
class Component:
    """One object that a configuration describes.

    Attributes:
        name: of its class, without the package.
        target: as the file has it.
        arguments: by name, not yet resolved.
        disabled: MONAI leaves it out.
    """

    name: str
    target: str
    arguments: Mapping[str, Any]
    disabled: bool = False

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.arguments.items())})"


class Configuration:
    """A bundle's configuration.

    Args:
        document: as JSON holds it.
        path: of its file, for errors.
    """

    def __init__(self, document: Mapping[str, Any], path: Path) -> None:
        self._document, self.path = document, path

    def section(self, *names: str) -> Any:
        """The first of the sections that is there, resolved at its top; raises InputError when none is."""
        for name in names:
            if name in self._document:
                return self.follow(self._document[name])
        raise InputError(
            f"{self.path.name} has no {names[0]}",
            expected=f"a section {' or '.join(names)} beside {', '.join(self._document)}",
            hint=f"python -m json.tool {quoted(self.path)}",
        )

    def has(self, name: str) -> bool:
        """Whether there is a section of this name."""
        return name in self._document

    def follow(self, value: Any) -> Any:
        """A value with the references and literals at its top resolved; raises InputError for what would be run."""
        for _ in range(_DEPTH):
            if not isinstance(value, str) or value[:1] not in "@$%" or value in ("@", "$", "%", ""):
                return value
            if value[0] == "$":
                inner = value[1:].strip()
                if not (inner.startswith("@") and _is_id(inner[1:])):
                    return self._literal(value)
                value = inner
            elif value[0] == "%":
                raise self._refused(value, "a macro")
            else:
                value = self._place(value)
        raise self._refused(str(value), "a reference to itself")

    def resolve(self, value: Any) -> Any:
        """`follow`, all the way down; raises InputError."""
        value = self.follow(value)
        if isinstance(value, Mapping):
            if "_target_" in value:
                raise self._refused(str(value["_target_"]), "an object where a plain value is needed:")
            return {key: self.resolve(item) for key, item in value.items()}
        return [self.resolve(item) for item in value] if isinstance(value, list | tuple) else value

    def component(self, value: Any) -> Component:
        """The object that a section describes; raises InputError for what is none of MONAI's."""
        value = self.follow(value)
        if not isinstance(value, Mapping) or not isinstance(value.get("_target_"), str):
            raise InputError(
                f"{self.path.name} has {value!r:.120} where an object is described",
                expected='{"_target_": NAME, ...}',
                hint=f"python -m json.tool {quoted(self.path)}",
            )
        target = self.follow(value["_target_"])
        if "." in target and not target.startswith("monai."):
            raise self._refused(target, "code of another package than MONAI:")
        if value.get("_mode_", "default") != "default":
            raise self._refused(str(value["_mode_"]), "the mode")
        arguments = {key: item for key, item in value.items() if key not in _SPECIAL}
        disabled = self.resolve(value.get("_disabled_", False)) in (True, "true", "True")
        return Component(target.rpartition(".")[2], target, arguments, disabled)

    def _place(self, reference: str) -> Any:
        place: Any = self._document
        for part in reference[1:].replace("::", "#").split("#"):
            place = self.follow(place) if place is not self._document else place
            try:
                place = place[int(part)] if isinstance(place, list) else place[part]
            except (LookupError, TypeError, ValueError):
                raise InputError(
                    f"{self.path.name} refers to {reference}, which it does not hold",
                    expected=f"one of {', '.join(self._document)}",
                    hint=f"python -m json.tool {quoted(self.path)}",
                ) from None
        return place

    def _literal(self, value: str) -> Any:
        if value[1:].strip() in _FLOAT32:
            return "float32"
        try:
            return ast.literal_eval(value[1:].strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise self._refused(value, "an expression, which would have to be run:") from None

    def _refused(self, value: str, what: str) -> InputError:
        return InputError(
            f"{self.path.name} has {what} {value!r:.200}",
            expected="plain values, references and classes of MONAI: nothing of a bundle is run",
            hint=f"write its value into a copy of {self.path.name}, or --network package.module:build for own code",
        )


def _is_id(text: str) -> bool:
    return bool(text) and all(part.isidentifier() or part.isdigit() for part in text.replace("::", "#").split("#"))
