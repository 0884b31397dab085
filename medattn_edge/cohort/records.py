"""A case's record: one JSON file beside its results, by which a run that was ended knows what is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from medattn_edge.artifact import sha256

KIND: Final = "medattn-edge case"


def read_record(path: Path) -> dict[str, Any] | None:
    """A record; None where there is none, or a file that is none of ours."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    good = (
        isinstance(value, dict)
        and value.get("kind") == KIND
        and isinstance(value.get("fingerprint"), dict)
        and isinstance(value.get("labels"), list)
        and isinstance(value.get("files"), dict)
        and all(_is_plain(name) and isinstance(digest, str) for name, digest in value["files"].items())
    )
    return value if good else None


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """A record; floats that are not finite raise ValueError."""
    path.write_text(record_text(value), encoding="utf-8")


def record_text(value: Mapping[str, Any]) -> str:
    """What a record's file holds; floats that are not finite raise ValueError."""
    return json.dumps({"kind": KIND, **value}, indent=2, allow_nan=False) + "\n"


def is_whole(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether every file of a record is in a folder, as it was written."""
    try:
        return all(sha256(folder / name) == digest for name, digest in record["files"].items())
    except OSError:
        return False


def is_ours(path: Path, record: Mapping[str, Any] | None) -> bool:
    """Whether a file is as a record says it was written."""
    digest = None if record is None else record["files"].get(path.name)
    try:
        return digest is not None and sha256(path) == digest
    except OSError:
        return False


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name and name not in ("", ".", "..")
