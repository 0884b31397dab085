"""The JSON documents of such folders, read with every fault named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medattn_edge.errors import InputError, quoted
from medattn_edge.nearby import missing


def read_document(path: Path, what: str) -> dict[str, Any]:
    """A JSON object; raises InputError for a file that is missing, or no JSON object."""
    if not path.is_file():
        raise missing(path, what)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(
            f"{path} is not valid JSON: {error}", expected=what, hint=f"python -m json.tool {quoted(path)}"
        ) from error
    if not isinstance(document, dict):
        raise InputError(
            f"{path} holds a {type(document).__name__}",
            expected=f"an object: {what}",
            hint=f"cat {quoted(path)}",
        )
    return document


def entry(document: Any, path: Path, *names: str) -> Any:
    """document[names[0]][names[1]]...; raises InputError, naming the place, where one is missing."""
    place = document
    for depth, name in enumerate(names):
        if not isinstance(place, dict) or name not in place:
            known = ", ".join(map(str, place)) if isinstance(place, dict) else type(place).__name__
            raise InputError(
                f"{path.name} has no {'.'.join(names[: depth + 1])}",
                expected=f"it beside {known}",
                hint=f"python -m json.tool {quoted(path)}",
            )
        place = place[name]
    return place
