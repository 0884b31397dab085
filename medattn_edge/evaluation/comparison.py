"""Compare: does a candidate still say what the reference says, in every runtime that may compute it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medattn_edge.agreement import Thresholds
from medattn_edge.artifact import sha256
from medattn_edge.backends import backend_of, open_session
from medattn_edge.backends.isolated import IsolatedSession
from medattn_edge.errors import BackendError, HostError, UsageError
from medattn_edge.evaluation.candidate_runs import CandidateRun, plan_runs
from medattn_edge.evaluation.disagreement import MAX_GAP_DB, Ruling, RuntimeOutcome, judge
from medattn_edge.evaluation.side_by_side import SideBySide, side_by_side
from medattn_edge.evaluation.true_labels import TrueLabels
from medattn_edge.gates import COMPARED
from medattn_edge.host import hardware
from medattn_edge.host.cores import usable_cores
from medattn_edge.inference.cleanup import describe_after
from medattn_edge.inference.judged import JudgedLabels
from medattn_edge.inference.label_audit import LabelAudit
from medattn_edge.inference.segment import SegmentSettings
from medattn_edge.inference.truth import Truth
from medattn_edge.io import Scan, as_scan
from medattn_edge.labels import Meaning
from medattn_edge.spec import ModelSpec

Progress = Callable[[str, int, int], None]  # the scan, windows done, windows in total


@dataclass(frozen=True)
class ComparisonSettings:
    """How candidates are run.

    Attributes:
        device: of the candidates, cpu or cuda:INDEX; the reference runs on the CPU.
        threads: of the CPU, for the reference and each candidate; 0 for as many as there are usable cores.
        timeout_s: of opening, and of one run.
        max_gap_db: SQNR that a runtime may lose to the graph as written.
        overlap: of neighbouring windows.
        batch: windows per run.
        judge_labels: the only labels, or regions, to judge; empty for all. One of which there is nothing to judge in
            any scan is refused.
    """

    device: str = "cpu"
    threads: int = 0
    timeout_s: float = 600.0
    max_gap_db: float = MAX_GAP_DB
    overlap: float = 0.5
    batch: int = 4
    judge_labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """The outcome of every candidate in every runtime.

    Attributes:
        reference: the file.
        candidates: the files, in the order in which they were given.
        thresholds: what every agreement must reach.
        min_dice_ratio: what every true Dice must keep of the reference's, None for nothing.
        max_gap_db: what a runtime may lose to the graph as written.
        graphs: the runs of each graph, in the order of the candidates, and what the gate says of its runtimes.
        left_out: runtime -> why it was not run.
        notes: what a reader of the figures should know.
        audits: of each file of true labels, in order.
    """

    reference: Path
    candidates: tuple[Path, ...]
    thresholds: Thresholds
    min_dice_ratio: float | None
    max_gap_db: float
    graphs: tuple[tuple[tuple[CandidateRun, ...], Ruling], ...]
    left_out: Mapping[str, str]
    notes: tuple[str, ...] = ()
    audits: tuple[LabelAudit, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every candidate reached the thresholds in every runtime, and none is refused."""
        return all(row["verdict"] == "pass" for row in self._rows())

    def to_json(self) -> dict[str, Any]:
        """The document of `compare --json`."""
        ratio = self.min_dice_ratio
        return {
            "reference": str(self.reference),
            "thresholds": self.thresholds.to_json() | ({} if ratio is None else {"min_dice_ratio": ratio}),
            "verdict": "pass" if self.passed else "fail",
            "candidates": self._rows(),
            "runtimes": [self._graph(runs, ruling) for runs, ruling in self.graphs],
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
            "label_audits": [audit.to_json() for audit in self.audits],
            "instruction_sets": list(hardware.cpu().instruction_sets),
        }

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for runs, ruling in self.graphs:
            for one, verdict in zip(runs, ruling.rows, strict=True):
                failures = [verdict.reason] if verdict.refused else []
                passed = not failures and all(case["verdict"] == "pass" for case in one.cases)
                rows.append(
                    {
                        "artifact": str(one.path),
                        "backend": one.runtime.name,
                        "verdict": "pass" if passed else "fail",
                        "failures": failures,
                        "cases": one.cases,
                    }
                )
        return sorted(rows, key=lambda row: self.candidates.index(Path(row["artifact"])))

    def _graph(self, runs: Sequence[CandidateRun], ruling: Ruling) -> dict[str, Any]:
        document = ruling.to_json()
        document["rows"] = [
            {**row, "backend": one.runtime.name, "artifact": str(one.path)}
            for one, row in zip(runs, document["rows"], strict=True)
        ]
        return {"artifact": str(runs[0].path), "max_gap_db": self.max_gap_db, **document}


_USUAL = ComparisonSettings()
_SAME_LABELS = COMPARED.thresholds


def compare(  # noqa: PLR0913 - each is one thing that a comparison is given
    reference: Path | str,
    candidates: Sequence[Path | str],
    scans: Sequence[Path | str | Scan],
    *,
    labels: TrueLabels | Sequence[Path] = (),
    thresholds: Thresholds = _SAME_LABELS,
    runtimes: Sequence[str] = (),
    settings: ComparisonSettings = _USUAL,
    progress: Progress | None = None,
) -> Comparison:
    """Compare candidates with the reference on scans, each candidate in a process of its own.

    A candidate whose runtime crashes, hangs or computes another graph is refused and stops no other.

    Args:
        reference: the checkpoint (eager FP32), or an artifact.
        candidates: artifacts, or checkpoints.
        scans: each a file of any format, a folder of DICOM files or a DICOMDIR, several of these joined
            by `+` for the channels of a network, or a Scan.
        labels: true labels, one file for each scan.
        thresholds: what every agreement must reach.
        runtimes: of .onnx candidates: names, or `all`; empty for all there are for int8 and fp16, and the usual one for
            fp32.
        settings: how they are run.
        progress: called with the scan's name, the windows done and the windows in total of all sessions.

    Raises:
        UsageError: for what cannot be compared: no candidate or scan, specs that differ, labels that do not fit.
        ScanError: there is nothing to judge of a label: the reference finds it nowhere, the true labels have none of
            it, or the reference's own true Dice is near 0.
        InputError, IntegrityError: for files that cannot be used.
        HostError: for a runtime that was asked for by name and is not here.
    """
    reference, truth = Path(reference), labels if isinstance(labels, TrueLabels) else TrueLabels(labels)
    found = [as_scan(scan) for scan in scans]
    if not candidates or not found:
        raise UsageError(
            f"{len(candidates)} candidate(s) and {len(found)} scan(s)",
            expected="at least one of each",
            hint="medattn-edge compare CHECKPOINT NET.onnx SCAN.nii.gz",
        )
    truth.check(len(found))
    files = tuple(Path(path) for path in candidates)
    plan, left_out = plan_runs(files, runtimes, settings.device)
    graphs, notes = list[tuple[tuple[CandidateRun, ...], Ruling]](), list[str]()
    audits = list[LabelAudit]()
    for runs in plan:
        graph = _Graph(runs, reference, settings, left_out, notes)
        graph.run(found, truth, thresholds, progress or (lambda scan, done, total: None))
        audits = graph.audits or audits
        outcomes = [
            RuntimeOutcome(one.name, tuple(one.agreements), one.failure, one.runtime.as_written) for one in graph.runs
        ]
        graphs.append((tuple(graph.runs), judge(outcomes, settings.max_gap_db)))
    return Comparison(
        reference=reference,
        candidates=files,
        thresholds=thresholds,
        min_dice_ratio=truth.min_dice_ratio,
        max_gap_db=settings.max_gap_db,
        graphs=tuple(graphs),
        left_out=left_out,
        notes=tuple(notes),
        audits=tuple(audits),
    )


class _Graph:
    """The runs of one graph: all open at a time, so that the reference runs once for all of them."""

    def __init__(
        self,
        runs: Sequence[CandidateRun],
        reference: Path,
        settings: ComparisonSettings,
        left_out: dict[str, str],
        notes: list[str],
    ) -> None:
        """left_out, notes: are added to."""
        self.runs = list(runs)
        self._reference, self._settings, self._left_out, self._notes = reference, settings, left_out, notes
        self._threads = settings.threads or usable_cores()
        self.audits: list[LabelAudit] = []

    def run(self, scans: Sequence[Scan], truth: TrueLabels, thresholds: Thresholds, progress: Progress) -> None:
        """Fill in the outcome of each run; one whose runtime turns out not to be here is taken out."""
        settings = SegmentSettings(self._settings.overlap, self._settings.batch)
        with ExitStack() as stack:
            sessions = self._opened(stack)
            if not sessions:
                return
            spec = self._spec()
            reference = stack.enter_context(open_session(self._reference, threads=self._threads, spec=spec))
            meaning = Meaning.of(reference.spec)
            judged = JudgedLabels(meaning, self._settings.judge_labels)
            self._notes += [note for note in describe_after(reference.spec) if note not in self._notes]
            for index, scan in enumerate(scans):
                volume, name = scan.read_for(reference.spec), scan.described(reference.spec)
                true_labels = truth.read(index, volume, meaning)
                if true_labels is not None:
                    self.audits.append(true_labels.audit)
                    judged.add_truth(true_labels.audit)
                if index == len(scans) - 1:
                    judged.check_truth()  # before the last scan is run: what is absent from all files is known now
                seen = side_by_side(
                    reference,
                    sessions,
                    volume,
                    settings,
                    lambda done, total, name=name: progress(name, done, total),  # type: ignore[misc]
                )
                for failed, error in seen.failed.items():
                    next(one for one in self.runs if one.name == failed).failure = f"{error.found}, on {name}"
                    sessions.pop(failed).close()
                self._keep(seen, (scan, name), truth, true_labels, thresholds, judged)
                if not sessions:
                    return
        if truth.files or thresholds.min_dice is not None:
            judged.check("the scan" if len(scans) == 1 else f"the {len(scans)} scans", "give a scan that has it")

    def _keep(
        self,
        seen: SideBySide,
        scan: tuple[Scan, str],
        truth: TrueLabels,
        true_labels: Truth | None,
        thresholds: Thresholds,
        judged: JudgedLabels,
    ) -> None:
        """scan: and its name for reports."""
        right = None if true_labels is None else true_labels.labels
        omitted = judged.add(seen.labels.voxels, None if right is None else right.voxels)
        names = [name for name in judged.names if name not in omitted]
        for one in self.runs:
            if one.name in seen.agreed:
                agreement, labels = seen.agreed[one.name]
                true_dice, lost = truth.judge(right, seen.labels, labels, seen.meaning, names)
                judged.add_found(agreement.dice)
                failures = thresholds.failures(agreement.limited_to(judged.names)) + lost
                one.add(scan, agreement, {**true_dice, "not_judged": omitted}, failures)

    def _opened(self, stack: ExitStack) -> dict[str, IsolatedSession]:
        sessions: dict[str, IsolatedSession] = {}
        for one in list(self.runs):
            try:
                session = one.runtime.open(one.path, self._threads, self._settings.timeout_s)
                sessions[one.name] = stack.enter_context(session)
            except BackendError as error:
                one.failure = error.found
            except HostError as error:
                if not one.optional:
                    raise
                self._left_out[one.name] = error.found
                self.runs.remove(one)
                if not self.runs:  # a candidate that nobody ran would pass
                    raise
        return sessions

    def _spec(self) -> ModelSpec | None:
        """The candidate's when it was made from the reference: the checkpoint may say less, or another patch."""
        candidate = self.runs[0]
        if backend_of(self._reference).name != "eager" or candidate.manifest is None:
            return None
        if sha256(self._reference) not in candidate.manifest.lineage:
            self._notes.append(f"{candidate.path.name} was not made from {self._reference.name}")
            return None
        return candidate.manifest.spec
