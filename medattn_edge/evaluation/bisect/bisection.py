"""Bisect: in which layer does a candidate first leave its reference?"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medattn_edge.agreement import Agreement
from medattn_edge.artifact import Artifact
from medattn_edge.backends.parts import PartRunner
from medattn_edge.backends.runtimes import AS_WRITTEN, Runtime
from medattn_edge.backends.session import Patches
from medattn_edge.evaluation.bisect.causes import Causes
from medattn_edge.evaluation.bisect.chain import Chain, Progress
from medattn_edge.evaluation.bisect.figures import LayerFigures
from medattn_edge.evaluation.bisect.matching import matched
from medattn_edge.evaluation.bisect.onnx_cut import OnnxCut
from medattn_edge.evaluation.bisect.opening import check_matched, cut_of, openable, runtime_of
from medattn_edge.evaluation.bisect.reference import ReferenceGraph, reference_graph
from medattn_edge.evaluation.bisect.whole import lost_together, run_whole
from medattn_edge.gates import LAYER
from medattn_edge.host.cores import usable_cores
from medattn_edge.inference.samples import sample_patches
from medattn_edge.io import as_scan
from medattn_edge.io.channels import AnyScan
from medattn_edge.precision.observe import batched
from medattn_edge.precision.onnx_graph import read

if TYPE_CHECKING:
    from medattn_edge.foreign import SourceOptions


@dataclass(frozen=True, kw_only=True)
class BisectSettings:
    """How to bisect.

    Attributes:
        runtime: of the candidate, for an .onnx file; empty for the usual one: ONNX Runtime, for FP16 as it is written.
        samples: patches of the scan.
        threads: of the CPU; 0 for as many as there are usable cores.
        timeout_s: of opening and running one layer.
        source: how to read a reference that is no artifact, as it was said to `export`.
        beside: SHA-256 -> what to type, of files that are named where the candidate cannot be cut: those of its
            release. What lies in its own folder is found there.
    """

    runtime: str = ""
    samples: int = 2
    threads: int = 0
    timeout_s: float = 600.0
    source: SourceOptions | None = None
    beside: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Bisection:
    """Where a candidate leaves its reference.

    Attributes:
        reference: the file.
        candidate: the file.
        scan: its name for reports.
        runtime: of the candidate.
        figures: of each layer, in the order of their data.
        whole: the agreement of the whole candidate with the reference, on the same patches; None where it crashed.
        apart_db: SQNR of the whole candidate against its own layers run one by one; None where it crashed.
        together: the first layer up to which all run as one graph is another answer than one by one; None where there
            is none.
        failure: how the whole candidate failed, empty when it did not.
        matched: layers that both graphs have, and those of the reference.
        notes: what a reader of the figures should know.
        parent: the reference as an ONNX artifact; gone with the run where it was exported for it.
        patches: of the scan, float32 (n, C, *patch).
    """

    reference: Path
    candidate: Artifact
    scan: str
    runtime: Runtime
    figures: tuple[LayerFigures, ...]
    whole: Agreement | None
    apart_db: float | None
    together: LayerFigures | None
    failure: str
    matched: tuple[int, int]
    notes: tuple[str, ...]
    parent: ReferenceGraph
    patches: Patches

    @property
    def runs(self) -> list[Patches]:
        """The patches as they are run, float32 (N, C, *patch) each."""
        return batched([patch[None] for patch in self.patches], self.candidate.manifest.batch)

    @property
    def leaving(self) -> tuple[LayerFigures, ...]:
        """The layers that leave the reference by themselves, the largest local error first."""
        found = [one for one in self.figures if one.leaves]
        return tuple(sorted(found, key=lambda one: -math.inf if one.failure else one.local_db))

    @property
    def first(self) -> LayerFigures | None:
        """The first layer that leaves, in the order of the data."""
        return next((one for one in self.figures if one.leaves), self.together)

    @property
    def adds_up(self) -> bool:
        """Whether no layer leaves and the logits are lost all the same."""
        lost = self.whole is None or not self.whole.sqnr_db >= LAYER.limits["min_int8_db"]
        return not self.leaving and self.together is None and lost

    @property
    def passed(self) -> bool:
        """Whether nothing leaves the reference."""
        return not self.leaving and self.together is None and not self.adds_up

    def to_json(self) -> dict[str, Any]:
        """The document of `bisect --json`."""
        first = self.first
        return {
            "reference": str(self.reference),
            "candidate": str(self.candidate.path),
            "precision": self.candidate.manifest.precision,
            "runtime": self.runtime.name,
            "scan": self.scan,
            "verdict": "pass" if self.passed else "fail",
            "first": None if first is None else first.named.title,
            "leaving": [one.named.title for one in self.leaving],
            "together": None if self.together is None else self.together.layer.title,
            "adds_up": self.adds_up,
            "layers": [one.to_json() for one in self.figures],
            "whole": None if self.whole is None else self.whole.to_json(),
            "whole_against_layers_db": self.apart_db if math.isfinite(self.apart_db or 0.0) else None,
            "failure": self.failure,
            "matched_layers": self.matched[0],
            "reference_layers": self.matched[1],
            "thresholds": dict(LAYER.limits),
            "notes": list(self.notes),
        }


_USUAL = BisectSettings()


def bisect(
    reference: Path | str,
    candidate: Path | str,
    scan: AnyScan,
    *,
    settings: BisectSettings = _USUAL,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Bisection:
    """Say in which layer a candidate first leaves its reference on a scan.

    The candidate's graph is cut into layers. Each is run in the candidate's runtime as a graph of its own: fed with the
    reference's values, which gives its local error, and with the candidate's, which gives what has added up. No runtime
    is asked for the tensors inside the whole graph: it would compute another one.

    Args:
        reference: what export was given (checkpoint, ONNX, program, bundle, ...), or an .onnx artifact.
        candidate: an .onnx artifact in FP32, FP16 or INT8, or OpenVINO's .xml.
        scan: a path of whatever `as_scan` takes, or a Scan.
        settings: how.
        folder: where a reference that is no artifact is exported to; by default a temporary one.
        progress: called with the layer, how many are done, and of how many.

    Returns:
        The figures of every layer, and what leaves.

    Raises:
        UsageError: files that cannot be cut, or a runtime that is not the candidate's.
        InputError: a candidate that has too few layers in common with the reference.
        ScanError: a scan that cannot be used.
        BackendError: a reference that cannot be run.
        AgreementError: a reference whose export is not what it computes.
    """
    report = progress or (lambda what, done, total: None)
    chosen = openable(Path(candidate), Path(reference), settings.beside)
    runtime = runtime_of(chosen, settings.runtime)
    opened = as_scan(scan)
    patches = sample_patches(opened.read_for(chosen.spec), chosen.spec, settings.samples)
    name = opened.described(chosen.spec)
    runs = batched([patch[None] for patch in patches], chosen.manifest.batch)
    threads = settings.threads or usable_cores()
    with tempfile.TemporaryDirectory() as scratch:
        report("reading the reference", 0, 1)
        source = reference_graph(Path(reference), chosen, settings.source, {name: patches}, Path(folder or scratch))
        graph, other = OnnxCut(read(source.artifact.path)), cut_of(chosen)
        pairs = matched(graph, other)
        matching = check_matched(graph, pairs, (Path(reference).name, chosen.path.name))
        causes = Causes(graph, other if isinstance(other, OnnxCut) else None, pairs)
        with PartRunner(runtime, threads, settings.timeout_s) as runner:
            chain = Chain(graph, other, pairs, runner, Path(scratch))
            figures = [causes.explained(one) for one in chain.measure(runs, report)]
            report("the whole candidate", 0, 1)
            limits = threads, settings.timeout_s
            outcome = run_whole(source.artifact, chosen, runtime, runs, chain.logits, limits)
            together = lost_together(chain, figures, outcome, runs)
    notes = [*source.notes, *(f"{name}: {note}" for note in opened.notes())]
    if chosen.manifest.precision == "fp16" and runtime.name == AS_WRITTEN:
        notes.append("FP16 on a CPU: layers are computed in FP32, and what stands between them is rounded to halves")
    return Bisection(
        reference=Path(reference),
        candidate=chosen,
        scan=name,
        runtime=runtime,
        figures=tuple(figures),
        whole=outcome.agreement,
        apart_db=outcome.apart_db,
        together=together,
        failure=outcome.failure,
        matched=matching,
        notes=tuple(notes),
        parent=source,
        patches=patches,
    )
