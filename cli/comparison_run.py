"""Running a comparison: every candidate in every runtime chosen for it, each in a process of its own."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medattn_edge.errors import BackendError, HostError, UsageError

from . import console

if TYPE_CHECKING:
    from medattn_edge.agreement import Agreement, Thresholds
    from medattn_edge.artifact import Manifest
    from medattn_edge.backends.runtimes import Runtime
    from medattn_edge.backends.session import Session
    from medattn_edge.inference import SegmentSettings
    from medattn_edge.volume import Volume


class Truth:
    """True labels, when there are any, and how much of the reference's Dice a candidate must keep."""

    def __init__(self, paths: list[Path], values: dict[str, list[int]], ratio: float | None) -> None:
        self.paths, self.values, self.ratio = paths, values, ratio

    def read(self, index: int, scan: Volume, names: tuple[str, ...]) -> Volume | None:
        """The true labels of a scan, in the network's numbers and the scan's grid."""
        from medattn_edge.inference.truth import read_true_labels

        return read_true_labels(self.paths[index], scan, names, self.values) if self.paths else None

    def judge(
        self, truth: Volume | None, expected: Volume, found: Volume, names: tuple[str, ...]
    ) -> tuple[dict[str, Any], list[str]]:
        """The true Dice of both for the report, and what the candidate lost of it."""
        from medattn_edge.agreement import dice_per_label

        if truth is None:
            return {}, []
        before, after = (dice_per_label(truth.voxels, labels.voxels, names) for labels in (expected, found))
        lost = [
            f"true Dice of {name} is {after[name]:.6f}, below {self.ratio:g} of the reference's {before[name]:.6f}"
            for name in before
            if self.ratio is not None and not after[name] >= self.ratio * before[name]
        ]
        return {"reference_dice": before, "candidate_dice": after}, lost


@dataclass(frozen=True)
class Task:
    """What every candidate goes through."""

    reference: Path
    scans: list[Path]
    gate: Thresholds
    truth: Truth
    settings: SegmentSettings
    threads: int
    timeout_s: float


@dataclass
class Entry:
    """One candidate in one runtime, and its outcome. name: one of its own among those of one graph."""

    path: Path
    manifest: Manifest | None
    runtime: Runtime
    name: str
    chosen: bool  # by us, and not by name
    agreements: list[Agreement] = field(default_factory=list)
    cases: list[dict[str, Any]] = field(default_factory=list)
    failure: str = ""


def entries(paths: list[Path], asked: list[str], device: str) -> tuple[list[list[Entry]], dict[str, str]]:
    """What to run, those of one graph together, and which runtimes are left out for which reason."""
    from medattn_edge.artifact import Artifact
    from medattn_edge.backends import backend_of
    from medattn_edge.backends.runtimes import ALL, choose, one_graph_each

    if asked and not any(path.suffix.lower() == ".onnx" for path in paths):
        raise UsageError(
            f"--runtime {asked[0]} for {paths[0].name}",
            expected="an .onnx candidate: any other is run by what it was made for",
            hint="leave --runtime out",
        )
    if len(set(paths)) != len(paths):
        raise UsageError("a candidate comes twice", expected="each file once", hint="leave it out the second time")
    left_out: dict[str, str] = {}
    manifests = [None if backend_of(path).name == "eager" else Artifact.read(path).manifest for path in paths]
    groups = []
    for indices in one_graph_each(manifests):
        group = []
        for index in indices:
            path, manifest = paths[index], manifests[index]
            runtimes, absent = choose(path, manifest.precision if manifest else "fp32", asked, device)
            left_out |= absent
            suffix = f" ({path})" if len(indices) > 1 else ""
            auto = not asked or ALL in asked
            group += [Entry(path, manifest, one, one.name + suffix, auto) for one in runtimes]
        groups.append(group)
    return groups, left_out


def run(group: list[Entry], task: Task, left_out: dict[str, str]) -> None:
    """Fill in the outcome of each entry; one whose runtime turns out not to be here is taken out."""
    from medattn_edge.backends import open_session
    from medattn_edge.evaluation.side_by_side import side_by_side
    from medattn_edge.io import read_scan

    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        for one in list(group):
            try:
                sessions[one.name] = stack.enter_context(one.runtime.open(one.path, task.threads, task.timeout_s))
            except BackendError as error:
                one.failure = error.found
            except HostError as error:
                # ONNX Runtime names providers whose libraries are missing; nobody asked for this one by name.
                if not one.chosen or not one.runtime.provider:
                    raise
                left_out[one.name] = error.found
                group.remove(one)
        if not sessions:
            return
        spec = _spec_for(task.reference, group[0])
        reference = stack.enter_context(open_session(task.reference, threads=task.threads, spec=spec))
        for index, path in enumerate(task.scans):
            volume = read_scan(path)
            with console.progress(path.name) as progress:
                seen = side_by_side(reference, sessions, volume, task.settings, progress)
            truth = task.truth.read(index, volume, reference.spec.labels)
            for one in group:
                if one.name in seen.failed:
                    one.failure = f"{seen.failed[one.name].found}, on {path.name}"
                    sessions.pop(one.name).close()
                elif one.name in seen.agreed:
                    agreement, found = seen.agreed[one.name]
                    one.agreements.append(agreement)
                    extra, lost = task.truth.judge(truth, seen.labels, found, reference.spec.labels)
                    one.cases.append(_case(path, agreement, extra, task.gate.failures(agreement) + lost))
            if not sessions:
                return


def _case(path: Path, agreement: Agreement, extra: dict[str, Any], failures: list[str]) -> dict[str, Any]:
    verdict = "fail" if failures else "pass"
    return {"scan": str(path), **agreement.to_json(), **extra, "verdict": verdict, "failures": failures}


def _spec_for(reference: Path, candidate: Entry) -> Any:
    """The candidate's spec when it was made from the reference: the checkpoint may say less, or another patch."""
    from medattn_edge.artifact import sha256
    from medattn_edge.backends import backend_of

    if backend_of(reference).name != "eager" or candidate.manifest is None:
        return None
    if sha256(reference) not in candidate.manifest.lineage:
        console.note(f"{candidate.path.name} was not made from {reference.name}")
        return None
    return candidate.manifest.spec
