"""Quantizer: one way from an FP32 artifact to INT8. They differ in tools and in results; the gate decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Artifact
from medattn_edge.backends.session import Patches
from medattn_edge.errors import MissingDependency, UsageError
from medattn_edge.nearby import nearest
from medattn_edge.precision.lint.rules import ISAS, PROFILES
from medattn_edge.precision.statistics import Ranges
from medattn_edge.registry import records


@dataclass(frozen=True)
class QuantizationRecipe:
    """How to quantise.

    Attributes:
        profile: cpu (asymmetric activations, uint8 on x86) or tensorrt (symmetric INT8).
        isa_class: of the CPU that will run it: without VNNI products overflow unless weights have 7 bits; ARM wants
            signed activations.
        method: of the ranges.
        floating: names of FP32 nodes that stay floating point, beside the attention products and softmaxes.

    Raises:
        UsageError: a profile or an isa that is not known.
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

    Attributes:
        patches: runs of the network's own batch.
        digest: a SHA-256 that says which.
        ranges: of every FP32 tensor; measured when they are first called for.
    """

    patches: Sequence[Patches]
    digest: str
    ranges: Callable[[], Ranges]


@dataclass(frozen=True)
class Quantizer:
    """The record (QUANTIZER) of a file.

    Attributes:
        name: for --quantizer and for manifests.
        suffixes: of what it writes.
        profiles: that it can follow.
        isas: that it can follow.
        methods: of ranges that it knows.
        extra: of pyproject.toml, that installs the packages.
        packages: import names.
        quantise: parent, its ModelProto, calibration, recipe, suffix -> path to write.
        companions: suffixes of the files beside it.
        default: of those that write a suffix, whether it is tried first.
    """

    name: str
    suffixes: tuple[str, ...]
    profiles: tuple[str, ...]
    isas: tuple[str, ...]
    methods: tuple[str, ...]
    extra: str
    packages: tuple[str, ...]
    quantise: Callable[[Artifact, Any, Calibration, QuantizationRecipe, Mapping[str, Path]], None]
    companions: tuple[str, ...] = ()
    default: bool = True

    @property
    def missing(self) -> tuple[str, ...]:
        """Its packages that are not installed."""
        return tuple(one for one in self.packages if find_spec(one) is None)

    @property
    def install_hint(self) -> str:
        """The line that installs what is missing; empty where nothing is."""
        return MissingDependency.of_extra(self.missing[0], self.extra).hint if self.missing else ""


def quantizers() -> dict[str, Quantizer]:
    """Every quantizer by name, installed or not."""
    return {record.name: record for record in records("medattn_edge.precision.quantizers", "QUANTIZER")}


def fitting_quantizers(path: Path, recipe: QuantizationRecipe, name: str = "") -> tuple[Quantizer, ...]:
    """The quantizers that can write a file and follow a recipe; with a name, that one only.

    Args:
        path: to write.
        recipe: to follow.
        name: of the only one to take; empty for all.

    Raises:
        UsageError: the name is not known, or nothing fits.
        MissingDependency: what fits is not installed.
    """
    fitting = _fitting(path, recipe, name)
    installed = tuple(quantizer for quantizer in fitting if not quantizer.missing)
    if not installed:
        raise MissingDependency.of_extra(fitting[0].missing[0], fitting[0].extra)
    return installed


def absent_quantizers(path: Path, recipe: QuantizationRecipe, name: str = "") -> tuple[Quantizer, ...]:
    """The quantizers that would fit as well, and are not installed; arguments and errors as of `fitting_quantizers`."""
    return tuple(quantizer for quantizer in _fitting(path, recipe, name) if quantizer.missing)


def _fitting(path: Path, recipe: QuantizationRecipe, name: str) -> list[Quantizer]:
    """Those that can write the file and follow the recipe, installed or not; the default ones first."""
    known = quantizers()
    if name and name not in known:
        raise UsageError(
            f"the quantizer {name!r} is not known",
            expected=f"one of {', '.join(known)}",
            hint=f"--quantizer {nearest(name, known) or next(iter(known))}",
        )
    fitting = [known[name]] if name else sorted(known.values(), key=lambda quantizer: not quantizer.default)
    for value, option, can in (
        (Path(path).suffix.lower(), "-o NAME", "suffixes"),
        (recipe.profile, "--profile ", "profiles"),
        (recipe.isa_class, "--isa ", "isas"),
        (recipe.method, "--method ", "methods"),
    ):
        offered = list(dict.fromkeys(one for quantizer in fitting for one in getattr(quantizer, can)))
        fitting = [quantizer for quantizer in fitting if value in getattr(quantizer, can)]
        if not fitting:
            raise UsageError(
                f"{option}{value} cannot be calibrated{f' through the quantizer {name}' if name else ' that way'}",
                expected=f"{option}{' or '.join(offered)}",
                hint=f"{option}{offered[0]}" + (", or leave --quantizer out" if name else ""),
            )
    return fitting
