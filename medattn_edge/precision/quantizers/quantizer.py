"""Door: one way from an FP32 artifact to INT8. They differ in tools and in results; the gate decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Artifact
from medattn_edge.errors import MissingDependency, UsageError
from medattn_edge.precision.lint.rules import ISAS, PROFILES
from medattn_edge.precision.observe import Patches
from medattn_edge.precision.statistics import Ranges
from medattn_edge.registry import records


@dataclass(frozen=True)
class Recipe:
    """How to quantise.

    profile: cpu (asymmetric activations, uint8 on x86) or tensorrt (symmetric INT8). isa_class: of the CPU:
    without VNNI products overflow unless weights have 7 bits; ARM wants signed activations. method: of the ranges.
    floating: names of FP32 nodes that stay floating point, beside the attention products and softmaxes.
    """

    profile: str
    isa_class: str = "x86-vnni"
    method: str = "minmax"
    floating: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for value, known, option in ((self.profile, PROFILES, "--profile"), (self.isa_class, ISAS, "--isa")):
            if value not in known:
                raise UsageError(
                    f"{option} {value}", expected=f"one of {', '.join(known)}", hint=f"{option} {known[0]}"
                )


@dataclass(frozen=True)
class Calibration:
    """What the activations look like.

    patches: runs of the network's own batch. digest: a SHA-256 that says which. ranges: of every FP32 tensor, measured
    when somebody asks.
    """

    patches: Sequence[Patches]
    digest: str
    ranges: Callable[[], Ranges]


@dataclass(frozen=True)
class Door:
    """The record (DOOR) of a file.

    suffixes: of what it writes. companions: suffixes of the files beside it. profiles, isas: that it can follow.
    methods: of ranges that it knows. quantise: parent, its ModelProto, calibration, recipe, suffix -> path to write.
    default: of those that write a suffix, the one that is tried first.
    """

    name: str
    suffixes: tuple[str, ...]
    profiles: tuple[str, ...]
    isas: tuple[str, ...]
    methods: tuple[str, ...]
    extra: str
    packages: tuple[str, ...]
    quantise: Callable[[Artifact, Any, Calibration, Recipe, Mapping[str, Path]], None]
    companions: tuple[str, ...] = ()
    default: bool = True


def doors() -> dict[str, Door]:
    """Every door by name, installed or not."""
    return {record.name: record for record in records("medattn_edge.precision.quantizers", "DOOR")}


def fitting_doors(path: Path, recipe: Recipe, name: str = "") -> tuple[Door, ...]:
    """The doors that can write a file and follow a recipe; with a name, that one alone.

    Raises UsageError when the name is not known or nothing fits, MissingDependency when what fits is not installed.
    """
    known = doors()
    if name and name not in known:
        raise UsageError(
            f"the door {name!r} is not known", expected=f"one of {', '.join(known)}", hint="--door " + next(iter(known))
        )
    asked = [known[name]] if name else sorted(known.values(), key=lambda door: not door.default)
    for value, option, can in (
        (Path(path).suffix.lower(), "-o NAME", "suffixes"),
        (recipe.profile, "--profile ", "profiles"),
        (recipe.isa_class, "--isa ", "isas"),
        (recipe.method, "--method ", "methods"),
    ):
        offered = list(dict.fromkeys(one for door in asked for one in getattr(door, can)))
        asked = [door for door in asked if value in getattr(door, can)]
        if not asked:
            raise UsageError(
                f"{option}{value} cannot be calibrated{f' through the door {name}' if name else ' that way'}",
                expected=f"{option}{' or '.join(offered)}",
                hint=f"{option}{offered[0]}" + (", or leave --door out" if name else ""),
            )
    missing = {door.name: [one for one in door.packages if find_spec(one) is None] for door in asked}
    here = tuple(door for door in asked if not missing[door.name])
    if not here:
        raise MissingDependency.of_extra(missing[asked[0].name][0], asked[0].extra)
    return here
