"""Compare: does a candidate still say what the reference says, in every runtime that may compute it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medattn_edge.agreement import Thresholds
from medattn_edge.artifact import sha256
from medattn_edge.backends import AUTO, backend_of, open_session
from medattn_edge.backends.isolated import IsolatedSession
from medattn_edge.backends.session import Session
from medattn_edge.errors import BackendError, HostError, UsageError
from medattn_edge.evaluation.candidate_runs import CandidateRun, plan_runs
from medattn_edge.evaluation.disagreement import MAX_GAP_DB, Ruling, RuntimeOutcome, judge
from medattn_edge.evaluation.held_gate import held_gate, usual_gate
from medattn_edge.evaluation.reference_cache import ReferenceCache
from medattn_edge.evaluation.seen_scan import Observer, SeenScan
from medattn_edge.evaluation.side_by_side import SideBySide, side_by_side
from medattn_edge.evaluation.source import read_source
from medattn_edge.evaluation.true_labels import TrueLabels, with_true_dice
from medattn_edge.file_gate import FileGate
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

if TYPE_CHECKING:
    from medattn_edge.foreign import SourceOptions

Progress = Callable[[str, int, int], None]  # the scan, windows done, windows in total


@dataclass(frozen=True)
class ComparisonSettings:
    """How candidates are run.

    Attributes:
        device: of the candidates, auto (what each file is for), cpu or cuda:INDEX; the reference runs on the CPU.
        threads: of the CPU, for the reference and each candidate; 0 for as many as there are usable cores.
        timeout_s: of opening, and of one run.
        max_gap_db: SQNR that a runtime may lose to the graph as written.
        overlap: of neighbouring windows; None: of each candidate its own, and of the reference the checkpoint's.
        batch: windows per run.
        source: how to read a reference that is no artifact, as it was said to `export`; None: nothing need be said.
        judge_labels: the only labels, or regions, to judge; empty for all. One of which there is nothing to judge in
            any scan is refused.
        cache: of the reference's logits of whole scans, for several comparisons; None: it is run every time.
    """

    device: str = AUTO
    threads: int = 0
    timeout_s: float = 600.0
    max_gap_db: float = MAX_GAP_DB
    overlap: float | None = None
    batch: int = 4
    source: SourceOptions | None = None
    judge_labels: tuple[str, ...] = ()
    cache: ReferenceCache | None = None


@dataclass(frozen=True)
class Comparison:
    """The outcome of every candidate in every runtime.

    Attributes:
        reference: the file.
        candidates: the files, in the order in which they were given.
        thresholds: what a candidate that carries no gate must reach on every scan.
        max_gap_db: what a runtime may lose to the graph as written.
        graphs: the runs of each graph, in the order of the candidates, and what the gate says of its runtimes.
        left_out: runtime -> why it was not run.
        notes: what a reader of the figures should know.
        audits: of each file of true labels, in order.
    """

    reference: Path
    candidates: tuple[Path, ...]
    thresholds: Thresholds
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
        return {
            "reference": str(self.reference),
            "thresholds": self.thresholds.to_json(),
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
                        "device": one.runtime.device,
                        "verdict": "pass" if passed else "fail",
                        "failures": failures,
                        "thresholds": one.gate.thresholds.to_json(),
                        "gate": one.gate.origin,
                        "carried_gate": None if one.gate.carried is None else one.gate.carried.to_json(),
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
_AS_USUAL = Thresholds()


def compare(  # noqa: PLR0913 - each is one thing that a comparison is given
    reference: Path | str,
    candidates: Sequence[Path | str],
    scans: Sequence[Path | str | Scan],
    *,
    labels: TrueLabels | Sequence[Path] = (),
    thresholds: Thresholds = _AS_USUAL,
    runtimes: Sequence[str] = (),
    settings: ComparisonSettings = _USUAL,
    progress: Progress | None = None,
    observer: Observer | None = None,
) -> Comparison:
    """Compare candidates with the reference on scans, each candidate in a process of its own.

    A candidate whose runtime crashes, hangs or computes another graph is refused and stops no other.

    Args:
        reference: the checkpoint (eager FP32), an artifact, or any other source that `export` takes.
        candidates: artifacts, or checkpoints.
        scans: each a file of any format, a folder of DICOM files or a DICOMDIR, several of these joined
            by `+` for the channels of a network, or a Scan.
        labels: true labels, one file for each scan: both thresholds of `gates.TRUE_LABELS` are then held.
        thresholds: more than the gate that a candidate carries; its limits of Dice that are None are the candidate's
            own, or the usual ones where it carries none (see `evaluation.held_gate`).
        runtimes: of .onnx candidates: names, or `all`; empty for all there are for int8 and fp16, and the usual one for
            fp32.
        settings: how they are run.
        progress: called with the scan's name, the windows done and the windows in total of all sessions.
        observer: called with the labels of every scan, once for each graph; they are not kept.

    Raises:
        UsageError: for what cannot be compared: no candidate or scan, specs that differ, labels that do not fit;
            for a threshold that is looser than the gate that a candidate carries.
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
    given, usual = replace(thresholds, **truth.asked), usual_gate(bool(truth.files))
    truth, notes = _gated([one for runs in plan for one in runs], truth, given, usual)
    graphs, audits = list[tuple[tuple[CandidateRun, ...], Ruling]](), list[LabelAudit]()
    for runs in plan:
        graph = _Graph(runs, reference, settings, left_out, notes)
        graph.observer = observer
        graph.run(found, truth, progress or (lambda scan, done, total: None))
        audits = graph.audits or audits
        graphs += [(tuple(same), _judged(same, settings.max_gap_db)) for same in _same_windows(graph.runs)]
    return Comparison(
        reference=reference,
        candidates=files,
        thresholds=Thresholds(**{**usual.to_json(), **given.to_json()}),
        max_gap_db=settings.max_gap_db,
        graphs=tuple(graphs),
        left_out=left_out,
        notes=tuple(notes),
        audits=tuple(audits),
    )


def _gated(
    runs: Sequence[CandidateRun], truth: TrueLabels, given: Thresholds, usual: Thresholds
) -> tuple[TrueLabels, list[str]]:
    """Give every run the gate of its file; the true labels with the values that the files carry, and notes."""
    notes, gates = list[str](), dict[str, FileGate | None]()
    for one in runs:
        one.gate = held_gate(one.path, one.manifest, given, usual, bool(truth.files))
        gates[one.path.name] = one.gate.carried
        notes += [note for note in one.gate.notes if note not in notes]
    truth, more = truth.with_carried(gates)
    return truth, notes + more


def _same_windows(runs: Sequence[CandidateRun]) -> list[list[CandidateRun]]:
    """Runs of one graph, those of the same windows together: what runtimes make of it differs for no other reason."""
    found: dict[float | None, list[CandidateRun]] = {}
    for one in runs:
        found.setdefault(None if one.manifest is None else one.manifest.spec.overlap, []).append(one)
    return list(found.values())


def _judged(runs: Sequence[CandidateRun], max_gap_db: float) -> Ruling:
    outcomes = [RuntimeOutcome(one.name, tuple(one.agreements), one.failure, one.runtime.as_written) for one in runs]
    return judge(outcomes, max_gap_db)


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
        self.observer: Observer | None = None

    def run(self, scans: Sequence[Scan], truth: TrueLabels, progress: Progress) -> None:
        """Fill in the outcome of each run; one whose runtime turns out not to be here is taken out."""
        settings = SegmentSettings(self._settings.overlap, self._settings.batch)
        with ExitStack() as stack:
            sessions = self._opened(stack)
            if not sessions:
                return
            reference = stack.enter_context(self._opened_reference())
            meaning = Meaning.of(reference.spec)
            judged = JudgedLabels(meaning, self._settings.judge_labels)
            self._notes += [note for note in describe_after(reference.spec) if note not in self._notes]
            for index, scan in enumerate(scans):
                volume, name = scan.read_for(reference.spec), scan.described(reference.spec)
                remarks = [f"{name}: {note}" for note in scan.notes()]
                self._notes += [note for note in remarks if note not in self._notes]
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
                    self._settings.cache,
                )
                for failed, error in seen.failed.items():
                    next(one for one in self.runs if one.name == failed).failure = f"{error.found}, on {name}"
                    sessions.pop(failed).close()
                self._keep(seen, (scan, name), true_labels, judged)
                if self.observer is not None:
                    right = None if true_labels is None else true_labels.labels
                    labels = {
                        (one.path, one.runtime.name): seen.agreed[one.name][1]
                        for one in self.runs
                        if one.name in seen.agreed
                    }
                    about = (
                        volume,
                        seen.meaning,
                        seen.labels,
                        right,
                        labels,
                        reference.spec.intensity,
                        reference.spec.codes,
                    )
                    self.observer(SeenScan(index, scan, name, *about))
                if not sessions:
                    return
        if truth.files or any(one.gate.thresholds.min_dice for one in self.runs):  # every Dice reaches a gate of 0
            judged.check("the scan" if len(scans) == 1 else f"the {len(scans)} scans", "give a scan that has it")

    def _keep(self, seen: SideBySide, scan: tuple[Scan, str], true_labels: Truth | None, judged: JudgedLabels) -> None:
        """scan: and its name for reports."""
        right = None if true_labels is None else true_labels.labels
        omitted = judged.add(seen.labels.voxels, None if right is None else right.voxels)
        names = [name for name in judged.names if name not in omitted]
        for one in self.runs:
            if one.name in seen.agreed:
                agreement, labels = seen.agreed[one.name]
                judged.add_found(agreement.dice)
                agreement = with_true_dice(agreement, right, seen.labels, labels, seen.meaning)
                one.add(scan, agreement, agreement.limited_to(judged.names, names), {"not_judged": omitted})

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

    def _opened_reference(self) -> Session:
        """The reference under the candidate's spec where that was made from it."""
        source = read_source(self._reference, self._settings.source, self.runs[0].manifest)
        if source is None:
            return open_session(self._reference, threads=self._threads, spec=self._spec())
        self._notes += [note for note in source.notes if note not in self._notes]
        return source.open(self._threads)

    def _spec(self) -> ModelSpec | None:
        """The candidate's when it was made from the reference: the checkpoint may say less, or another patch."""
        candidate = self.runs[0]
        if backend_of(self._reference).name != "eager" or candidate.manifest is None:
            return None
        if sha256(self._reference) not in candidate.manifest.lineage:
            self._notes.append(f"{candidate.path.name} was not made from {self._reference.name}")
            return None
        return candidate.manifest.reference_spec
