"""Measurement: artifacts and the checkpoint that they were made from, from files to a report; what `bench` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medattn_edge.agreement import Thresholds
from medattn_edge.artifact import Artifact, sha256
from medattn_edge.backends import AUTO, backend_of
from medattn_edge.backends.runtimes import ALL, Runtime, choose
from medattn_edge.backends.session import Patches
from medattn_edge.errors import UsageError, quoted
from medattn_edge.evaluation.candidate import BenchCandidate, BenchSettings, computed_as, gate_of
from medattn_edge.evaluation.candidate_runs import check_files
from medattn_edge.evaluation.held_gate import held_gate
from medattn_edge.evaluation.measure import Progress, measure_candidates
from medattn_edge.evaluation.report import BenchReport
from medattn_edge.evaluation.source import read_source
from medattn_edge.inference.real_patches import real_patches
from medattn_edge.io.channels import AnyScan, as_scan
from medattn_edge.nearby import missing
from medattn_edge.spec import ModelSpec

if TYPE_CHECKING:
    from medattn_edge.foreign import SourceOptions, SourceReference


@dataclass(frozen=True)
class Measurement:
    """The outcome of a plan.

    Attributes:
        reference: the file that all were held to.
        samples: the names of the scans.
        report: a row for the reference and for every artifact in every runtime.
        left_out: runtime, or `artifact in runtime` -> why it is no row.
        notes: what a reader of the figures should know: the gate of every file, and what cannot be held.
    """

    reference: Path
    samples: tuple[str, ...]
    report: BenchReport
    left_out: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every row did."""
        return self.report.passed

    @property
    def declined(self) -> dict[str, str]:
        """`artifact in runtime` -> why its ratio was declined."""
        return self.report.declined

    def to_json(self) -> dict[str, Any]:
        """The document of `bench --json`."""
        report = {**self.report.to_json(), "left_out": dict(self.left_out)}
        head = {"reference": str(self.reference), "samples": list(self.samples), "notes": list(self.notes)}
        return {**head, **report}


@dataclass(frozen=True)
class MeasurementPlan:
    """What will be measured: checked, read, and not yet run.

    Attributes:
        reference: as a candidate.
        candidates: every artifact in every runtime chosen for it.
        samples: name of a scan -> real input float32 (n, C, *patch).
        settings: with a number of threads.
        left_out: runtime -> why it is not measured.
        notes: what a reader of the figures should know.
    """

    reference: BenchCandidate
    candidates: tuple[BenchCandidate, ...]
    samples: Mapping[str, Patches]
    settings: BenchSettings
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def run(self, progress: Progress | None = None) -> Measurement:
        """Judge and time them; raises as `measure_candidates` does."""
        report = measure_candidates(self.reference, self.candidates, self.samples, self.settings, progress)
        left_out = {**self.left_out, **report.left_out}
        return Measurement(self.reference.path, tuple(self.samples), report, left_out, self.notes)


@dataclass(frozen=True)
class PlanSettings:
    """What is measured, and what it must reach before it is timed.

    Attributes:
        runtimes: of .onnx artifacts: names, or `all`; empty for all there are for int8 and fp16, and the usual one for
            fp32.
        device: of the artifacts, auto (what each file is for), cpu or cuda:INDEX.
        patches: of real input from each scan.
        fp32_floors: limits of FP32 by their names in Thresholds, in place of the usual ones.
        reduced_floors: limits of what is stored in less than FP32, none looser than the gate that a file carries.
        source: how to read a reference that is no artifact; None where nothing need be said.
    """

    runtimes: Sequence[str] = ()
    device: str = AUTO
    patches: int = 4
    fp32_floors: Mapping[str, float] = field(default_factory=dict)
    reduced_floors: Mapping[str, float] = field(default_factory=dict)
    source: SourceOptions | None = None


_ON_NOISE = "on noise, where labels mean nothing, only finite logits"
_USUAL, _DEFAULTS = PlanSettings(), BenchSettings()


def measure(
    artifacts: Sequence[Path | str],
    reference: Path | str,
    scans: Sequence[AnyScan] = (),
    *,
    chosen: PlanSettings = _USUAL,
    settings: BenchSettings = _DEFAULTS,
    progress: Progress | None = None,
) -> Measurement:
    """Hold artifacts to their reference, and time them and it in turn, each in a process of its own.

    Args:
        artifacts: what was made of the reference.
        reference: the checkpoint (eager FP32), any other source that `export` takes, or an FP32 artifact where there
            is no torch.
        scans: real input to judge on, files or DICOM folders; none for the CT that slicerio ships.
        chosen: what is measured.
        settings: how it is timed.
        progress: called with what is going on, how much of it is done, and of how much.

    Raises:
        UsageError: for artifacts that cannot be measured beside each other, or were not made from the reference.
        InputError, IntegrityError, HostError: for files and runtimes that cannot be used.
        AgreementError: when the reference does not agree with itself.
    """
    return plan_measurement(artifacts, reference, scans, chosen=chosen, settings=settings).run(progress)


def plan_measurement(
    artifacts: Sequence[Path | str],
    reference: Path | str,
    scans: Sequence[AnyScan] = (),
    *,
    chosen: PlanSettings = _USUAL,
    settings: BenchSettings = _DEFAULTS,
) -> MeasurementPlan:
    """What `measure` would run, for those who want to announce it first; the arguments and errors are the same."""
    reference = Path(reference)
    files = _read([Path(path) for path in artifacts], reference, settings.batch, chosen.runtimes)
    spec, notes = files[0].spec, list[str]()
    source = read_source(reference, chosen.source, files[0].manifest, settings.batch)
    if source is None:
        for file in files:
            _check_made_from(file, reference, sha256(reference))
        first = _reference(reference, spec)
    else:
        for file in files:
            _check_made_from(file, reference, source.loaded.sha256)
        first = _of_source(reference, source, files[0], chosen.source, settings.batch)
        notes += source.notes
    if source is None and backend_of(reference).name != "eager":
        notes.append(f"the reference is {reference.name}, an artifact, and not the eager network")
    candidates, left_out = _candidates(files, chosen, notes)
    found = [as_scan(scan) for scan in scans]
    samples = real_patches(spec, found, max(chosen.patches, settings.batch))
    notes += [f"{scan.described(spec)}: {note}" for scan in found for note in scan.notes()]
    return MeasurementPlan(first, tuple(candidates), samples, settings.explicit(), left_out, tuple(notes))


def _read(paths: Sequence[Path], reference: Path, batch: int, runtimes: Sequence[str]) -> list[Artifact]:
    """The artifacts, when all of them take the same input."""
    if not reference.exists():
        raise missing(reference, "a checkpoint")
    if not paths:
        raise UsageError("no artifact", expected="at least one", hint="medattn-edge bench NET.onnx --reference NET.pth")
    check_files(paths, runtimes)
    artifacts = list[Artifact]()
    for path in paths:
        if backend_of(path).name == "eager":
            raise UsageError(
                f"{path.name} is a checkpoint",
                expected="artifacts, and the checkpoint as --reference",
                hint=f"medattn-edge export {quoted(path)} -o {quoted(path.stem + '.onnx')}",
            )
        artifacts.append(Artifact.read(path))
        _check_alike(artifacts[-1], artifacts[0], batch)
    return artifacts


def _check_made_from(artifact: Artifact, reference: Path, digest: str) -> None:
    if digest not in (*artifact.manifest.lineage, artifact.manifest.sha256):
        raise UsageError(
            f"{artifact.path.name} was not made from {reference.name}, but from a file with the SHA-256 "
            f"{artifact.manifest.lineage[0][:16]}...",
            expected="artifacts of one checkpoint, with that checkpoint as --reference",
            hint=f"medattn-edge export {quoted(reference)} -o NAME.onnx, or --reference THE_OTHER_CHECKPOINT",
        )


def _check_alike(one: Artifact, first: Artifact, batch: int) -> None:
    fixed = one.manifest.batch
    if fixed not in (None, batch):
        raise UsageError(
            f"{one.path.name} runs {fixed} patches at once, and {batch} are requested",
            expected="the batch that it was exported with",
            hint=f"--batch {fixed}",
        )
    if one.manifest.reference_spec != first.manifest.reference_spec:  # patches are timed, however windows overlap
        sizes = ["x".join(map(str, each.spec.patch)) for each in (first, one)]
        raise UsageError(
            f"{first.path.name} ({sizes[0]}) and {one.path.name} ({sizes[1]}) expect other input",
            expected="artifacts that were exported with the same settings",
            hint=f"medattn-edge bench {quoted(first.path)}, and {quoted(one.path)} by itself",
        )


def _reference(path: Path, spec: ModelSpec) -> BenchCandidate:
    """Under the spec that the artifacts were exported with: the checkpoint may say less, or another patch."""
    backend = backend_of(path).name
    runtime, gate = Runtime(backend, backend), gate_of("fp32", "cpu")
    if backend == "eager":
        return BenchCandidate(path.name, path, runtime, spec.network, "fp32", gate, _gflop(path, spec), spec=spec)
    manifest = Artifact.read(path).manifest
    if manifest.precision != "fp32":
        raise UsageError(
            f"{path.name} as a reference is {manifest.precision}",
            expected="an FP32 artifact, or the checkpoint",
            hint="--reference CHECKPOINT",
        )
    return BenchCandidate(path.name, path, runtime, spec.network, "fp32", gate, manifest.gflop)


def _of_source(
    path: Path, source: SourceReference, made: Artifact, options: SourceOptions | None, batch: int
) -> BenchCandidate:
    """A source in a process of its own, where it is read again."""
    return BenchCandidate(
        name=path.name,
        path=path,
        runtime=Runtime("source", "source"),
        network=made.spec.network,
        precision="fp32",
        gate=gate_of("fp32", "cpu"),
        gflop=source.gflop,
        opener="medattn_edge.foreign.reference:open_source",
        arguments={
            "options": {} if options is None else options.to_json(),
            "batch": batch,
            "lineage": [*made.manifest.lineage, made.manifest.sha256],
        },
        spec=made.spec,
    )


def _gflop(path: Path, spec: ModelSpec) -> float:
    from medattn_edge.models import checkpoint
    from medattn_edge.models.flops import gflop

    return gflop(checkpoint.load(path, config=spec.config).network, spec)


def _candidates(
    artifacts: Sequence[Artifact], chosen: PlanSettings, notes: list[str]
) -> tuple[list[BenchCandidate], dict[str, str]]:
    """Every artifact in every runtime chosen for it, and which runtimes are left out for which reason.

    notes: are added to, with the gate of every file in less than FP32.
    """
    candidates, left_out = list[BenchCandidate](), dict[str, str]()
    by_us = not chosen.runtimes or ALL in chosen.runtimes
    for artifact in artifacts:
        manifest = artifact.manifest
        runtimes, absent = choose(artifact.path, manifest.precision, chosen.runtimes, chosen.device)
        left_out |= absent
        exact = manifest.precision == "fp32"
        given = Thresholds(**(chosen.fp32_floors if exact else chosen.reduced_floors))
        held = held_gate(artifact.path, manifest, given, gate_of(manifest.precision, chosen.device), labelled=False)
        if not exact:
            notes += [f"gate of {artifact.path.name}: {held.text}; {_ON_NOISE}", *held.notes]
        candidates += [
            BenchCandidate(
                name=artifact.path.name,
                path=artifact.path,
                runtime=one,
                network=manifest.spec.network,
                precision=computed_as(manifest.precision, one),
                gate=held.thresholds,
                gflop=float(manifest.gflop),
                stored=manifest.precision,
                # ONNX Runtime names providers whose libraries are missing; nobody asked for this one by name.
                optional=by_us and bool(one.provider),
            )
            for one in runtimes
        ]
    return candidates, left_out
