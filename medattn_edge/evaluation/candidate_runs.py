"""Candidate runs: every candidate in every runtime chosen for it, those of one graph together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medattn_edge.agreement import Agreement, Thresholds
from medattn_edge.artifact import Artifact, Manifest
from medattn_edge.backends import backend_of
from medattn_edge.backends.runtimes import ALL, Runtime, choose, one_graph_each
from medattn_edge.errors import UsageError
from medattn_edge.evaluation.held_gate import HeldGate
from medattn_edge.io import Scan

_NO_GATE = HeldGate(Thresholds(), None, "usual")


@dataclass
class CandidateRun:
    """One candidate in one runtime, and its outcome.

    Attributes:
        path: the file.
        manifest: what the file says of itself, None for a checkpoint.
        runtime: where it is run.
        name: its own among the runs of one graph.
        optional: it is left out, and not an error, where its runtime turns out not to be here.
        agreements: with the reference, one for each scan that it finished, in order.
        cases: the same as JSON values, with the verdict of each scan.
        failure: why it ended early, empty when it did not.
        gate: that decides about the file; set before anything is run.
    """

    path: Path
    manifest: Manifest | None
    runtime: Runtime
    name: str
    optional: bool
    agreements: list[Agreement] = field(default_factory=list)
    cases: list[dict[str, Any]] = field(default_factory=list)
    failure: str = ""
    gate: HeldGate = _NO_GATE

    def add(self, scan: tuple[Scan, str], agreement: Agreement, judged: Agreement, facts: Mapping[str, Any]) -> None:
        """Keep the outcome of one scan, and hold it to the gate.

        Args:
            scan: with its name for reports.
            agreement: of all labels, for reports.
            judged: of those of which there is something to judge.
            facts: further ones for reports.
        """
        path, name = str(scan[0].path), scan[1]
        failures = self.gate.thresholds.failures(judged)
        self.agreements.append(agreement)
        verdict = "fail" if failures else "pass"
        self.cases.append(
            {"scan": path, "name": name, **agreement.to_json(), **facts, "verdict": verdict, "failures": failures}
        )


def plan_runs(
    paths: Sequence[Path], runtimes: Sequence[str], device: str
) -> tuple[list[list[CandidateRun]], dict[str, str]]:
    """What to run, those of one graph together, and why some runtimes are left out.

    Args:
        paths: the candidates.
        runtimes: names, or `all`, for .onnx files; empty for the usual ones, as `choose` has it.
        device: auto, cpu or cuda:INDEX.

    Raises:
        UsageError: for runtimes without an .onnx candidate, and a candidate that comes twice.
        ArtifactError, HostError: as `Artifact.read` and `choose` do.
    """
    check_files(paths, runtimes)
    left_out: dict[str, str] = {}
    manifests = [None if backend_of(path).name == "eager" else Artifact.read(path).manifest for path in paths]
    by_us = not runtimes or ALL in runtimes
    graphs = []
    for indices in one_graph_each(manifests):
        runs = []
        for index in indices:
            path, manifest = paths[index], manifests[index]
            chosen, absent = choose(path, manifest.precision if manifest else "fp32", runtimes, device)
            left_out |= absent
            suffix = f" ({path})" if len(indices) > 1 else ""
            # ONNX Runtime names providers whose libraries are missing; nobody asked for this one by name.
            runs += [
                CandidateRun(path, manifest, one, one.name + suffix, by_us and bool(one.provider)) for one in chosen
            ]
        graphs.append(runs)
    return graphs, left_out


def check_files(paths: Sequence[Path], runtimes: Sequence[str]) -> None:
    """Raise UsageError for a file that comes twice, and for runtimes of files that none of them may choose."""
    if runtimes and not any(path.suffix.lower() == ".onnx" for path in paths):
        raise UsageError(
            f"--runtime {runtimes[0]} for {paths[0].name}",
            expected="an .onnx file: any other is run by what it was made for",
            hint="leave --runtime out",
        )
    twice = next((path for index, path in enumerate(paths) if path in paths[:index]), None)
    if twice is not None:
        raise UsageError(f"{twice.name} comes twice", expected="each file once", hint="leave it out the second time")
