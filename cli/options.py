"""Option values that several commands read the same way."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medattn_edge.errors import UsageError

if TYPE_CHECKING:
    from medattn_edge.io import Scan


def parse_sizes(text: str) -> tuple[int, ...]:
    """Voxels: `256x256` or `96x96x96`; raises UsageError unless there are 2 or 3 whole numbers above 0."""
    parts = text.lower().split("x")
    if len(parts) not in (2, 3) or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(
            f"the size {text!r} cannot be read", expected="HxW or DxHxW in voxels", hint="256x256 or 96x96x96"
        )
    return tuple(map(int, parts))


def parse_spacing(text: str) -> tuple[float, ...]:
    """Millimetres: `0.7x0.7` or `5x0.7x0.7`, in volume order; raises UsageError unless they are 2 or 3, above 0."""
    try:
        sizes = tuple(map(float, text.lower().split("x")))
    except ValueError:
        sizes = ()
    if len(sizes) not in (2, 3) or not all(0 < size < math.inf for size in sizes):
        raise UsageError(
            f"the spacing {text!r} cannot be read", expected="YxX or ZxYxX in mm", hint="0.7x0.7 or 5x0.7x0.7"
        )
    return sizes


def parse_names(text: str) -> tuple[str, ...]:
    """Names between commas: `right_lung,left_lung`; none of an empty text."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Settings of a network: `width=16`, `align_corners=true`, `backbone=resnet18`.

    A value that is JSON is taken as such, any other as text. Raises UsageError for a pair without key or value, and for
    a key that comes twice.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals or not value:
            raise UsageError(f"the setting {pair!r} cannot be read", expected="KEY=VALUE", hint="--set width=16")
        if key in settings:
            raise UsageError(f"the setting {key} comes twice", expected="each key once", hint=f"--set {key}={value}")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    return settings


def scans_of(paths: Sequence[Path] | None, resample_to_first: bool) -> list[Scan]:
    """The scans that arguments mean; raises UsageError as `as_scan` does."""
    from medattn_edge.io import as_scan

    return [as_scan(path, resample_to_first=resample_to_first) for path in paths or ()]
