"""Inside: the attention maps and the layers of artifacts, as `explain` and `bisect` have them, for a report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from medattn_edge.agreement import IDENTICAL_DB
from medattn_edge.errors import MedattnError
from medattn_edge.evidence.records import AttentionPair, Case, LayerFigure, NotMeasured
from medattn_edge.evidence.settings import ReportSettings
from medattn_edge.io import Scan

if TYPE_CHECKING:
    from medattn_edge.evaluation.attention import Explanation, MapAgreement
    from medattn_edge.evaluation.bisect import Bisection

Progress = Callable[[str, int, int], None]
_LOCAL: Final = "layer's own output, fed with the reference's values, in {}"


@dataclass
class Inside:
    """What was seen inside of artifacts.

    Attributes:
        attention: maps of the eager network beside the artifacts'.
        layers: SQNR by layer, the worst first.
        missing: what could not be looked at, and why.
        notes: what a reader of both should know.
    """

    attention: list[AttentionPair] = field(default_factory=list)
    layers: list[LayerFigure] = field(default_factory=list)
    missing: list[NotMeasured] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def look_inside(
    reference: Path,
    artifacts: Sequence[Path],
    scans: Sequence[Scan],
    cases: Sequence[Case],
    settings: ReportSettings,
    progress: Progress,
) -> Inside:
    """The attention maps and the layers that the settings ask for, each on the case with most flips of an artifact.

    What an artifact, a network or a runtime cannot show is no error: it is among what is missing, with its reason.

    Args:
        reference: that the artifacts were made from.
        artifacts: to look into.
        scans: in order.
        cases: of the scans, with the figures of every artifact.
        settings: of the report.
        progress: called with what is going on, how much of it is done, and of how much.
    """
    found = Inside()
    if not (settings.attention or settings.layers):
        return found
    for path in artifacts:
        number = _worst_case(path.name, cases)
        scan, case = scans[number], cases[number].name
        if len(cases) > 1:
            asked = [what for what, on in (("maps", settings.attention), ("layers", settings.layers)) if on]
            found.notes.append(f"{' and '.join(asked)} of {path.name} are of {case}, where it has most flips")
        if settings.attention:
            _look(found, f"Attention maps of {path.name}", _maps(reference, path, scan, case, settings, progress))
        if settings.layers:
            _look(found, f"SQNR by layer of {path.name}", _layers(reference, path, scan, settings, progress))
    found.layers.sort(key=lambda one: one.sqnr_db)
    return found


def _look(found: Inside, what: str, seen: Iterator[AttentionPair | LayerFigure | str]) -> None:
    """Keep what one look gives: pictures, figures and notes; or the reason why there are none."""
    try:
        for one in seen:
            if isinstance(one, AttentionPair):
                found.attention.append(one)
            elif isinstance(one, LayerFigure):
                found.layers.append(one)
            else:
                found.notes.append(one)
    except MedattnError as error:
        found.missing.append(NotMeasured(what, error.message))


def _worst_case(name: str, cases: Sequence[Case]) -> int:
    flips = [max((run.flips for run in case.runs if run.artifact == name), default=-1) for case in cases]
    return flips.index(max(flips))


def _runtime(path: Path, settings: ReportSettings) -> str:
    """The first that was named for an .onnx file; empty for the usual one."""
    named = [name for name in settings.runtimes if name != "all"] if path.suffix.lower() == ".onnx" else []
    return named[0] if named else ""


def _maps(
    reference: Path, path: Path, scan: Scan, case: str, settings: ReportSettings, progress: Progress
) -> Iterator[AttentionPair | str]:
    from medattn_edge.evaluation.attention import ExplainSettings, explain

    how = settings.comparison
    wanted = ExplainSettings(
        runtime=_runtime(path, settings),
        threads=how.threads,
        overlap=how.overlap,
        batch=how.batch,
        timeout_s=how.timeout_s,
        source=how.source,
    )

    def report(what: str, done: int, total: int) -> None:
        progress(f"attention maps on {case}: {what}", done, total)

    explanation = explain(reference, scan, path, settings=wanted, progress=report)
    yield from _pairs(explanation, path.name, case)
    assert explanation.source is not None
    yield f"attention maps of {path.name}: {explanation.source.sentence}"
    for note in explanation.notes:
        yield f"attention maps of {path.name}: {note}"


def _pairs(explanation: Explanation, artifact: str, case: str) -> Iterator[AttentionPair | str]:
    """Of every map the slice on which both are furthest apart; of identical ones that with most foreground."""
    from medattn_edge.evaluation.attention.figures import figures_of

    _, figures = figures_of(explanation)
    for figure in figures:
        if figure.agreement is None:  # the labels, of which the report has its own pictures
            continue
        row = figure.rows[-1]
        if len(row.pictures) < 2:
            yield f"{figure.name} of {artifact} is not shown: only the eager network has it"
            continue
        title = f"{figure.name} of {artifact}, {case}, {row.caption}"
        yield AttentionPair(title, row.pictures[0].png, row.pictures[1].png, _figures(figure.agreement))
        if not figure.agreement.finite:
            yield f"{figure.name} of {artifact} has values that are not finite"


def _figures(agreement: MapAgreement) -> dict[str, float]:
    values = {
        "SQNR in dB": agreement.sqnr_db,
        "largest difference": agreement.max_abs,
        "correlation": agreement.correlation,
    }
    return {
        name: float(f"{value:.4g}")
        for name, value in values.items()
        if value is not None and math.isfinite(value) and value < IDENTICAL_DB
    }


def _layers(
    reference: Path, path: Path, scan: Scan, settings: ReportSettings, progress: Progress
) -> Iterator[LayerFigure | str]:
    from medattn_edge.evaluation.bisect import BisectSettings, bisect

    how = settings.comparison
    wanted = BisectSettings(
        runtime=_runtime(path, settings), threads=how.threads, timeout_s=how.timeout_s, source=how.source
    )

    def report(what: str, done: int, total: int) -> None:
        progress(f"layers of {path.name}: {what}", done, total)

    found = bisect(reference, path, scan, settings=wanted, progress=report)
    measured = _LOCAL.format(found.runtime.name)
    for one in found.figures:
        if math.isfinite(one.local_db):
            yield LayerFigure(path.name, one.layer.title, one.precision.upper(), one.local_db, measured)
        else:
            yield f"the layer {one.layer.title} of {path.name} gives no finite values"
    yield from _verdict(found, path.name)


def _verdict(found: Bisection, artifact: str) -> Iterator[str]:
    """What `bisect` says of the layers; its advice is its own."""
    for one in found.leaving:
        yield (
            f"the layer {one.named.title} of {artifact} leaves the reference by itself: {one.local_db:.1f} dB, "
            f"expected {one.limit_db:g}: medattn-edge bisect says why"
        )
    if found.together is not None:
        yield f"the layers of {artifact} up to {found.together.layer.title} are another answer as one graph"
    if found.adds_up:
        yield f"no layer of {artifact} leaves the reference by itself, and what they lose adds up"
    for note in found.notes:
        yield f"layers of {artifact}: {note}"
