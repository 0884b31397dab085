"""Gather: artifacts, their reference and scans become evidence, from what the other rooms measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from medattn_edge.agreement import Thresholds
from medattn_edge.artifact import Artifact, sha256
from medattn_edge.errors import MedattnError, MissingDependency, UsageError
from medattn_edge.evaluation import Measurement, PlanSettings, TrueLabels, compare, measure
from medattn_edge.evidence.absences import absences
from medattn_edge.evidence.anonymity import CaseNames
from medattn_edge.evidence.cases import Cases
from medattn_edge.evidence.checks import agreement_check, deadline_check, timed_check
from medattn_edge.evidence.inside import look_inside
from medattn_edge.evidence.kept import KeptComparison, KeptMeasurement
from medattn_edge.evidence.recipes import layers_of, rejected_of
from medattn_edge.evidence.records import AttentionPair, Evidence, LayerFigure, RejectedCandidate
from medattn_edge.evidence.settings import ReportSettings
from medattn_edge.evidence.surroundings import environment_of
from medattn_edge.evidence.volumes import volume_agreements
from medattn_edge.inference.truth import LabelValues
from medattn_edge.io import Scan, as_scan
from medattn_edge.labels import Meaning
from medattn_edge.release.artifacts import describe

Progress = Callable[[str, int, int], None]  # what is going on, done, of how many
_NO_VALUES: LabelValues = {}
_AS_USUAL, _SETTINGS = Thresholds(), ReportSettings()
_PATCHES = 16  # of each scan: on a few, one voxel of a small label decides about a gate that the scans hold
_PACKAGES = {"scipy": "scipy", "PIL": "pillow", "jinja2": "jinja2", "matplotlib": "matplotlib"}


def gather(  # noqa: PLR0913 - each is one thing that a report is made of
    reference: Path | str,
    artifacts: Sequence[Path | str],
    scans: Sequence[Path | str | Scan],
    *,
    labels: Sequence[Path | str] = (),
    label_values: LabelValues = _NO_VALUES,
    thresholds: Thresholds = _AS_USUAL,
    deadline_ms: float | None = None,
    candidates: Sequence[RejectedCandidate] = (),
    measured: Measurement | KeptMeasurement | None = None,
    compared: KeptComparison | None = None,
    progress: Progress | None = None,
    layers: Sequence[LayerFigure] = (),
    attention: Sequence[AttentionPair] = (),
    settings: ReportSettings = _SETTINGS,
) -> Evidence:
    """Compare artifacts with their reference on scans, time them, and keep what an auditor asks for.

    Nothing that identifies a patient is kept unless `settings.identify`: scans are `case 1`, `case 2`, and every name
    of theirs is replaced in what other rooms say. Pictures show the voxels of the scan.

    Args:
        reference: the checkpoint, or any other source that `export` takes.
        artifacts: what was made of it.
        scans: each as `evaluation.compare` takes it.
        labels: true labels, one file for each scan.
        label_values: a label's name -> its values in these files, where they are not the network's own.
        thresholds: more than the gate that an artifact carries.
        deadline_ms: of one run of the network; None to ask none.
        candidates: those that lost, beside the ones that the artifacts' manifests tell of.
        measured: the measurement, where there is one; None to measure here.
        compared: the comparison of these artifacts on these scans, where there is one: its rows have the thresholds
            that they were held to; None to compare here.
        progress: called with what is going on, how much of it is done, and of how much.
        layers: SQNR by layer, beside what the manifests tell of and what the settings ask for.
        attention: maps of the eager network beside an artifact's, likewise.
        settings: how it is done.

    Raises:
        MissingDependency: a package of the extra `report` is missing; said before anything is run.
        UsageError: two artifacts of one file name, a deadline that is none; else as `evaluation.compare`.
        IntegrityError: an artifact or the voxels of a scan are others than those of `compared`.
        MedattnError: as `evaluation.compare` does: no evidence is made of what cannot be judged.
    """
    reference, paths = Path(reference), [Path(path) for path in artifacts]
    _check(paths, deadline_ms)
    found, files = [as_scan(scan) for scan in scans], [Path(label) for label in labels]
    names = CaseNames.of_files(found, files, identify=settings.identify)
    cases, report = Cases(names, settings.pictures), progress or (lambda what, done, total: None)
    if compared is None:
        truth = TrueLabels(files, label_values, thresholds.min_true_dice_share, thresholds.max_true_dice_share)
        comparison = _compared((reference, paths, found), truth, thresholds, (cases, names), settings, report)
    else:
        compared = compared.of(paths, found, files)
        report("reading what was compared", 0, 1)
        compared.show(cases, paths, found, Artifact.read(paths[0]).spec)
        comparison = _Compared(compared.rows, compared.notes, compared.left_out)
    if measured is None:
        measured = _timed(reference, paths, found, deadline_ms, settings, report)
    timing = measured if isinstance(measured, KeptMeasurement) else KeptMeasurement.of(measured)
    report("drawing", 0, 1)
    evidence = _evidence((reference, paths), (comparison, timing, deadline_ms), cases, names, settings)
    inside = look_inside(reference, paths, found, evidence.cases, settings, report)
    given = (*layers, *inside.layers)
    evidence = replace(
        evidence,
        layers=(*(replace(one, measured=names.cleaned(one.measured)) for one in given), *evidence.layers),
        attention=tuple(replace(one, title=names.cleaned(one.title)) for one in (*attention, *inside.attention)),
        notes=tuple(dict.fromkeys((*evidence.notes, *names.cleaned(inside.notes)))),
        candidates=(*(_nameless(one, names) for one in candidates), *evidence.candidates),
    )
    left_out, untimed = names.cleaned(dict(comparison.left_out)), names.cleaned(timing.reason)
    unseen = [replace(one, reason=names.cleaned(one.reason)) for one in inside.missing]
    missing = absences(evidence, left_out, untimed, labelled=bool(files), inside=unseen)
    return replace(evidence, not_measured=missing)


class _Compared(NamedTuple):
    """The rows of a comparison, its notes, and runtime -> why it was not run."""

    rows: Sequence[Mapping[str, Any]]
    notes: Sequence[str]
    left_out: Mapping[str, str]


def check_packages() -> None:
    """Raise MissingDependency where a report cannot be drawn on this host."""
    for module, package in _PACKAGES.items():
        if find_spec(module) is None:
            raise MissingDependency.of_extra(package, "report")


def _check(paths: Sequence[Path], deadline_ms: float | None) -> None:
    """What stands against it is said before the work."""
    check_packages()
    if deadline_ms is not None and not 0 < deadline_ms < math.inf:
        raise UsageError(f"a deadline of {deadline_ms} ms", expected="more than 0", hint="--deadline-ms 50")
    twice = next((path for index, path in enumerate(paths) if path.name in {one.name for one in paths[:index]}), None)
    if twice is not None:
        raise UsageError(
            f"two artifacts of the name {twice.name}",
            expected="names that differ: they are all that the report tells them by",
            hint=f"make one of them again with -o ANOTHER{twice.suffix}",
        )


def _timed(
    reference: Path,
    paths: Sequence[Path],
    scans: Sequence[Scan],
    deadline_ms: float | None,
    settings: ReportSettings,
    report: Progress,
) -> KeptMeasurement:
    """The measurement, or why there is none: what cannot be timed beside the others is said, and not left silent."""
    if settings.timing is None:
        return KeptMeasurement(reason="it was not asked for (--no-timing)")
    compared = settings.comparison
    batch = Artifact.read(paths[0]).manifest.batch or settings.timing.batch
    timing = replace(settings.timing, deadline_ms=deadline_ms, threads=compared.threads, batch=batch)
    chosen = PlanSettings(settings.runtimes, compared.device, patches=_PATCHES, source=compared.source)
    try:
        found = measure(paths, reference, scans, chosen=chosen, settings=timing, progress=report)
        return KeptMeasurement.of(found)
    except MedattnError as error:
        return KeptMeasurement(reason=error.message)


def _compared(
    files: tuple[Path, Sequence[Path], Sequence[Scan]],
    truth: TrueLabels,
    thresholds: Thresholds,
    seen_by: tuple[Cases, CaseNames],
    settings: ReportSettings,
    report: Progress,
) -> _Compared:
    """files: the reference, the artifacts, the scans. seen_by: the observer, and what scans are called."""
    (reference, paths, scans), (cases, names) = files, seen_by
    found = compare(
        reference,
        paths,
        scans,
        labels=truth,
        thresholds=thresholds,
        runtimes=settings.runtimes,
        settings=settings.comparison,
        progress=lambda name, done, total: report(f"comparing on {names.cleaned(name)}", done, total),
        observer=cases,
    )
    return _Compared(found.to_json()["candidates"], found.notes, found.left_out)


def _evidence(
    files: tuple[Path, Sequence[Path]],
    outcomes: tuple[_Compared, KeptMeasurement, float | None],
    cases: Cases,
    names: CaseNames,
    settings: ReportSettings,
) -> Evidence:
    """files: the reference, the artifacts. outcomes: of the comparison, of the measurement, and the deadline."""
    (reference, paths), (comparison, timing, deadline_ms) = files, outcomes
    artifacts = [Artifact.read(path) for path in paths]
    by_name = {path.name: path for path in paths}  # as the cases know them, wherever the comparison was made
    rows = [{**row, "artifact": by_name[Path(row["artifact"]).name]} for row in comparison.rows]
    runs, figures = [_run(row, names) for row in rows], cases.figures(rows)
    latency = None if timing.reason else names.cleaned(_latency(timing, files, deadline_ms))
    timed = None if latency is None else latency["rows"]
    checks = [agreement_check(runs, figures), *([] if timed is None else [timed_check(timed)])]
    if deadline_ms is not None:
        checks.append(deadline_check([path.name for path in paths], timed, deadline_ms))
    notes = [*comparison.notes, *timing.notes]
    return Evidence(
        sentence=_sentence(artifacts, reference, len(figures)),
        checks=tuple(checks),
        reference={"name": reference.name, "sha256": _digest(reference, artifacts)},
        artifacts=_described(artifacts),
        runs=tuple(runs),
        environment=environment_of(timing, settings.comparison.threads),
        cases=figures,
        volumes=volume_agreements(figures),
        layers=layers_of(artifacts),
        latency=latency,
        overlays=cases.overlays(),
        candidates=rejected_of(artifacts),
        notes=tuple(dict.fromkeys(names.cleaned(notes))),
    )


def _nameless(one: RejectedCandidate, names: CaseNames) -> RejectedCandidate:
    """What callers say of a candidate without the names of scans."""
    figures = names.cleaned(dict(one.figures))
    return replace(one, name=names.cleaned(one.name), reason=names.cleaned(one.reason), figures=figures)


def _described(artifacts: Sequence[Artifact]) -> dict[str, Mapping[str, Any]]:
    """What a release would say of them; its word for an ancestor that is not among them is not one for a report."""
    found: dict[str, Mapping[str, Any]] = {**describe(artifacts)}
    for values in found.values():
        for step in values["lineage"]:
            if step["file"] is None and step["made"] != "checkpoint":
                step["made"] = "not among the artifacts of this report"
    return found


def _run(row: Mapping[str, Any], names: CaseNames) -> dict[str, Any]:
    """A row of a comparison without its cases and its folder."""
    kept = {key: row[key] for key in ("backend", "verdict", "thresholds", "gate", "carried_gate")}
    return {"artifact": Path(row["artifact"]).name, **kept, "failures": names.cleaned(row["failures"])}


def _latency(timing: KeptMeasurement, files: tuple[Path, Sequence[Path]], deadline_ms: float | None) -> dict[str, Any]:
    """The rows of the reference and of the artifacts, with their samples; others belong to candidates that lost."""
    wanted = {files[0].name, *(path.name for path in files[1])}
    rows = [row for row in timing.beside(deadline_ms) if row["artifact"] in wanted]
    return {"deadline_ms": deadline_ms, "rows": rows, "left_out": dict(timing.left_out)}


def _digest(reference: Path, artifacts: Sequence[Artifact]) -> str:
    """The SHA-256 of the reference; of a folder that of what the artifacts were made from."""
    return sha256(reference) if reference.is_file() else artifacts[0].manifest.lineage[0]


def _sentence(artifacts: Sequence[Artifact], reference: Path, scans: int) -> str:
    spec, kinds = artifacts[0].spec, ", ".join(dict.fromkeys(one.manifest.precision.upper() for one in artifacts))
    finds = ", ".join(Meaning.of(spec).structures)
    files = "1 artifact" if len(artifacts) == 1 else f"{len(artifacts)} artifacts"
    on = "1 scan" if scans == 1 else f"{scans} scans"
    return (
        f"How near {files} ({kinds}) of the network {spec.network}, which finds {finds}, come to the reference "
        f"{reference.name} on {on}, and how fast they are on the host below."
    )
