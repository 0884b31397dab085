"""Door: one way from an FP32 artifact to INT8. They differ in tools and in results; the gate decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Artifact
from medattn_edge.errors import MissingDependency, UsageError
from medattn_edge.precision.observe import Patches
from medattn_edge.precision.qdq_rules import ISAS, PROFILES
from medattn_edge.precision.statistics import Ranges
from medattn_edge.registry import records


@dataclass(frozen=True)
class Recipe:
    """How to quantise.

    profile: cpu (asymmetric activations, uint8 on x86) or tensorrt (symmetric INT8). isa: of the CPU that will run it:
    without VNNI products overflow unless weights have 7 bits; ARM wants signed activations. method: of the ranges.
    floating: names of FP32 nodes that stay floating point, beside the attention products and softmaxes.
    """

    profile: str
    isa: str = "x86-vnni"
    method: str = "minmax"
    floating: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for value, known, option in ((self.profile, PROFILES, "--profile"), (self.isa, ISAS, "--isa")):
            if value not in known:
                raise UsageError(
                    f"{option} {value}", expected=f"one of {', '.join(known)}", hint=f"{option} {known[0]}"
                )


@dataclass(frozen=True)
class Calibration:
    """What the activations looked like. patches: runs of the network's own batch. ranges: of every FP32 tensor."""

    patches: Sequence[Patches]
    ranges: Callable[[], Ranges]


@dataclass(frozen=True)
class Door:
    """The record (DOOR) of a file.

    suffixes: of what it writes. companions: suffixes of the files beside it. profiles: that it can follow. methods: of
    ranges that it knows. quantise: parent, its FP32 ModelProto, calibration, recipe, suffix -> path to write.
    """

    name: str
    suffixes: tuple[str, ...]
    profiles: tuple[str, ...]
    methods: tuple[str, ...]
    extra: str
    packages: tuple[str, ...]
    quantise: Callable[[Artifact, Any, Calibration, Recipe, Mapping[str, Path]], None]
    companions: tuple[str, ...] = ()
    default: bool = field(default=True)


def doors() -> dict[str, Door]:
    """Every door by name, installed or not."""
    return {record.name: record for record in records("medattn_edge.precision", "DOOR")}


def door_of(name: str, path: Path, recipe: Recipe) -> Door:
    """The door of a name, if it can write the file and follow the recipe; raises UsageError or MissingDependency."""
    known = doors()
    if name not in known:
        raise UsageError(
            f"the door {name!r} is not known", expected=f"one of {', '.join(known)}", hint="--door " + next(iter(known))
        )
    door = known[name]
    for value, can, option in (
        (Path(path).suffix.lower(), door.suffixes, "-o"),
        (recipe.profile, door.profiles, "--profile"),
        (recipe.method, door.methods, "--method"),
    ):
        if value not in can:
            raise UsageError(
                f"{option} {value or Path(path).name} through the door {name}",
                expected=f"{option} {' or '.join(can)}",
                hint="leave --door out, and the one that fits is taken",
            )
    missing = [package for package in door.packages if find_spec(package) is None]
    if missing:
        raise MissingDependency.of_extra(missing[0], door.extra)
    return door
