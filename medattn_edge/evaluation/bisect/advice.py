"""Advice: the command that may help, and whether it does: the same file made once more in another way."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medattn_edge.agreement import Agreement
from medattn_edge.artifact import Artifact
from medattn_edge.errors import MedattnError, quoted
from medattn_edge.evaluation.bisect.bisection import Bisection
from medattn_edge.evaluation.bisect.figures import LayerFigures
from medattn_edge.evaluation.bisect.whole import run_whole
from medattn_edge.host import hardware
from medattn_edge.io.channels import AnyScan
from medattn_edge.precision import CalibrationSettings, calibrate, fp16
from medattn_edge.precision.cache import NO_CACHE
from medattn_edge.precision.quantizers.quantizer import quantizers

_MODULES = 3  # that one command keeps in floating point
_CLIPPED = 1e-3


@dataclass(frozen=True)
class Advice:
    """One thing to do.

    Attributes:
        reason: why.
        command: to type.
        changes: settings of a calibration by name, or `precision`: `fp16`; None for what cannot be tried here.
    """

    reason: str
    command: str
    changes: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"reason": self.reason, "command": self.command}


@dataclass(frozen=True)
class Attempt:
    """What came of an advice.

    Attributes:
        advice: that was tried.
        before: the agreement of the candidate with its reference.
        after: that of the file made anew, in the same runtime on the same patches; None where there is none.
        failure: why there is none.
    """

    advice: Advice
    before: Agreement | None
    after: Agreement | None
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        before, after = (None if one is None else one.to_json() for one in (self.before, self.after))
        return {**self.advice.to_json(), "before": before, "after": after, "failure": self.failure}


@dataclass(frozen=True)
class _Words:
    """What commands are made of."""

    parent: str
    candidate: Path
    scan: str
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def calibrate(self, **options: Any) -> str:
        chosen = {"profile": self.recipe.get("profile", "cpu"), **options}
        words = [f"--{key} {quoted(str(one))}" for key, values in chosen.items() for one in _listed(values)]
        return " ".join(["medattn-edge calibrate", self.parent, self.scan, "-o", self.output, *words])

    @property
    def output(self) -> str:
        return quoted(self.candidate.with_name(f"{self.candidate.stem}-again{self.candidate.suffix}"))


def _listed(values: Any) -> Sequence[Any]:
    return values if isinstance(values, list | tuple) else [values]


def advise(bisection: Bisection, scan: str) -> tuple[Advice, ...]:
    """What to do, the most promising first; nothing where nothing leaves the reference.

    Args:
        bisection: the outcome.
        scan: as it was typed.
    """
    if bisection.passed:
        return ()
    manifest = bisection.candidate.manifest
    exported = bisection.parent.exported
    parent = "NET.onnx" if exported else quoted(bisection.reference)
    words = _Words(parent, bisection.candidate.path, quoted(scan), manifest.recipe)
    found = list(_of_runtime(bisection, words))
    checkpoint = quoted(bisection.reference) if exported else "CHECKPOINT"
    if manifest.precision == "int8":
        found += _of_int8(bisection, words)
    elif manifest.precision == "fp16":
        command = f"medattn-edge export {checkpoint} -o {words.output} --precision fp16 --scan {words.scan}"
        reason = "what comes near the end of half precision on this scan then stays FP32"
        found.append(Advice(reason, command, {"precision": "fp16"}))
    elif not found:
        command = f"medattn-edge export {checkpoint} -o {words.output} --scan {words.scan}"
        found.append(Advice("an FP32 file that is not what its reference computes has to be made again", command))
    return tuple(found)


def _of_runtime(bisection: Bisection, words: _Words) -> list[Advice]:
    if not any(one.of_runtime or one.failure for one in bisection.leaving) and bisection.together is None:
        return []
    names = quoted(bisection.reference), quoted(bisection.candidate.path)
    alone = bisection.candidate.path.suffix.lower() != ".onnx"
    command = " ".join(["medattn-edge compare", *names, words.scan, *([] if alone else ["--runtime all"])])
    name = bisection.runtime.name
    return [Advice(f"{name} computes another graph than is written: see who does not, and deploy it there", command)]


def _of_int8(bisection: Bisection, words: _Words) -> list[Advice]:
    recipe, found = words.recipe, list[Advice]()
    leaving = bisection.leaving
    clips = any(one.clipped > _CLIPPED for one in leaving)
    method, own = str(recipe.get("method", "")), str(recipe.get("quantizer", ""))
    if clips and method not in ("", "minmax"):
        reason = f"--method {method} clips values that are there on this scan"
        found.append(Advice(reason, words.calibrate(method="minmax"), {"method": "minmax"}))
    modules = list(dict.fromkeys(one.named.module for one in _by_effect(leaving) if one.named.module))[:_MODULES]
    if modules and not all(one.of_runtime for one in leaving):
        reason = "the layers that leave stay in floating point"
        found.append(Advice(reason, words.calibrate(floating=modules), {"floating": tuple(modules)}))
    for name in _others(own, bisection.candidate.path.suffix.lower(), str(recipe.get("profile", "cpu"))):
        found.append(Advice("another quantizer", words.calibrate(quantizer=name), {"quantizer": name}))
    return found


def _by_effect(figures: Sequence[LayerFigures]) -> list[LayerFigures]:
    """Those that cost the logits most come first."""
    return sorted(figures, key=lambda one: one.local_db if one.logits_db is None else one.logits_db)


def _others(own: str, suffix: str, profile: str) -> list[str]:
    return [
        name
        for name, one in quantizers().items()
        if name != own and suffix in one.suffixes and profile in one.profiles and _follows(one.isas)
    ]


def _follows(isas: Sequence[str]) -> bool:
    return hardware.isa_class(hardware.cpu()) in isas


def attempt(bisection: Bisection, advice: Advice, scan: AnyScan, threads: int, timeout_s: float) -> Attempt:
    """Make the candidate once more as the advice says, in a temporary folder, and say how well it agrees.

    Calibrated on the scan alone and held to no gate: it shows what the advice does, and is no file to deploy.

    Args:
        bisection: the outcome, whose parent is still there.
        advice: with changes.
        scan: that was bisected on.
        threads: of the CPU.
        timeout_s: of opening, and of one run.
    """
    parent, runs = bisection.parent.artifact, list(bisection.runs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"tried{bisection.candidate.path.suffix.lower()}"
        try:
            made = _made(bisection, parent, path, dict(advice.changes or {}), scan, threads)
            outcome = run_whole(parent, made, bisection.runtime, runs, (), (threads, timeout_s))
        except MedattnError as error:
            return Attempt(advice, bisection.whole, None, error.message)
    return Attempt(advice, bisection.whole, outcome.agreement, outcome.failure)


def _made(
    bisection: Bisection, parent: Artifact, path: Path, changes: dict[str, Any], scan: AnyScan, threads: int
) -> Artifact:
    if changes.get("precision") == "fp16":
        from medattn_edge.exporters import random_patches  # torch stands above it, and only noise is wanted

        real = {bisection.scan: bisection.patches}
        return fp16.convert(parent, path, real, random_patches(parent.spec, 2))
    recipe = bisection.candidate.manifest.recipe
    told = {key: str(recipe[key]) for key in ("method", "quantizer") if recipe.get(key)}
    wanted = {"profile": str(recipe.get("profile", "cpu")), "isa": str(recipe.get("isa_class", "")), **told, **changes}
    settings = CalibrationSettings(**wanted, gate=0.0, max_trials=1, threads=threads)
    return calibrate(parent, [scan], path, settings=settings, cache=NO_CACHE)
