"""Checks: what was asked before the run, and whether it was reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medattn_edge.backends.runtimes import AS_WRITTEN
from medattn_edge.evaluation.held_gate import held_text
from medattn_edge.evaluation.report import lateness, meets_deadline
from medattn_edge.evidence.records import Case, Check
from medattn_edge.gates import DEADLINE

Row = Mapping[str, Any]


def agreement_check(runs: Sequence[Row], cases: Sequence[Case]) -> Check:
    """Whether every artifact keeps the reference's answer in every runtime.

    Args:
        runs: rows of a comparison, with the names that the report uses.
        cases: with the figures of every run.
    """
    gates: dict[str, list[str]] = {}
    for row in runs:
        files = gates.setdefault(held_text(row["thresholds"], row["gate"]), [])
        if row["artifact"] not in files:
            files.append(row["artifact"])
    asked = "; ".join(f"{', '.join(files)}: {text}" if len(gates) > 1 else text for text, files in gates.items())
    failures = [f"{row['artifact']} in {row['backend']}: {why}" for row in runs for why in row["failures"]]
    failures += [
        f"{run.artifact} in {run.backend} on {case.name}: {why}"
        for case in cases
        for run in case.runs
        for why in run.failures
    ]
    held = sum(row["verdict"] == "pass" for row in runs)
    scans = "the scan" if len(cases) == 1 else f"all {len(cases)} scans"
    found = f"{held} of {len(runs)} pairs of artifact and runtime held it on {scans}"
    return Check("The answer", "pass" if runs and held == len(runs) else "fail", asked, found, tuple(failures))


def timed_check(rows: Sequence[Row]) -> Check:
    """Whether the answers that were timed were right as well; the reference is among the rows."""
    failures = [f"{row['artifact']} in {row['backend']}: {why}" for row in rows for why in row["failures"]]
    held = sum(row["verdict"] == "pass" for row in rows)
    return Check(
        "The answer while it was timed",
        "fail" if failures else "pass",
        "each file's gate on the patches that were timed, finite logits on noise, and the same answer again afterwards",
        f"{held} of {len(rows)} rows held it",
        tuple(failures),
    )


def deadline_check(artifacts: Sequence[str], rows: Sequence[Row] | None, deadline_ms: float) -> Check:
    """Whether every artifact meets a deadline in one runtime at least; what was not timed has not met it.

    Args:
        artifacts: file names.
        rows: of the measurement; None where nothing was timed.
        deadline_ms: of one run.
    """
    limit = DEADLINE.limits["max_miss_rate"]
    asked = f"one run takes {deadline_ms:g} ms at most, but for {100 * limit:g} % of them, in one runtime at least"
    failures, met = list[str](), list[str]()
    for name in artifacts:
        timed = [row for row in rows or () if row["artifact"] == name and row["p99_ms"] is not None]
        timed = [row for row in timed if row["backend"] != AS_WRITTEN]
        if not timed:
            failures.append(f"{name} was not timed")
            continue
        best = min(timed, key=lambda row: (row["miss_rate"], row["p99_ms"]))
        figures = f"{name} in {best['backend']}: p99 {best['p99_ms']:.4g} ms, {lateness(best)}"
        (met if meets_deadline(best) else failures).append(figures)
    found = "; ".join(met) or "no artifact meets it"
    return Check("The deadline", "fail" if failures else "pass", asked, found, tuple(failures))
