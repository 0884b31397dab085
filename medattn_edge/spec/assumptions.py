"""Assumptions: which facts of a spec nobody gave, and what stands in their place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from medattn_edge.spec.model import ModelSpec

# Field of a ModelSpec -> the option that gives it. What is not here follows from the weights (C, K, stride, config).
SPEC_OPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "orientation": "--orientation",
        "axes": "--axes",
        "spacing": "--spacing",
        "intensity": "--intensity",
        "labels": "--labels",
        "activation": "--activation",
        "region_order": "--region-order",
        "cleanup": "--after",
        "mirror": "--mirror",
        "modality": "--modality",
        "body_part": "--body-part",
        "channels": "--channels",
        "patch": "--patch",
    }
)
# First words of labels that stand for what is none of the structures.
_BACKGROUND: Final = frozenset({"background", "bg", "bkg", "0", "none", "other", "others", "void", "null"})


def assumed_values(spec: ModelSpec, assumed: Iterable[str]) -> dict[str, str]:
    """The value, in words, that stands for each fact that nobody gave, by its option.

    Args:
        spec: what is assumed and what is known.
        assumed: names of fields of it, as SPEC_OPTIONS has them.

    Returns:
        Option -> value, in the order of SPEC_OPTIONS. A region order is no assumption of a softmax network, nor are
        names of channels of one that has a single channel.
    """
    wanted = set(assumed)
    if not spec.overlapping:
        wanted.discard("region_order")
    if spec.in_channels == 1:
        wanted.discard("channels")
    return {option: _in_words(spec, name) for name, option in SPEC_OPTIONS.items() if name in wanted}


def is_background(label: str) -> bool:
    """Whether a name is one that people give to the background: background, bg, _background_, 0, none, void..."""
    return label.strip().strip("_<>()[]").replace("-", "").replace(" ", "").lower() in _BACKGROUND


def _in_words(spec: ModelSpec, name: str) -> str:
    value = getattr(spec, name)
    match name:
        case "orientation" if spec.dims == 2:
            return f"{value} ({spec.plane} slices)"
        case "spacing":
            return _times(value) if value else "as scanned"
        case "patch":
            return _times(value)
        case "labels":
            return ",".join(value)
        case "cleanup":
            return " ".join(map(str, value)) or "nothing"
        case "mirror":
            return value or "no axis"
        case "region_order":
            return ",".join(value) or "no label map"
        case "modality" | "body_part":
            return value or "any"
        case "channels":
            return ",".join(value) or f"{spec.in_channels} without names, in the order they are given"
        case _:
            return str(value)


def _times(sizes: tuple[float, ...]) -> str:
    return "x".join(f"{size:g}" for size in sizes)
